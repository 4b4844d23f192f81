"""``Tokens``: the rows of all modalities end to end, their layout by modality, and a mask of readable rows.

One legend of letters serves every shape in the kit:

=====  ==============================================
b      batch
n      input rows (keys)
m      latents
o, k   queries and output rows; k for a subset
c, d   channels; d for latents
t h w  axes of a grid: frames, height, width
=====  ==============================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.utils import _pytree as pytree

from .errors import UnknownName, nearest

Grid = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The rows of each modality: named segments end to end, each with its grid, such as (frames, height, width).

    >>> layout = Layout((("audio", (6,)), ("image", (2, 4, 4))))
    >>> layout.rows, layout.slice("image")
    (38, slice(6, 38, None))
    """

    segments: tuple[tuple[str, Grid], ...]

    @property
    def rows(self) -> int:
        return sum(math.prod(grid) for _, grid in self.segments)

    def grid(self, name: str) -> Grid:
        for segment, grid in self.segments:
            if segment == name:
                return grid
        raise UnknownName(f"there are no rows of {name!r}; {nearest(name, self)}")

    def slice(self, name: str) -> slice:
        start = 0
        for segment, grid in self.segments:
            stop = start + math.prod(grid)
            if segment == name:
                return slice(start, stop)
            start = stop
        raise UnknownName(f"there are no rows of {name!r}; {nearest(name, self)}")

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.segments)


@dataclass(frozen=True)
class Tokens:
    """Rows (b, n, c) with their layout; ``mask`` (b, n) is True where a row may be read, None where all may be.

    >>> tokens = Tokens(torch.zeros(2, 38, 8), Layout((("audio", (6,)), ("image", (2, 4, 4)))))
    >>> tokens["image"].shape
    torch.Size([2, 32, 8])
    """

    rows: Float[Tensor, "b n c"]
    layout: Layout
    mask: Bool[Tensor, "b n"] | None = None

    def __getitem__(self, name: str) -> Float[Tensor, "b k c"]:
        """The rows of one modality."""
        return self.rows[:, self.layout.slice(name)]


@dataclass(frozen=True)
class Encoded:
    """The result of ``encode``: latents (b, m, d), the inputs' layout, and those inputs that a query reads.

    ``given`` names the modalities that were passed in, not replaced by mask tokens. ``rows`` has the encoder's
    input rows, positions included; ``content`` has the rows without positions. While an output is decoded, ``asked`` is
    the tensor that the call's ``queries`` give for its query.

    >>> enc = build("masked_lm", preset="tiny").encode({"text": torch.zeros(2, 10, dtype=torch.int64)})
    >>> enc.latents.shape, enc.given
    (torch.Size([2, 32, 128]), ('text',))
    """

    latents: Float[Tensor, "b m d"]
    layout: Layout
    given: tuple[str, ...] = ()
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    content: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Tensor | None = None


def _register(cls: type, tensors: tuple[str, ...], static: tuple[str, ...]) -> None:
    """Make a dataclass a pytree, so that export, vmap and data-parallel wrappers see its tensors."""

    def flatten(value: Any) -> tuple[list[Any], Any]:
        # None is not a leaf: tree_map functions of tensors would fail on it.
        present = tuple(name for name in tensors if getattr(value, name) is not None)
        return [getattr(value, name) for name in present], (present, tuple(getattr(value, name) for name in static))

    def unflatten(leaves: Any, context: Any) -> Any:
        present, values = context
        return cls(**dict(zip(present, leaves, strict=True)), **dict(zip(static, values, strict=True)))

    pytree.register_pytree_node(cls, flatten, unflatten, serialized_type_name=f"perceiver_kit.{cls.__name__}")


_register(Tokens, ("rows", "mask"), ("layout",))
_register(Encoded, ("latents", "rows", "content", "asked"), ("layout", "given"))


def take_rows(rows: Shaped[Tensor, "#b n *c"], index: Tensor | None) -> Shaped[Tensor, "#b k *c"]:
    """Rows at flat indices (k,), the same for the whole batch, or (b, k), each sample's own; all for None."""
    if index is None:
        return rows
    if index.ndim == 1:
        return rows[:, index]
    samples = rearrange(torch.arange(index.shape[0], device=index.device), "b -> b 1")
    return rows.expand(index.shape[0], *rows.shape[1:])[samples, index]


# einops remembers its backend for each type of tensor, and torch.compile guards on that table: a graph compiled before
# the table is full would be compiled again.
for _rows in (torch.empty(0), torch.nn.Parameter(torch.empty(0))):
    rearrange(_rows, "n -> n")
