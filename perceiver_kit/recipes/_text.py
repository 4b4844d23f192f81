"""What the two models on text share: bytes with learned positions, and the encoder's numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..checking import check_choice, check_positive
from ..inputs import TextTokens
from ..positions import Learned, Start
from ..queries import InputQuery, PositionQuery
from ..queries.base import Query
from ._shared import ENCODER_SIZES, ORIGINAL, PAPER, REFERENCE, encoder_sources

COLAB = f"{ORIGINAL}, colabs/masked_language_modelling.ipynb"
SOURCES = encoder_sources(
    COLAB,
    vocabulary=f"{PAPER}, section 4.1: 256 bytes and 6 special ids",
    max_length=f"{PAPER}, section 4.1: 2,048 bytes",
    channels=f"{PAPER}, table 8: embedding of 768",
    num_latents=f"{PAPER}, table 8",
    latent_dim=f"{PAPER}, table 8",
    layers=f"{PAPER}, table 8: 26",
    blocks=f"{PAPER}, table 8: one",
    qk_channels=f"{COLAB}: 8 heads of 32",
    v_channels=COLAB,
    cross_widening=REFERENCE,
    self_widening=REFERENCE,
    position_start=f"{ORIGINAL}: a cut normal of 0.02",
    ngrams=f"{ORIGINAL}: none",
    buckets="rows of the table of n-grams; unused without",
    dropout=f"{ORIGINAL}: none",
)
BASE: dict[str, Any] = dict(
    num_latents=256, latent_dim=1280, layers=26, cross_heads=8, self_heads=8, qk_channels=256, v_channels=1280
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

TEXT_NAMES = {
    "inputs.blocks.text.embedding.weight": "perceiver.input_preprocessor.embeddings.weight",
    "inputs.blocks.text.positions.table": "perceiver.input_preprocessor.position_embeddings.weight",
}
TEXT_SIZES = ENCODER_SIZES | {
    "vocabulary": ("vocab_size", 262),
    "max_length": ("max_position_embeddings", 2048),
    "channels": ("d_model", 768),
}


def text_tokens(
    vocabulary: int,
    max_length: int,
    channels: int,
    position_start: Start,
    *,
    ngrams: tuple[int, ...] = (),
    buckets: int = 2**16,
    stride: int = 1,
    convolutions: int = 0,
    recall: tuple[int, ...] = (),
) -> TextTokens:
    """The text block: embedding + learned position; see ``TextTokens`` for the options."""
    check_positive("text", max_length=max_length, stride=stride)
    positions = Learned((-(-max_length // stride),), channels, start=position_start)
    options: dict[str, Any] = dict(
        ngrams=ngrams, buckets=buckets, stride=stride, convolutions=convolutions, recall=recall
    )
    return TextTokens(vocabulary, channels, **options, positions=positions, combine="add")


def random_text(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    """Random ids at full length."""
    return {"text": torch.randint(parameters["vocabulary"], (batch, parameters["max_length"]))}


SMALL: dict[str, Any] = TINY | dict(
    channels=32, num_latents=16, latent_dim=64, layers=1, self_heads=4, cross_heads=4, qk_channels=32, v_channels=64
)
"""Smaller still, for tasks on text that learn from few samples."""

QUERY_SOURCES = dict(
    convolutions=f"{ORIGINAL}: none",
    query=f"{PAPER}, section 4.1: a learned query for each place, as for masked bytes",
)


def query_of_bytes(query: str, max_length: int, channels: int, position_start: Start) -> Query:
    """A query for each byte: its place alone, or its own row."""
    check_choice("text", "query", query, ("position", "input"))
    if query == "input":
        return InputQuery("text", channels=channels)
    return PositionQuery(Learned((max_length,), channels, start=position_start), follows="text")
