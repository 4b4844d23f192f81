"""The answer to a question, as a span of its context."""

from __future__ import annotations

from typing import Literal

from ..activations import Activation
from ..checking import check_positive
from ..declarations import recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Inputs
from ..model import PerceiverIO
from ..objectives import AnswerSpan
from ..outputs import Choose, Outputs
from ..positions import Start
from ..queries import Queries
from . import _text
from ._shared import ORIGINAL


def _objective(model: PerceiverIO | None = None) -> AnswerSpan:
    """The loss of a span; metrics read answers as long as the model's may be."""
    note = model.recipe if model is not None else None  # None of an assembly
    return AnswerSpan(longest=note["parameters"]["longest"]) if note else AnswerSpan()


@recipe(
    presets=dict(
        base=_text.BASE,
        tiny=_text.SMALL,
        quick=_text.SMALL
        | dict(
            max_length=1024,
            channels=64,
            ngrams=(3, 5),
            convolutions=3,
            recall=(2, 4, 8),
            query="input",
            blocks=3,
            cross_attends=3,
            share_cross_attends="none",
            share_blocks=False,
            quiet_start=True,
            dropout=0.1,
        ),
    ),
    sources=_text.SOURCES
    | _text.QUERY_SOURCES
    | dict(
        recall=f"{ORIGINAL}: none",
        unanswerable="SQuAD 2.0 (Rajpurkar, Jia and Liang 2018); metadata for reading answers",
        longest="bytes of an answer at most; metadata for reading answers",
    ),
    group=Encoder,
    objective=_objective,
    training=dict(steps=600, batch=16, rate=2e-3, quick=dict(steps=500, rate=3e-3, optimizer="muon")),
    data=dict(bible_cloze="perceiver_kit.data.cloze:bible_cloze", path="perceiver_kit.data.questions:question_files"),
    random_inputs=_text.random_text,
    processor="perceiver_kit.processors.recipes:answer_text",
)
def question_answering(
    *,
    unanswerable: bool = True,
    longest: int = 64,
    vocabulary: int = 262,
    max_length: int = 2048,
    channels: int = 768,
    position_start: Start = "normal",
    ngrams: tuple[int, ...] = (),
    buckets: int = 2**16,
    convolutions: int = 0,
    recall: tuple[int, ...] = (),
    query: Literal["position", "input"] = "position",
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Where the answer to a question starts and ends in its context, by the encoder of ``masked_lm``.

    Takes text (b, n) int64 with n ≤ ``max_length``, ``[CLS]`` question ``[SEP]`` context ``[SEP]``, and returns start
    and end (b, n): a logit of each byte, from one query for both. Row 0 stands for no answer. The objective and the
    answer leave out the rows of the question and of padding. ``longest`` is how many bytes an answer has at most.

    ``query``, ``ngrams``, ``buckets`` and ``convolutions`` are those of ``token_classification``, ``recall`` is that of
    ``inputs.TextTokens``. Preset ``quick`` reads the text three times, each with weights of its own: which name fits
    depends on the question, and one read does not know it. It also tells each row of the context what the question says
    after and before the same bytes (``recall``), a prior that no published Perceiver has: without it, minutes of
    training stay at the most frequent name.

    >>> model = build("question_answering", preset="tiny")
    >>> model({"text": torch.randint(262, (2, 100))})["start"].shape
    torch.Size([2, 100])
    """
    check_positive("question_answering", longest=longest)
    inputs = Inputs(
        text=_text.text_tokens(
            vocabulary,
            max_length,
            channels,
            position_start,
            ngrams=ngrams,
            buckets=buckets,
            convolutions=convolutions,
            recall=recall,
        )
    )
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries(span=_text.query_of_bytes(query, max_length, channels, position_start))
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
    width = decoder.out_channels
    outputs = Outputs(
        start=Choose(in_channels=width), end=Choose(in_channels=width), of={"start": "span", "end": "span"}
    )
    return PerceiverIO(inputs, encoder, queries, decoder, outputs)
