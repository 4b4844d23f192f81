"""What to ask of the latents: one query row for every output row, computed only for the rows that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import check_positive, check_sizes
from .errors import AssemblyError, InputError
from .modalities import ByModality, check_modalities, common_width, pad
from .positions import Learned as LearnedPositions
from .positions import Positions, check_positions
from .registry import Block, register, undefined
from .tokens import Encoded, Grid, take_rows


class Query(Block):
    """Base of query blocks: ``grid`` says which output rows there are, ``forward`` makes all or some of their queries.

    ``follows`` names the input that gives the grid where ``size`` declares none. ``reads`` says what a query needs of
    that input: the encoder's whole rows, only the content before positions, or (None) nothing.
    """

    channels: int
    size: Grid | None = None
    follows: str | None = None
    reads: Literal["rows", "content"] | None = None

    def grid(self, encoded: Encoded) -> Grid:
        """The declared grid, or that of the input it follows; InputError when that input was left out."""
        if self.follows is not None and self.follows not in encoded.given:
            raise InputError(f"this output's query follows the input {self.follows!r}, which was left out")
        return self.size if self.size is not None else encoded.layout.grid(str(self.follows))

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        """Rows (1, k, c) or (b, k, c) at flat indices (k,) or (b, k) of the grid; all of it for None."""
        raise undefined(self, "forward(grid, index, encoded)")


@register("queries")
class Positional(Query):
    """A query for each place of a grid: its position features, Fourier or learned.

    The grid is declared as ``size``, or is that of the input it ``follows``.

    >>> Positional(LearnedPositions((2048,), 768), follows="text").channels
    768
    """

    def __init__(self, positions: Positions, *, size: Grid | None = None, follows: str | None = None) -> None:
        super().__init__()
        if (size is None) == (follows is None):
            raise AssemblyError(f"Positional: give either size or follows, got size={size!r} and follows={follows!r}")
        check_positions("Positional", positions)
        self.positions, self.follows, self.channels = positions, follows, positions.channels
        self.size = None if size is None else check_sizes("Positional", "size", size)

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        rows = self.positions(grid, index, device=encoded.latents.device)
        return rows if rows.ndim == 3 else rows[None]


@register("queries")
class Learned(Positional):
    """A learned query for each of ``rows`` outputs: a class, a task, an object.

    >>> Learned(1, 1024).size
    (1,)
    """

    def __init__(self, rows: int, channels: int) -> None:
        check_positive("Learned", rows=rows)
        super().__init__(LearnedPositions((rows,), channels), size=(rows,))


@register("queries")
class FromInput(Query):
    """The encoder's own rows of an input as queries, content and positions together, after padding and hiding.

    ``channels`` is the width of those rows: ``Inputs(...).channels``.

    >>> FromInput("frames", channels=322).reads
    'rows'
    """

    reads = "rows"

    def __init__(self, follows: str, *, channels: int) -> None:
        super().__init__()
        check_positive("FromInput", channels=channels)
        self.follows, self.channels = follows, channels

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        return take_rows(_on_grid(encoded.rows, encoded, self, grid), index)


@register("queries")
class FromContent(Query):
    """An input's content, before positions, with positions of its own: content first, then positions.

    Content that is masked or hidden is zero. ``channels`` is the content's width.

    >>> FromContent("image", content_channels=48).channels
    48
    """

    reads = "content"

    def __init__(self, follows: str, *, content_channels: int, positions: Positions | None = None) -> None:
        super().__init__()
        check_positive("FromContent", content_channels=content_channels)
        if positions is not None:
            check_positions("FromContent", positions)
        self.follows, self.content_channels, self.positions = follows, content_channels, positions
        self.channels = content_channels + (0 if positions is None else positions.channels)

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        content = take_rows(_on_grid(encoded.content, encoded, self, grid), index)
        if self.positions is None:
            return content
        positions = self.positions(grid, index, device=content.device)
        return torch.cat([content, positions.expand(*content.shape[:-1], -1)], dim=-1)


@register("queries")
class Nothing(Query):
    """One output row without a query, for decoders that ask nothing, such as mean pooling."""

    channels = 0
    size = (1,)

    def __init__(self) -> None:
        super().__init__()

    def forward(self, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        shape = grid if index is None else index.shape
        return encoded.latents.new_empty((1, *shape, 0) if len(shape) == 1 else (*shape, 0))


@register("queries")
class Queries(Block):
    """Named query blocks, padded with a learned vector to the widest one plus ``min_padding``.

    Source: Perceiver IO (Jaegle et al. 2022), appendix F.

    >>> Queries(label=Learned(1, 1024), audio=Learned(8, 385), min_padding=2).channels
    1026
    """

    def __init__(self, blocks: Mapping[str, Query] | None = None, /, *, min_padding: int = 0, **named: Query) -> None:
        super().__init__()
        merged = check_modalities("Queries", Query, blocks, named)
        check_positive("Queries", min_padding=min_padding, least=0)
        self.blocks, self.min_padding = ByModality(merged), min_padding
        self.channels, self.padding = common_width(merged, min_padding)

    def arguments(self) -> dict[str, Any]:
        return {"blocks": {name: self.blocks[name] for name in self.blocks}, "min_padding": self.min_padding}

    def grid(self, name: str, encoded: Encoded, size: Grid | None = None) -> Grid:
        """The grid of one output: ``size`` where it is given, else the query's own."""
        query: Query = self.blocks[name]
        own = query.grid(encoded)
        if size is None or size == own:
            return own
        if query.reads is not None or not isinstance(size, tuple | list) or len(size) != len(own):
            raise InputError(
                f"size of {name!r} must be a grid like its own, {own}, got {size!r}"
                + (f"; its query reads the rows of input {query.follows!r}" if query.reads else "")
            )
        if any(not isinstance(n, int) or n < 1 for n in size):
            raise InputError(f"size of {name!r} must be positive ints, got {size!r}")
        return tuple(size)

    def reading(self, what: Literal["rows", "content"]) -> set[str]:
        """The inputs whose rows, or content, some query reads."""
        return {str(block.follows) for block in map(self.blocks.__getitem__, self.blocks) if block.reads == what}

    def padding_of(self, name: str) -> Float[Tensor, "1 p"] | None:
        """The vector that every query of an output ends in; None for the widest."""
        return self.padding[name].vector if name in self.padding else None

    def forward(self, name: str, grid: Grid, index: Tensor | None, encoded: Encoded) -> Float[Tensor, "b k c"]:
        """Queries of one output at the common width: (1, k, c) or (b, k, c)."""
        rows = self.blocks[name](grid, index, encoded)
        return pad(rows, self.padding, name).to(encoded.latents.dtype)


def _on_grid(kept: Mapping[str, Tensor], encoded: Encoded, query: Query, grid: Grid) -> Tensor:
    """The kept rows that a query reads, which have one grid only: the input's."""
    own = encoded.layout.grid(str(query.follows))
    if tuple(grid) != tuple(own):
        raise InputError(f"the query reads input {query.follows!r} on its grid {own}, got {grid}")
    return kept[str(query.follows)]
