"""Neighbourhoods of each pixel in a pair of frames, the input of optical flow."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checking import check_positive, check_tensor
from ..errors import AssemblyError
from ..initialisation import linear
from ..plain import is_plain, match_dtype
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class Neighbourhoods(Input):
    """``size`` × ``size`` neighbourhoods in all ``frames`` (b, frames, c, h, w) as one row, then a linear layer.

    One row per pixel of the frames' common grid (h, w); zeros outside the image. The linear layer reads values ordered
    (frame, y, x, channel).

    Source: Perceiver IO (Jaegle et al. 2022), appendix H: 3 × 3 patches of two frames, 54 values, to 64 channels.

    >>> Neighbourhoods(64)(torch.zeros(1, 2, 3, 8, 16)).rows.shape
    torch.Size([1, 128, 64])
    """

    def __init__(
        self,
        out_channels: int,
        *,
        size: int = 3,
        frames: int = 2,
        channels: int = 3,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        check_positive("Neighbourhoods", out_channels=out_channels, size=size, frames=frames, channels=channels)
        if size % 2 == 0:
            raise AssemblyError(f"Neighbourhoods: size must be odd, so that a pixel is in the centre, got {size}")
        super().__init__(out_channels, axes=2, grid=grid, positions=positions, combine=combine)
        self.size, self.frames, self.raw_channels = size, frames, channels
        self.project = linear(frames * size * size * channels, out_channels)

    @property
    def raw_axes(self) -> str:
        return f"b {self.frames} {self.raw_channels} h w"

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        stacked = match_dtype(rearrange(raw, "b t c h w -> b (t c) h w"), self.project)
        sizes = dict(t=self.frames, y=self.size, x=self.size)
        if is_plain(self.project, {nn.Linear}):
            # A linear layer over neighbourhoods is a convolution: the 54 values of each pixel are never materialised.
            kernel = rearrange(self.project.weight, "d (t y x c) -> d (t c) y x", **sizes)
            rows = F.conv2d(stacked, kernel, self.project.bias, padding=self.size // 2)
            return rearrange(rows, "b d h w -> b h w d")
        values = F.unfold(stacked, self.size, padding=self.size // 2)
        height = raw.shape[-2]
        return self.project(rearrange(values, "b (t c y x) (h w) -> b h w (t y x c)", h=height, **sizes))
