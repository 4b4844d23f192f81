"""Base of query blocks: one query row per output row, computed only for the rows that are decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ..block import Block, undefined
from ..errors import InputError
from ..positions import Place
from ..tokens import Encoded, Grid


class Query(Block):
    """Base of query blocks: ``grid`` is the grid of output rows, ``forward`` computes all or some of their queries.

    ``follows`` names the input that gives the grid if ``size`` does not. ``reads`` is what a query is made from:
    ``"rows"`` of that input, positions included, its ``"content"`` without positions, the ``"latents"``, or None.
    ``takes`` describes a tensor that the call gives, ``model(…, queries={name: tensor})``; None if it takes none.
    ``forward`` finds the tensor in ``encoded.asked``; ``default`` replaces it in calls without one.
    """

    joint = "channels"
    channels: int
    size: Grid | None = None
    follows: str | None = None
    reads: Literal["rows", "content", "latents"] | None = None
    takes: str | None = None
    default: Any = None

    @classmethod
    def around(cls, neighbours: Any, arguments: Mapping[str, Any]) -> Any:
        """Its positions are for its ``size``, or for the grid of the input it ``follows``."""
        if arguments.get("size") is not None:
            return Place(tuple(arguments["size"]), len(arguments["size"]))
        if arguments.get("follows") is not None:
            block = neighbours.inputs.blocks[arguments["follows"]]
            return Place(block.grid, block.axes)
        return neighbours

    def check_asked(self, asked: Tensor, name: str) -> None:
        """Raise InputError, before the encoder runs, for a tensor of the call that does not fit."""

    def grid(self, encoded: Encoded) -> Grid:
        """The declared grid, or that of the input it follows; InputError if that input was left out."""
        if self.follows is not None and self.follows not in encoded.given:
            raise InputError(f"this output's query follows the input {self.follows!r}, which was left out")
        return self.size if self.size is not None else encoded.layout.grid(str(self.follows))

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        """Queries (1, k, c) or (b, k, c) at flat indices (k,) or (b, k) of the grid; of the whole grid for None."""
        raise undefined(self, "forward(grid, index, encoded)")
