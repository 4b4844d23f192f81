"""Base of output blocks: decoded rows → values row by row → the whole output in its own form."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..block import Block, undefined
from ..checking import check_sizes
from ..tokens import Grid


class Affine(NamedTuple):
    """A linear layer: rows (…, c) @ weightᵀ + bias → (…, d)."""

    weight: Float[Tensor, "d c"]
    bias: Float[Tensor, "d"]


class Output(Block):
    """Base of output blocks: ``forward`` maps rows independently, ``whole`` gives all rows the output's form.

    A block whose rows depend on each other sets ``mixes_rows``; ``at`` is then an error.
    """

    joint = "in_channels"
    fills: ClassVar = {"in_channels": lambda model, arguments: model.decoder.out_channels}
    in_channels: int
    size: Grid | None = None  # the grid of its rows, for the choice of a query
    objective: str | None = None  # the name of the objective that it is usually trained for
    mixes_rows = False
    labels: tuple[str, ...] = ()  # names of the classes, which PerceiverIO(labels=…) sets: metadata only

    @property
    def width(self) -> int:
        """The number of values per element of the output, such as classes per pixel: ``labels`` has a name for each."""
        return getattr(self, "channels", self.in_channels)

    def check_grid(self, name: str, grid: Grid) -> None:
        """Raise InputError, before decoding, for a grid that ``whole`` does not support."""

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k d"]:
        raise undefined(self, "forward(rows)")

    def affine(self) -> Affine | None:
        """The linear layer that equals ``forward``, for inference to merge with the layers before it; None without one.

        Ignored for a class that overrides ``forward`` but not this method.
        """
        return None

    def whole(self, rows: Float[Tensor, "b o d"], grid: Grid) -> Tensor:
        """All rows in the output's form; by default the rows themselves."""
        return rows

    def rows_of(self, whole: Tensor) -> Tensor:
        """The inverse of ``whole``, for targets: rows (b, o, …); for text, ids (b, o)."""
        return whole


def checked_size(owner: str, size: Grid | None) -> Grid | None:
    """A declared grid, checked."""
    return None if size is None else check_sizes(owner, "size", size)
