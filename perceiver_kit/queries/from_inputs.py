"""Queries from an input: its rows as the encoder reads them, or its content with other positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from ..block import LEFT_OUT
from ..checking import check_positive
from ..errors import InputError
from ..positions import Positions, check_positions
from ..registry import register
from ..tokens import Encoded, Grid, take_rows
from .base import Query


@register("queries")
class InputQuery(Query):
    """An input's rows as the encoder reads them: content with positions, after padding and hiding.

    ``channels`` is the width of those rows: ``Inputs(...).channels``.

    >>> InputQuery("frames", channels=322).reads
    'rows'
    """

    reads = "rows"

    fills: ClassVar = {"channels": lambda model, arguments: model.inputs.channels}

    def __init__(self, follows: str, *, channels: int = LEFT_OUT) -> None:
        super().__init__()
        check_positive("InputQuery", channels=channels)
        self.follows, self.channels = follows, channels

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        return take_rows(_on_grid(encoded.rows, encoded, self, grid), index)


@register("queries")
class ContentQuery(Query):
    """An input's content before positions, then the query's own positions.

    Masked or hidden content is zero.

    >>> ContentQuery("image", content_channels=48).channels
    48
    """

    reads = "content"

    fills: ClassVar = {
        "content_channels": lambda model, arguments: model.inputs.blocks[arguments["follows"]].content_channels
    }

    def __init__(self, follows: str, *, content_channels: int = LEFT_OUT, positions: Positions | None = None) -> None:
        super().__init__()
        check_positive("ContentQuery", content_channels=content_channels)
        if positions is not None:
            check_positions("ContentQuery", positions)
        self.follows, self.content_channels, self.positions = follows, content_channels, positions
        self.channels = content_channels + (0 if positions is None else positions.channels)

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        content = take_rows(_on_grid(encoded.content, encoded, self, grid), index)
        if self.positions is None:
            return content
        positions = self.positions(grid, index, device=content.device)
        return torch.cat([content, positions.expand(*content.shape[:-1], -1)], dim=-1)


@register("queries")
class PooledQuery(Query):
    """One query that summarises an input: the sum of its content over the rows that may be read.

    The sum is scaled to a root mean square of one, then normalised over the batch (``BatchNorm1d``); otherwise the part
    that all samples share would dominate. For hashed n-grams it is a bag of n-grams. With ``query_residual`` the
    decoder adds what it reads from the latents. This query learns from few labels; with thousands of labels a learned
    query is as good.

    >>> PooledQuery("text", content_channels=64).size
    (1,)
    """

    reads = "content"
    size = (1,)

    fills: ClassVar = ContentQuery.fills

    def __init__(self, follows: str, *, content_channels: int = LEFT_OUT) -> None:
        super().__init__()
        check_positive("PooledQuery", content_channels=content_channels)
        self.follows, self.content_channels, self.channels = follows, content_channels, content_channels
        self.norm = nn.BatchNorm1d(content_channels)

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        pooled = F.rms_norm(reduce(encoded.content[str(self.follows)], "b n c -> b c", "sum"), (self.channels,))
        if self.training and len(pooled) == 1:
            norm = self.norm  # a single sample has no deviation
            rows = F.batch_norm(pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        else:
            rows = self.norm(pooled)
        return take_rows(rearrange(rows, "b c -> b 1 c"), index)


def _on_grid(rows: Mapping[str, Tensor], encoded: Encoded, query: Query, grid: Grid) -> Tensor:
    """The input rows that a query reads; InputError for a grid other than the input's."""
    own = encoded.layout.grid(str(query.follows))
    if tuple(grid) != tuple(own):
        raise InputError(f"grid must be that of input {query.follows!r}, which the query reads, {own}; got {grid}")
    return rows[str(query.follows)]
