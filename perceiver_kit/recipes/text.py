"""Text, byte by byte: masked language modelling, and classification of a whole sequence."""

from __future__ import annotations

from typing import Any

from ..attention import Gelu
from ..decoders import Decoder
from ..encoders import Encoder
from ..inputs import Inputs, TextTokens
from ..model import PerceiverIO
from ..outputs import Classify, Outputs, TiedText
from ..positions import Learned, Start
from ..queries import LearnedQuery, PositionQuery, Queries
from ..registry import register
from .common import ORIGINAL, PAPER, REFERENCE

SOURCES = dict(
    vocabulary=f"{PAPER}, section 4.1: 256 bytes and 6 special ids",
    max_length=f"{PAPER}, section 4.1: 2,048 bytes",
    channels=f"{PAPER}, table 8: embedding of 768",
    num_latents=f"{PAPER}, table 8",
    latent_dim=f"{PAPER}, table 8",
    layers=f"{PAPER}, table 8: 26",
    blocks=f"{PAPER}, table 8: one",
    cross_heads=f"{ORIGINAL}, colabs/masked_language_modelling.ipynb",
    self_heads=f"{ORIGINAL}, colabs/masked_language_modelling.ipynb",
    qk_channels=f"{ORIGINAL}, colabs/masked_language_modelling.ipynb: 8 heads of 32",
    v_channels=f"{ORIGINAL}, colabs/masked_language_modelling.ipynb",
    cross_widening=f"{REFERENCE}",
    self_widening=f"{REFERENCE}",
    query_residual=f"{REFERENCE}: of the encoder",
    position_start=f"{ORIGINAL}: a cut normal of 0.02",
    dropout=f"{ORIGINAL}: none",
    gelu=f"{REFERENCE}: exact; the original computes jax's tanh approximation",
)
TINY: dict[str, Any] = dict(
    max_length=256,
    channels=64,
    num_latents=32,
    latent_dim=128,
    layers=2,
    qk_channels=64,
    v_channels=128,
    position_start="sines",
)


@register(
    "recipes",
    tiny=TINY | dict(decoder_qk_channels=64),
    sources=SOURCES
    | dict(
        decoder_heads=f"{ORIGINAL}, colabs/masked_language_modelling.ipynb",
        decoder_qk_channels=f"{ORIGINAL}, colabs/masked_language_modelling.ipynb: 8 heads of 32",
    ),
)
def masked_lm(
    *,
    vocabulary: int = 262,
    max_length: int = 2048,
    channels: int = 768,
    num_latents: int = 256,
    latent_dim: int = 1280,
    layers: int = 26,
    blocks: int = 1,
    cross_heads: int = 8,
    self_heads: int = 8,
    qk_channels: int | None = 256,
    v_channels: int | None = 1280,
    decoder_heads: int = 8,
    decoder_qk_channels: int = 256,
    cross_widening: int = 1,
    self_widening: int = 1,
    query_residual: bool = True,
    position_start: Start = "normal",
    dropout: float = 0.0,
    gelu: Gelu = "exact",
) -> PerceiverIO:
    """Masked language modelling on bytes (Perceiver IO, section 4.1).

    Takes text (b, n) int64 with n ≤ ``max_length`` and returns text (b, n, vocabulary) logits: as many rows as the
    text is long, through the input's own embedding.

    >>> model = masked_lm(max_length=64, channels=32, num_latents=8, latent_dim=32, layers=1)
    >>> batch = kit.ByteTokenizer()(["To be, or not to [MASK]", "that is"])
    >>> model({"text": batch.ids}, mask={"text": batch.keep})["text"].shape
    torch.Size([2, 20, 262])
    """
    text = _text(vocabulary, max_length, channels, position_start)
    inputs = Inputs(text=text)
    encoder = Encoder(
        inputs.channels,
        num_latents=num_latents,
        latent_dim=latent_dim,
        layers=layers,
        blocks=blocks,
        cross_heads=cross_heads,
        self_heads=self_heads,
        qk_channels=qk_channels,
        v_channels=v_channels,
        cross_widening=cross_widening,
        self_widening=self_widening,
        query_residual=query_residual,
        dropout=dropout,
        gelu=gelu,
    )
    positions = Learned((max_length,), channels, start=position_start)
    queries = Queries(text=PositionQuery(positions, follows="text"))
    decoder = Decoder(
        channels,
        latent_dim,
        heads=decoder_heads,
        qk_channels=decoder_qk_channels,
        v_channels=channels,
        dropout=dropout,
        gelu=gelu,
    )
    return PerceiverIO(inputs, encoder, queries, decoder, Outputs(text=TiedText(text)))


@register(
    "recipes",
    tiny=TINY,
    sources=SOURCES | dict(num_labels=f"{REFERENCE}: 2 unless said otherwise"),
)
def sequence_classification(
    *,
    num_labels: int = 2,
    vocabulary: int = 262,
    max_length: int = 2048,
    channels: int = 768,
    num_latents: int = 256,
    latent_dim: int = 1280,
    layers: int = 26,
    blocks: int = 1,
    cross_heads: int = 8,
    self_heads: int = 8,
    qk_channels: int | None = 256,
    v_channels: int | None = 1280,
    cross_widening: int = 1,
    self_widening: int = 1,
    query_residual: bool = True,
    position_start: Start = "normal",
    dropout: float = 0.0,
    gelu: Gelu = "exact",
) -> PerceiverIO:
    """Classification of a text by the encoder of ``masked_lm`` (Perceiver IO, section 4.1, as for GLUE).

    Takes text (b, n) int64 with n ≤ ``max_length`` and returns label (b, num_labels): logits of one or of several
    labels, or values to regress.

    >>> model = build("sequence_classification", preset="tiny", num_labels=5)
    >>> model({"text": torch.randint(262, (2, 100))})["label"].shape
    torch.Size([2, 5])
    """
    inputs = Inputs(text=_text(vocabulary, max_length, channels, position_start))
    encoder = Encoder(
        inputs.channels,
        num_latents=num_latents,
        latent_dim=latent_dim,
        layers=layers,
        blocks=blocks,
        cross_heads=cross_heads,
        self_heads=self_heads,
        qk_channels=qk_channels,
        v_channels=v_channels,
        cross_widening=cross_widening,
        self_widening=self_widening,
        query_residual=query_residual,
        dropout=dropout,
        gelu=gelu,
    )
    queries = Queries(label=LearnedQuery(1, latent_dim))
    decoder = Decoder(latent_dim, latent_dim, query_residual=True, dropout=dropout, gelu=gelu)
    return PerceiverIO(inputs, encoder, queries, decoder, Outputs(label=Classify(latent_dim, num_labels)))


def _text(vocabulary: int, max_length: int, channels: int, position_start: Start) -> TextTokens:
    positions = Learned((max_length,), channels, start=position_start)
    return TextTokens(vocabulary, channels, positions=positions, combine="add")
