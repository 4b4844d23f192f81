"""Queries that read an input: the encoder's own rows, or content with positions of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_positive
from ..errors import InputError
from ..positions import Positions, check_positions
from ..registry import register
from ..tokens import Encoded, Grid, take_rows
from .base import Query


@register("queries")
class InputQuery(Query):
    """The encoder's own rows of an input as queries, content and positions together, after padding and hiding.

    ``channels`` is the width of those rows: ``Inputs(...).channels``.

    >>> InputQuery("frames", channels=322).reads
    'rows'
    """

    reads = "rows"

    def __init__(self, follows: str, *, channels: int) -> None:
        super().__init__()
        check_positive("InputQuery", channels=channels)
        self.follows, self.channels = follows, channels

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        return take_rows(_on_grid(encoded.rows, encoded, self, grid), index)


@register("queries")
class ContentQuery(Query):
    """An input's content, before positions, with positions of its own: content first, then positions.

    Content that is masked or hidden is zero. ``channels`` is the content's width.

    >>> ContentQuery("image", content_channels=48).channels
    48
    """

    reads = "content"

    def __init__(self, follows: str, *, content_channels: int, positions: Positions | None = None) -> None:
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


def _on_grid(kept: Mapping[str, Tensor], encoded: Encoded, query: Query, grid: Grid) -> Tensor:
    """The kept rows that a query reads, which have one grid only: the input's."""
    own = encoded.layout.grid(str(query.follows))
    if tuple(grid) != tuple(own):
        raise InputError(f"the query reads input {query.follows!r} on its grid {own}, got {grid}")
    return kept[str(query.follows)]
