"""Queries from positions: features of a grid, or a learned row per output."""

from __future__ import annotations

from typing import ClassVar

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..block import LEFT_OUT
from ..checks import check_positive, check_sizes
from ..errors import AssemblyError
from ..positions import Learned, Positions, check_positions
from ..registry import register
from ..tokens import Encoded, Grid
from .base import Query


@register("queries")
class PositionQuery(Query):
    """One query per position of a grid: its position features, Fourier or learned.

    The grid is ``size``, or that of the input it ``follows``.

    >>> PositionQuery(Learned((2048,), 768), follows="text").channels
    768
    """

    def __init__(self, positions: Positions, *, size: Grid | None = None, follows: str | None = None) -> None:
        super().__init__()
        if (size is None) == (follows is None):
            raise AssemblyError(
                f"PositionQuery: expected either size or follows, got size={size!r} and follows={follows!r}"
            )
        check_positions("PositionQuery", positions)
        self.positions, self.follows, self.channels = positions, follows, positions.channels
        self.size = None if size is None else check_sizes("PositionQuery", "size", size)

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        rows = self.positions(grid, index, device=encoded.latents.device)
        return rows if rows.ndim == 3 else rearrange(rows, "k c -> 1 k c")


@register("queries")
class LearnedQuery(PositionQuery):
    """One learned query for each of ``rows`` outputs: a class, a task, an object.

    >>> LearnedQuery(1, 1024).size
    (1,)
    """

    fills: ClassVar = {"channels": lambda model, arguments: model.encoder.latent_dim}

    def __init__(self, rows: int, channels: int = LEFT_OUT) -> None:
        check_positive("LearnedQuery", rows=rows)
        super().__init__(Learned((rows,), channels), size=(rows,))


@register("queries")
class NoQuery(Query):
    """One output row without a query, for decoders that use none, such as mean pooling."""

    channels = 0
    size = (1,)

    def __init__(self) -> None:
        super().__init__()

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        shape = grid if index is None else index.shape
        return encoded.latents.new_empty((1, *shape, 0) if len(shape) == 1 else (*shape, 0))
