"""Queries from positions: features of a grid, or a learned row per output."""

from __future__ import annotations

from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..block import LEFT_OUT
from ..checking import check_positive, check_sizes, describe_value, short
from ..errors import AssemblyError, InputError
from ..positions import Learned, Positions, check_coordinates, check_positions
from ..registry import register
from ..tokens import Encoded, Grid, take_rows
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
class CoordinateQuery(Query):
    """One query for each place that the call gives: times of a forecast, points in space.

    ``model(inputs, queries={"future": times})`` gives the coordinates, (k, axes) for the whole batch or (b, k, axes).
    ``positions`` that an input has too are on the same axis. ``default`` are the coordinates of calls that give none.

    >>> clock = Fourier(bands=8, max_resolution=(24,), ranges=((0.0, 24.0),))
    >>> CoordinateQuery(clock).channels
    17
    """

    completes = True

    def __init__(self, positions: Positions, *, default: tuple[tuple[float, ...], ...] | None = None) -> None:
        super().__init__()
        self.axes = check_coordinates("CoordinateQuery", positions)
        self.positions, self.channels = positions, positions.channels
        self.takes = f"coordinates, float (k, {self.axes}) or (b, k, {self.axes})"
        if default is not None and (not default or any(len(place) != self.axes for place in default)):
            raise AssemblyError(f"CoordinateQuery: default must hold places of {self.axes} axes, got {short(default)}")
        self.default = None if default is None else tuple(tuple(map(float, place)) for place in default)

    def check_asked(self, asked: Tensor, name: str) -> None:
        fits = isinstance(asked, Tensor) and asked.is_floating_point() and asked.ndim in (2, 3) and asked.numel()
        if not fits or asked.shape[-1] != self.axes:
            raise InputError(f"queries: {name!r} takes {self.takes}, got {describe_value(asked)}")
        self.positions.of(asked, name)  # refuses coordinates out of range

    def grid(self, encoded: Encoded) -> Grid:
        return (self._given(encoded).shape[-2],)

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        coordinates = self._given(encoded)
        if coordinates.ndim == 2:
            coordinates = rearrange(coordinates, "k axes -> 1 k axes")
        return self.positions.of(take_rows(coordinates, index))

    def _given(self, encoded: Encoded) -> Tensor:
        if encoded.asked is not None:
            return encoded.asked
        if self.default is None:
            raise InputError("CoordinateQuery: expected coordinates in encoded.asked, got None; call the whole model")
        return torch.tensor(self.default, dtype=encoded.latents.dtype).to(encoded.latents.device, non_blocking=True)


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
