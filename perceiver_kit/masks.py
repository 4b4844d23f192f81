"""Which rows each query may read: masks of every kind, checked and combined."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from .checking import describe_value
from .errors import InputError
from .tokens import Grid

# One entry a row, for all queries of a sample; or one entry for each query and row, shared by the batch if b is 1.
Mask = Bool[Tensor, "b n"] | Bool[Tensor, "#b m n"]


@dataclass(frozen=True)
class Masks:
    """What m queries may read of n rows; True = may be read.

    ``rows`` is (b, n), (1, m, n) or (b, m, n). ``queries`` (b, m) says which queries read at all. ``causal`` aligns the
    last query with the last row: query i reads rows 0 to n - m + i.
    """

    rows: Mask | None = None
    queries: Bool[Tensor, "b m"] | None = None
    causal: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.causal, bool):
            raise InputError(f"causal must be True or False, got {describe_value(self.causal)}")

    def checked(self, queries: Float[Tensor, "#b m cq"], keys: Float[Tensor, "b n ck"]) -> Masks:
        """These masks; InputError if they do not fit m queries over n rows."""
        if torch.compiler.is_compiling():
            return self  # sizes may be symbols
        b, m, n = keys.shape[0], queries.shape[1], keys.shape[1]
        for name, mask, shapes in (
            ("mask", self.rows, [(b, n), (1, m, n), (b, m, n)]),
            ("query_mask", self.queries, [(b, m)]),
        ):
            fits = isinstance(mask, Tensor) and mask.dtype == torch.bool and tuple(mask.shape) in shapes
            if mask is not None and not fits:
                expected = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
                raise InputError(f"{name} must be bool {expected}, True = may be read; got {describe_value(mask)}")
        return self

    def readable(
        self, queries: Float[Tensor, "#b m cq"], keys: Float[Tensor, "b n ck"]
    ) -> Bool[Tensor, "#b #m #n"] | None:
        """All masks combined, for the formula; None if all queries read all rows."""
        pairs = self.checked(queries, keys).pairs(queries.shape[1], keys.shape[1], keys.device)
        if self.queries is None:
            return pairs
        reading = rearrange(self.queries, "b m -> b m 1")
        return reading if pairs is None else pairs & reading

    def pairs(self, m: int, n: int, device: torch.device) -> Bool[Tensor, "#b #m n"] | None:
        """Which rows a query may read, ``queries`` aside; None for all."""
        rows = by_query(self.rows)
        if not self.causal:
            return rows
        causal = rearrange(torch.ones(m, n, dtype=torch.bool, device=device).tril(n - m), "m n -> 1 m n")
        return causal if rows is None else causal & rows

    def reading(self, m: int, n: int, device: torch.device) -> Bool[Tensor, "#b #m"] | None:
        """Which queries read anything; None for all."""
        rows = by_query(self.rows)
        reading = None if rows is None else rows.any(-1)
        if self.causal and (rows is not None or m > n):
            # The first row that a query may read comes no later than its last one.
            last = torch.arange(n - m, n, device=device)
            first = 0 if rows is None else rows.to(torch.uint8).argmax(-1)
            reading = (last >= first) if reading is None else reading & (last >= first)
            reading = rearrange(reading, "... m -> (...) m")
        if self.queries is not None:
            reading = self.queries if reading is None else reading & self.queries
        return reading


def row_mask(argument: str, name: str, mask: object, batch: int, grid: Grid, means: str) -> Bool[Tensor, "b n"]:
    """A mask of a modality's rows, (b, rows) or (b, *grid), as (b, rows); InputError if it is another tensor."""
    shapes = [(batch, math.prod(grid))] + ([(batch, *grid)] if len(grid) > 1 else [])
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) not in shapes:
        raise InputError(
            f"{argument} of {name!r} must be bool {' or '.join(map(str, shapes))}, one for each of its rows, "
            f"True = {means}; got {describe_value(mask)}"
        )
    return rearrange(mask, "b ... -> b (...)")


def by_query(mask: Mask | None) -> Bool[Tensor, "#b #m n"] | None:
    """A mask with an axis of queries, of size 1 if it is the same for all."""
    return rearrange(mask, "b n -> b 1 n") if mask is not None and mask.ndim == 2 else mask


def for_all(mask: Mask) -> Bool[Tensor, "#b n"]:
    """The rows that some query may read."""
    return mask if mask.ndim == 2 else mask.any(1)


def combine(one: Mask | None, other: Mask | None) -> Mask | None:
    """Rows that both masks allow."""
    if one is None or other is None:
        return other if one is None else one
    return one & other if one.ndim == other.ndim else by_query(one) & by_query(other)  # type: ignore[operator]
