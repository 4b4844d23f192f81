"""Masked language modelling on bytes."""

from __future__ import annotations

from ..activations import Activation
from ..declarations import HuggingFace, recipe
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Inputs
from ..model import PerceiverIO
from ..objectives import MaskedTokens
from ..outputs import Outputs, TiedText
from ..positions import Learned, Start
from ..queries import InputQuery, PositionQuery, Queries
from . import _text
from ._shared import ENCODER_NAMES, cross_attention_names


@recipe(
    presets=dict(
        base=_text.BASE,
        tiny=_text.TINY | dict(decoder_qk_channels=64),
        quick=_text.TINY | dict(decoder_qk_channels=64, ngrams=(3, 5), convolutions=2, row_queries=True),
    ),
    sources=_text.SOURCES
    | dict(
        convolutions=f"{_text.ORIGINAL}: none",
        row_queries=f"{_text.ORIGINAL}: queries are positions",
        decoder_heads=_text.COLAB,
        decoder_qk_channels=f"{_text.COLAB}: 8 heads of 32",
    ),
    group=Encoder,
    objective=MaskedTokens,
    training=dict(steps=4000, batch=32, rate=2e-3, quick=dict(steps=1800, rate=4e-3)),
    data=dict(bible="perceiver_kit.data.tasks:bible", path="perceiver_kit.data.folders:masked_texts"),
    reads=lambda parameters: {"visible_target_prob": 0.0 if parameters["row_queries"] else 1.0},
    random_inputs=_text.random_text,
    processor="perceiver_kit.processors.recipes:fill_text",
    huggingface=HuggingFace(
        "PerceiverForMaskedLM",
        ENCODER_NAMES
        | _text.TEXT_NAMES
        | cross_attention_names("decoder.cross", "perceiver.decoder.decoding_cross_attention")
        | {
            "queries.blocks.text.positions.table": "perceiver.decoder.output_position_encodings.position_embeddings",
            "outputs.blocks.text.bias": "embedding_decoder.bias",
        },
        _text.TEXT_SIZES,
        fixed=dict(decoder_heads=8, decoder_qk_channels=256, ngrams=(), convolutions=0, row_queries=False),
        unwritten=("position_start", "buckets"),
        processor="perceiver_kit.processors.huggingface:fill_text",
    ),
)
def masked_lm(
    *,
    vocabulary: int = 262,
    max_length: int = 2048,
    channels: int = 768,
    decoder_heads: int = 8,
    decoder_qk_channels: int = 256,
    position_start: Start = "normal",
    ngrams: tuple[int, ...] = (),
    buckets: int = 2**16,
    convolutions: int = 0,
    row_queries: bool = False,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Masked language modelling on bytes (Perceiver IO, section 4.1).

    Takes text (b, n) int64 with n ≤ ``max_length`` and returns text (b, n, vocabulary) logits: one row for
    each byte. The output weights are those of the input embedding.

    ``ngrams``, ``buckets`` and ``convolutions`` are those of ``inputs.TextTokens``. With ``row_queries`` a query is
    the row of its byte, which the decoder's output is added to: what the neighbours tell then reaches the output
    directly.

    >>> model = masked_lm(max_length=64, channels=32, num_latents=8, latent_dim=32, layers=1, v_channels=32)
    >>> batch = kit.ByteTokenizer()(["To be, or not to [MASK]", "that is"])
    >>> model({"text": batch.ids}, mask={"text": batch.keep})["text"].shape
    torch.Size([2, 20, 262])
    """
    text = _text.text_tokens(
        vocabulary, max_length, channels, position_start, ngrams=ngrams, buckets=buckets, convolutions=convolutions
    )
    inputs = Inputs(text=text)
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    if row_queries:
        query = InputQuery("text", channels=inputs.channels)
    else:
        query = PositionQuery(Learned((max_length,), channels, start=position_start), follows="text")
    queries = Queries(text=query)
    decoder = Decoder(
        channels,
        encoder.latent_dim,
        heads=decoder_heads,
        qk_channels=decoder_qk_channels,
        v_channels=channels,
        query_residual=row_queries,
        dropout=dropout,
        activation=activation,
    )
    return PerceiverIO(inputs, encoder, queries, decoder, Outputs(text=TiedText(text)))
