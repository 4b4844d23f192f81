"""What every output block is: decoded rows → values row by row → the whole in its own form."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..registry import Block
from ..tokens import Grid


class Output(Block):
    """Base of output blocks: ``forward`` maps rows one by one, ``whole`` puts all of them into their form.

    A block whose rows depend on each other sets ``mixes_rows`` and is then refused for ``at``.
    """

    in_channels: int
    mixes_rows = False

    def check_grid(self, name: str, grid: Grid) -> None:
        """Refuse, before anything is decoded, a grid that ``whole`` has no form for."""

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k d"]:
        raise NotImplementedError

    def whole(self, rows: Float[Tensor, "b o d"], grid: Grid) -> Tensor:
        """All rows in the output's own form; rows as they are unless a block says otherwise."""
        return rows

    def rows_of(self, whole: Tensor) -> Tensor:
        """The inverse of ``whole``, for targets: what the rows (b, o, …) would be; of text (b, o) ids."""
        return whole
