"""What every output block is: decoded rows → values row by row → the whole in its own form."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from ..block import Block, undefined
from ..tokens import Grid


class Affine(NamedTuple):
    """What a linear layer is: rows (…, c) @ weightᵀ + bias → (…, d)."""

    weight: Float[Tensor, "d c"]
    bias: Float[Tensor, "d"]


class Output(Block):
    """Base of output blocks: ``forward`` maps rows one by one, ``whole`` puts all of them into their form.

    A block whose rows depend on each other sets ``mixes_rows`` and is then refused for ``at``.
    """

    in_channels: int
    mixes_rows = False

    def check_grid(self, name: str, grid: Grid) -> None:
        """Refuse, before anything is decoded, a grid that ``whole`` has no form for."""

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k d"]:
        raise undefined(self, "forward(rows)")

    def affine(self) -> Affine | None:
        """What ``forward`` is, where it is one linear layer: inference joins it with those before. None otherwise.

        A class that overrides ``forward`` and not this one is taken at its ``forward``.
        """
        return None

    def whole(self, rows: Float[Tensor, "b o d"], grid: Grid) -> Tensor:
        """All rows in the output's own form; rows as they are unless a block says otherwise."""
        return rows

    def rows_of(self, whole: Tensor) -> Tensor:
        """The inverse of ``whole``, for targets: what the rows (b, o, …) would be; of text (b, o) ids."""
        return whole
