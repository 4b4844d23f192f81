"""Optical flow."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor, nn

from ..block import LEFT_OUT
from ..checking import short
from ..errors import AssemblyError
from ..registry import register
from ..tokens import Grid
from .base import Affine
from .linear import ToPatches


@register("outputs")
class Flow(ToPatches):
    """Displacement (b, 2, h, w) in pixels, x then y, from one row per ``patch`` of pixels; initially zero.

    The linear layer's result is multiplied by ``scale``: the published 1/100 in training times 20 in evaluation.

    Source: deepmind-research/perceiver, colabs/optical_flow.ipynb.

    >>> Flow(322)(torch.ones(1, 12, 322)).abs().max().item()
    0.0
    """

    objective = "EndPointError"

    def __init__(
        self,
        in_channels: int = LEFT_OUT,
        *,
        patch: tuple[int, int] = (1, 1),
        scale: float = 0.2,
        size: Grid | None = None,
    ) -> None:
        super().__init__(patch, values=2, in_channels=in_channels, size=size)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise AssemblyError(f"Flow: scale must be a finite number, got {short(scale)}")
        self.scale = float(scale)
        nn.init.zeros_(self.project.weight)

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k d"]:
        return self.project(rows) * self.scale

    def affine(self) -> Affine | None:
        layer = super().affine()
        return None if layer is None else Affine(layer.weight * self.scale, layer.bias * self.scale)
