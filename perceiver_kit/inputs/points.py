"""Rows whose places are data: points, measurements at given times, sensors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..block import completed
from ..checking import check_positive, check_tensor
from ..positions import Place, Positions, check_coordinates
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class Points(Input):
    """Points (b, n, axes + channels), one row each: coordinates first, then ``channels`` features.

    ``positions`` gives features of the coordinates, such as ``Fourier`` with the ``ranges`` of the axes; the features
    alone are then the content. Without positions the content is coordinates and features as given. The order of points
    has no effect. With ``missing``, a NaN among the features is a missing value: it becomes zero, and a second half of
    the features says by 1 or 0 which values are there. In training, name the input in ``Data(missing=…)``.

    >>> clock = Fourier(bands=8, max_resolution=(24,), ranges=((0.0, 24.0),))
    >>> Points(1, channels=2, positions=clock)(torch.rand(2, 50, 3)).rows.shape
    torch.Size([2, 50, 19])
    """

    def __init__(
        self,
        axes: int,
        *,
        channels: int = 0,
        missing: bool = False,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        check_positive("Points", axes=axes)
        check_positive("Points", channels=channels, least=0)
        if positions is not None:
            positions = completed(positions, Place(None, axes, channels if combine == "add" else None))
            check_coordinates("Points", positions, axes)
        content = (axes if positions is None else 0) + channels * (1 + missing)
        super().__init__(content, grid=grid, positions=positions, combine=combine)
        self.dimensions, self.features, self.missing = axes, channels, missing

    @property
    def raw_axes(self) -> str:
        return f"b n {self.dimensions + self.features}"

    def coordinates(self, raw: Tensor, name: str) -> Float[Tensor, "b n axes"] | None:
        return None if self.positions is None else raw[..., : self.dimensions]

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes, hint=f"{self.dimensions} coordinates, then {self.features} features")
        if not self.missing:
            return raw if self.positions is None else raw[..., self.dimensions :]
        places, values = raw.tensor_split([self.dimensions], -1)
        there = ~values.isnan()
        content = torch.cat([torch.where(there, values, 0), there.to(raw.dtype)], -1)
        return torch.cat([places, content], -1) if self.positions is None else content
