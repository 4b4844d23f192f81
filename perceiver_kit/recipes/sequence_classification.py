"""Classification of whole texts."""

from __future__ import annotations

from collections.abc import Sequence

from ..activations import Activation
from ..declarations import HuggingFace, recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Inputs
from ..model import PerceiverIO
from ..objectives import Classification
from ..outputs import Classify, Outputs
from ..outputs.linear import Problem
from ..positions import Start
from ..queries import LearnedQuery, Queries
from . import _text
from ._shared import CLASSIFIER_NAMES, CLASSIFIER_SIZES, ENCODER_NAMES, LABELS_SOURCE, PROBLEM_SOURCE, REFERENCE


@recipe(
    presets=dict(
        base=_text.BASE,
        tiny=_text.TINY,
        quick=_text.TINY | dict(max_length=2048, ngrams=(3, 4, 5, 6), stride=8),
    ),
    sources=_text.SOURCES
    | dict(
        stride=f"{_text.ORIGINAL}: a row for each byte",
        num_labels=f"{REFERENCE}: 2 unless said otherwise",
        labels=LABELS_SOURCE,
        problem_type=PROBLEM_SOURCE,
    ),
    group=Encoder,
    objective=Classification,
    training=dict(steps=600, batch=32, rate=5e-4, quick=dict(steps=250, rate=1e-3)),
    data=dict(reviews="perceiver_kit.data.tasks:reviews", path="perceiver_kit.data.folders:labelled_texts"),
    random_inputs=_text.random_text,
    processor="perceiver_kit.processors.recipes:classify_text",
    huggingface=HuggingFace(
        "PerceiverForSequenceClassification",
        ENCODER_NAMES | _text.TEXT_NAMES | CLASSIFIER_NAMES,
        _text.TEXT_SIZES | CLASSIFIER_SIZES,
        fixed=dict(ngrams=(), stride=1),
        labels=2,
        unwritten=("position_start", "buckets"),
        processor="perceiver_kit.processors.huggingface:classify_text",
    ),
)
def sequence_classification(
    *,
    num_labels: int = 2,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    vocabulary: int = 262,
    max_length: int = 2048,
    channels: int = 768,
    position_start: Start = "normal",
    ngrams: tuple[int, ...] = (),
    buckets: int = 2**16,
    stride: int = 1,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Classification of a text by the encoder of ``masked_lm`` (Perceiver IO, section 4.1, as for GLUE).

    Takes text (b, n) int64 with n ≤ ``max_length`` and returns label (b, num_labels): logits of one or of several
    labels, or values to regress. ``ngrams``, ``buckets`` and ``stride`` are those of ``inputs.TextTokens``.

    >>> model = build("sequence_classification", preset="tiny", num_labels=5)
    >>> model({"text": torch.randint(262, (2, 100))})["label"].shape
    torch.Size([2, 5])
    """
    inputs = Inputs(
        text=_text.text_tokens(
            vocabulary, max_length, channels, position_start, ngrams=ngrams, buckets=buckets, stride=stride
        )
    )
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries(label=LearnedQuery(1, encoder.latent_dim))
    decoder = Decoder(queries.channels, encoder.latent_dim, query_residual=True, dropout=dropout, activation=activation)
    outputs = Outputs(label=Classify(num_labels, in_channels=queries.channels, problem_type=problem_type))
    return PerceiverIO(inputs, encoder, queries, decoder, outputs, labels={"label": labels})
