"""Tables: one row of tokens for each column."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ..checking import check_positive, check_sizes, check_tensor, checks_values
from ..errors import AssemblyError, InputError
from ..initialisation import learned
from ..registry import register
from .base import Input


@register("inputs")
class Table(Input):
    """A row of a table (b, columns): each column becomes a token. NaN is a missing value.

    ``numeric`` columns come first, best standardised to mean 0 and deviation 1: the value times a learned vector plus
    another. Then follow columns of classes, whose numbers ``categories`` are; a class index from 0 is looked up. A
    missing value is a learned vector of its column. In training, name the input in ``Data(missing=…)``.

    Source: FT-Transformer (Gorishniy et al. 2021), section 3.3.

    >>> table = Table(numeric=2, categories=(3,), channels=8)
    >>> table(torch.tensor([[0.5, -1.2, 2.0], [float("nan"), 0.1, float("nan")]])).rows.shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, numeric: int, *, categories: tuple[int, ...] = (), channels: int) -> None:
        check_positive("Table", numeric=numeric, least=0)
        check_positive("Table", channels=channels)
        self.categories: tuple[int, ...] = check_sizes("Table", "categories", categories) if categories else ()
        columns = numeric + len(self.categories)
        if not columns:
            raise AssemblyError("Table: expected at least one column, got numeric=0 and no categories")
        super().__init__(channels, grid=(columns,))
        self.numeric = numeric
        self.scale, self.shift = learned(numeric, channels), learned(numeric, channels)
        self.classes = nn.ModuleList(
            nn.Embedding(classes, channels, _weight=learned(classes, channels)) for classes in self.categories
        )
        self.absent = learned(columns, channels)

    @property
    def raw_axes(self) -> str:
        return f"b {self.numeric + len(self.categories)}"

    def embed(self, raw: Tensor, name: str) -> Tensor:
        hint = f"{self.numeric} numbers, then {len(self.categories)} class indices as floats; NaN is missing"
        check_tensor(raw, name, self.raw_axes, hint=hint)
        if checks_values(raw):
            self.check_values(raw, name)
        missing = raw.isnan()
        raw = torch.where(missing, 0, raw)
        parts = []
        if self.numeric:
            values = rearrange(raw[:, : self.numeric], "b n -> b n 1").to(self.scale.dtype)
            parts.append(values * self.scale + self.shift)
        for column, embedding in enumerate(self.classes, start=self.numeric):
            index = raw[:, column]
            parts.append(rearrange(embedding(index.long()), "b c -> b 1 c"))
        return torch.where(rearrange(missing, "b n -> b n 1"), self.absent, torch.cat(parts, 1))

    def check_values(self, raw: Tensor, name: str) -> None:
        for column, classes in enumerate(self.categories, start=self.numeric):
            index = raw[:, column].nan_to_num()
            low, high = float(index.min()), float(index.max())
            if low < 0 or high >= classes or bool((index % 1 != 0).any()):
                raise InputError(
                    f"{name}: column {column} must be class indices from 0 to {classes - 1}, or NaN; got {low:g} to "
                    f"{high:g}"
                )
