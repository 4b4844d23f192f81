"""Queries of several outputs, padded to one width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ..block import Block
from ..checking import check_positive
from ..errors import InputError
from ..modalities import ByModality, check_modalities
from ..padding import common_width, pad
from ..registry import register
from ..tokens import Encoded, Grid
from .base import Query


@register("queries")
class Queries(Block):
    """Named query blocks, padded with a learned vector to the widest one plus ``min_padding``.

    Source: Perceiver IO (Jaegle et al. 2022), appendix F.

    >>> Queries(label=LearnedQuery(1, 1024), audio=LearnedQuery(8, 385), min_padding=2).channels
    1026
    """

    channels: Any = None  # until all widths are known

    def __init__(self, blocks: Mapping[str, Query] | None = None, /, *, min_padding: int = 0, **named: Query) -> None:
        super().__init__()
        merged = check_modalities("Queries", Query, blocks, named)
        check_positive("Queries", min_padding=min_padding, least=0)
        self.blocks, self.min_padding = ByModality(merged), min_padding
        self.channels, self.padding = common_width(merged, min_padding)

    def arguments(self) -> dict[str, Any]:
        return {"blocks": {name: self.blocks[name] for name in self.blocks}, "min_padding": self.min_padding}

    def grid(self, name: str, encoded: Encoded, size: Grid | None = None) -> Grid:
        """The grid of one output: ``size`` if given, else the query's own."""
        query: Query = self.blocks[name]
        own = query.grid(encoded)
        if size is None or size == own:
            return own
        fixed = query.reads is not None or query.takes is not None
        if fixed or not isinstance(size, tuple | list) or len(size) != len(own):
            raise InputError(
                f"size of {name!r} must be a grid like its own, {own}, got {size!r}"
                + (f"; its query reads {_read_by(query)}" if query.reads else "")
                + ("; its query takes one place for each row" if query.takes else "")
            )
        if any(not isinstance(n, int) or n < 1 for n in size):
            raise InputError(f"size of {name!r} must be positive ints, got {size!r}")
        return tuple(size)

    def reading(self, part: Literal["rows", "content"]) -> set[str]:
        """Names of inputs whose rows, or content, a query reads."""
        blocks = [self.blocks[name] for name in self.blocks]
        return {str(block.follows) for block in blocks if block.reads == part}

    def padding_of(self, name: str) -> Float[Tensor, "1 p"] | None:
        """The learned padding of an output's queries; None for the widest."""
        return self.padding[name].vector if name in self.padding else None

    def forward(self, name: str, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        """Queries of one output at the common width: (1, k, c) or (b, k, c)."""
        rows = self.blocks[name](grid, index, encoded)
        return pad(rows, self.padding, name).to(encoded.latents.dtype)


def _read_by(query: Query) -> str:
    return "the latents" if query.follows is None else f"the rows of input {query.follows!r}"
