"""Tags for the words or the characters of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..activations import Activation
from ..checking import check_choice
from ..declarations import recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Inputs
from ..model import PerceiverIO
from ..objectives import Tags
from ..outputs import Outputs, Project
from ..positions import Start
from ..queries import Queries
from . import _text
from ._shared import LABELS_SOURCE


def _objective(model: PerceiverIO | None = None) -> Tags:
    return Tags("tags", names=model.labels.get("tags", ()) if model is not None else ())


@recipe(
    presets=dict(
        base=_text.BASE,
        tiny=_text.SMALL,
        quick=_text.SMALL
        | dict(
            channels=64, ngrams=(3, 5), convolutions=3, query="input", max_length=192, compete=True, quiet_start=True
        ),
    ),
    sources=_text.SOURCES
    | _text.QUERY_SOURCES
    | dict(
        num_labels="CoNLL-2003 (Tjong Kim Sang and De Meulder 2003): four kinds in BIO",
        labels=LABELS_SOURCE,
        unit="the user's: what has a tag; metadata for reading answers",
    ),
    group=Encoder,
    objective=_objective,
    training=dict(steps=600, batch=32, rate=2e-3, quick=dict(steps=400, rate=3e-3, optimizer="muon")),
    data=dict(treebank="perceiver_kit.data.tags:treebank", path="perceiver_kit.data.tags:tagged_files"),
    random_inputs=_text.random_text,
    processor="perceiver_kit.processors.recipes:tag_text",
)
def token_classification(
    *,
    num_labels: int = 9,
    labels: Sequence[str] | None = None,
    unit: Literal["words", "characters"] = "words",
    vocabulary: int = 262,
    max_length: int = 2048,
    channels: int = 768,
    position_start: Start = "normal",
    ngrams: tuple[int, ...] = (),
    buckets: int = 2**16,
    convolutions: int = 0,
    query: Literal["position", "input"] = "position",
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Tags of a text, such as names or parts of speech, by the encoder of ``masked_lm``.

    Takes text (b, n) int64 with n ≤ ``max_length``, bytes without ``[CLS]`` and ``[SEP]``, and returns tags
    (b, n, num_labels): logits for each byte. The tag of a word or a character is that of its first byte (``unit``).

    ``query="position"`` asks each place as ``masked_lm`` does; ``"input"`` asks with the place's own row, which the
    decoder adds to what it reads, and learns faster. ``ngrams``, ``buckets`` and ``convolutions`` are those of
    ``inputs.TextTokens``.

    >>> model = build("token_classification", preset="tiny", num_labels=5)
    >>> model({"text": torch.randint(262, (2, 100))})["tags"].shape
    torch.Size([2, 100, 5])
    """
    check_choice("token_classification", "unit", unit, ("words", "characters"))
    inputs = Inputs(
        text=_text.text_tokens(
            vocabulary, max_length, channels, position_start, ngrams=ngrams, buckets=buckets, convolutions=convolutions
        )
    )
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries(tags=_text.query_of_bytes(query, max_length, channels, position_start))
    decoder = Decoder(
        queries.channels,
        encoder.latent_dim,
        heads=8,
        qk_channels=min(256, channels),
        v_channels=channels,
        query_residual=query == "input",
        dropout=dropout,
        activation=activation,
    )
    outputs = Outputs(tags=Project(num_labels, in_channels=decoder.out_channels))
    return PerceiverIO(inputs, encoder, queries, decoder, outputs, labels={"tags": labels})
