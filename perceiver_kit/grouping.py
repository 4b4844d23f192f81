"""Groups of rows: each reads only its own latents, so that cost grows linearly with the number of groups.

A modality has one or more whole groups, of equal numbers of rows, with zero rows at their ends. Sizes depend on the
layout alone, so the encoder and the decoder compute the same groups.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Int64, Shaped
from torch import Tensor

from .errors import InputError
from .positions import unravel
from .tokens import Grid, Layout

Order = Literal["rows", "blocks"]


@dataclass(frozen=True)
class Group:
    """The groups ``first`` to ``first + count - 1``, into which the rows of one grid are divided.

    ``order="rows"`` cuts the rows as they are, ``"blocks"`` along a Z-order curve: a group is then a compact block of
    the grid, and so are neighbouring groups together.

    >>> Group(0, 4, (4, 4), "blocks").split(torch.arange(16.0).view(1, 16, 1))[0, 0, :, 0]
    tensor([0., 1., 4., 5.])
    """

    first: int
    count: int
    grid: Grid
    order: Order = "rows"

    @property
    def length(self) -> int:
        """Rows of a group, zero rows included."""
        return -(-math.prod(self.grid) // self.count)

    def split(self, rows: Shaped[Tensor, "b n *c"]) -> Shaped[Tensor, "b groups length *c"]:
        """The rows by group; a mask (b, n) is split like rows, with False in the place of zeros."""
        if self.order == "blocks":
            rows = rows[:, block_order(self.grid).to(rows.device)]
        missing = self.count * self.length - rows.shape[1]
        rows = F.pad(rows, (*(0,) * (2 * (rows.ndim - 2)), 0, missing))
        return rearrange(rows, "b (groups length) ... -> b groups length ...", groups=self.count)

    def join(self, rows: Shaped[Tensor, "b groups length c"]) -> Shaped[Tensor, "b n c"]:
        """The inverse of ``split``."""
        rows = rearrange(rows, "b groups length c -> b (groups length) c")[:, : math.prod(self.grid)]
        return rows[:, block_order(self.grid).argsort().to(rows.device)] if self.order == "blocks" else rows

    def of(self, index: Int64[Tensor, "*b k"]) -> Int64[Tensor, "*b k"]:
        """The group of each row."""
        if self.order == "blocks":
            index = block_order(self.grid).argsort().to(index.device)[index]
        return self.first + index // self.length


def share_groups(rows: Sequence[int], groups: int) -> list[int]:
    """The number of groups of each modality: one, and the others one by one to that with most rows a group.

    >>> share_groups([29, 10], 4)
    [3, 1]
    """
    counts = [1] * len(rows)
    for _ in range(groups - len(rows)):
        per_group = [n / count for n, count in zip(rows, counts, strict=True)]
        counts[per_group.index(max(per_group))] += 1
    return counts


def groups_of(layout: Layout, groups: int, order: Order) -> dict[str, Group]:
    """The groups of each modality of a layout; InputError for more modalities than groups."""
    names, rows = [name for name, _ in layout.segments], [math.prod(grid) for _, grid in layout.segments]
    if len(names) > groups:
        raise InputError(f"{groups} groups hold at most as many modalities, got {len(names)}: {', '.join(names)}")
    found, first = {}, 0
    for name, count in zip(names, share_groups(rows, groups), strict=True):
        found[name] = Group(first, count, layout.grid(name), order)
        first += count
    return found


def block_order(grid: Grid) -> Int64[Tensor, "n"]:
    """The flat indices of a grid along a Z-order curve: the bits of the coordinates interleaved, first axis first.

    >>> block_order((2, 4))
    tensor([0, 1, 4, 5, 2, 3, 6, 7])
    """
    # A tensor of a trace or of a fake mode must not be cached: eager calls would get it.
    traced = torch.compiler.is_compiling() or type(torch.empty(0, device="cpu")) is not Tensor
    return _z_order(grid) if traced else _cached_z_order(grid)


def _z_order(grid: Grid) -> Int64[Tensor, "n"]:
    index = torch.arange(math.prod(grid), device="cpu")
    key = torch.zeros_like(index)
    coordinates = unravel(index, grid)
    for bit in reversed(range(max(grid).bit_length())):
        for coordinate in coordinates:
            key = 2 * key + (coordinate >> bit) % 2
    return key.argsort()


_cached_z_order = functools.lru_cache(maxsize=64)(_z_order)


def split_layout(
    rows: Shaped[Tensor, "b n *c"], layout: Layout, groups: dict[str, Group]
) -> Shaped[Tensor, "b groups length *c"]:
    """The rows of all modalities by group, all of the length of the longest."""
    length = max(group.length for group in groups.values())
    parts = [group.split(rows[:, layout.slice(name)]) for name, group in groups.items()]
    padded = [F.pad(part, (*(0,) * (2 * (part.ndim - 3)), 0, length - part.shape[2])) for part in parts]
    return torch.cat(padded, 1)
