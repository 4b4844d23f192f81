"""Queries that are the latents, for outputs with a row for each latent."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..checking import check_positive
from ..registry import register
from ..tokens import Encoded, Grid, take_rows
from .base import Query


@register("queries")
class LatentQuery(Query):
    """The latents themselves. The grid is as many as the encoder gave: fewer than ``latents`` for a short input.

    With the decoder ``PassThrough`` an output has a row for each latent, as of Perceiver AR; with another decoder the
    latents read each other once more.

    >>> LatentQuery(8, latent_dim=64).size
    (8,)
    """

    reads = "latents"

    def __init__(self, latents: int, *, latent_dim: int) -> None:
        super().__init__()
        check_positive("LatentQuery", latents=latents, latent_dim=latent_dim)
        self.latents, self.latent_dim, self.channels, self.size = latents, latent_dim, latent_dim, (latents,)

    def grid(self, encoded: Encoded) -> Grid:
        return (encoded.latents.shape[1],)

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k d"]:
        return take_rows(encoded.latents, index)
