"""Base of input blocks: raw modality → content on a grid → rows with positions."""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..block import Block, completed, undefined
from ..checking import check_choice, check_sizes
from ..errors import AssemblyError
from ..positions import Place, Positions, check_positions
from ..tokens import Grid, Layout, Tokens

Combine = Literal["concat", "add"]


class Input(Block):
    """Base of input blocks. A subclass checks the raw tensor and embeds it: ``embed(raw, name) -> (b, *grid, c)``.

    ``grid`` is the declared grid, which mask tokens fill when the modality is left out; None if only the raw tensor
    gives it; ``axes`` is its number of axes. Positions are concatenated to the content or added to it.
    """

    joint, completes = "channels", True

    def __init__(
        self,
        content_channels: int,
        *,
        axes: int = 1,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        check_choice(owner, "combine", combine, ("concat", "add"))
        self.axes, self.grid = axes, None if grid is None else check_sizes(owner, "grid", grid)
        if positions is not None:
            check_positions(owner, positions)
            positions = completed(positions, Place(self.grid, axes, content_channels if combine == "add" else None))
        if positions is not None and combine == "add" and positions.channels != content_channels:
            raise AssemblyError(
                f"{owner}: positions of {positions.channels} channels cannot be added to content of "
                f"{content_channels}; use Projected(positions, {content_channels}), or combine='concat'"
            )
        self.content_channels, self.combine, self.positions = content_channels, combine, positions
        added = positions is None or combine == "add"
        self.channels = content_channels if added else content_channels + positions.channels  # type: ignore[union-attr]

    @property
    def raw_axes(self) -> str:
        """Axes of the raw tensor, such as ``"b 3 h w"``, which ``kit.draw`` shows; empty if undeclared."""
        return ""

    def masked(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Raw tensor and mask as ``embed`` and the rows need them; called if a mask is given.

        A block whose rows read neighbouring raw values removes those that may not be read; a block whose mask may be
        over raw values reduces it to rows.
        """
        return raw, mask

    def embed(self, raw: Tensor, name: str) -> Float[Tensor, "b *grid c"]:
        """Content on its grid; raises InputError, naming the modality, for a raw tensor that does not fit."""
        raise undefined(self, "embed(raw, name)")

    def check_values(self, raw: Tensor, name: str) -> None:
        """Raise InputError for wrong values, such as ids out of range; called on the CPU (``kit.checks``)."""

    def coordinates(self, raw: Tensor, name: str) -> Float[Tensor, "b n axes"] | None:
        """The coordinates of the rows where they are data; None where the grid gives the positions."""
        return None

    def place(
        self,
        content: Float[Tensor, "b n c"],
        grid: Grid,
        coordinates: Float[Tensor, "b n axes"] | None = None,
        name: str = "coordinates",
    ) -> Float[Tensor, "b n d"]:
        """Content with its positions: those of the grid, or of given coordinates."""
        if self.positions is None:
            return content
        if coordinates is None:
            rows = rearrange(self.positions(grid, device=content.device), "n c -> 1 n c")
        else:
            rows = self.positions.of(coordinates, name)
        if self.combine == "add":
            return content + rows.to(content.dtype)
        # float32 positions and bfloat16 content give float32 rows: the encoder rounds once, at the end.
        return torch.cat([content, rows.expand(content.shape[0], -1, -1)], dim=-1)

    def forward(self, raw: Tensor, name: str = "input") -> Tokens:
        """Tokens of this modality alone."""
        content = self.embed(raw, name)
        grid = tuple(content.shape[1:-1])
        rows = self.place(rearrange(content, "b ... c -> b (...) c"), grid, self.coordinates(raw, name), name)
        return Tokens(rows, Layout(((name, grid),)))
