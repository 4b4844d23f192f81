"""Matches between two frames: a small cost volume as rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor

from ..checking import check_positive, check_tensor
from ..errors import InputError
from ..initialisation import linear
from ..plain import match_dtype
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input

# Smallest variance of a standardised neighbourhood that counts as a difference.
FLOOR = 0.02


@register("inputs")
class Matches(Input):
    """Where patches of the first of two frames (b, 2, c, h, w) are found in the second: one row per patch.

    Frames are standardised pair by pair and averaged over channels. A row is a softmax over all offsets of up to
    ``radius`` pixels, by the squared difference of the patch of ``stride`` × ``stride`` pixels and its border of one;
    a linear layer to ``out_channels`` follows. ``stride`` must divide h and w. A mask may be over pixels or patches.

    This is a prior that the published model does not have: it learns to match from pixels alone.

    >>> Matches(48, radius=3, stride=2)(torch.randn(1, 2, 3, 8, 16)).rows.shape
    torch.Size([1, 32, 48])
    """

    def __init__(
        self,
        out_channels: int,
        *,
        radius: int = 8,
        stride: int = 1,
        channels: int = 3,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        check_positive("Matches", out_channels=out_channels, radius=radius, stride=stride, channels=channels)
        super().__init__(out_channels, axes=2, grid=grid, positions=positions, combine=combine)
        self.radius, self.stride, self.raw_channels = radius, stride, channels
        self.project = linear((2 * radius + 1) ** 2, out_channels)

    @property
    def raw_axes(self) -> str:
        return f"b 2 {self.raw_channels} h w"

    def masked(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if mask.dtype != torch.bool or raw.ndim != 5 or len(mask) != len(raw):
            return raw, mask  # refused later
        height, width = raw.shape[-2:]
        rows, columns = height // self.stride, width // self.stride
        if mask.numel() == len(raw) * height * width:
            pixels = rearrange(mask, "b ... -> b (...)")
            pixels = rearrange(pixels, "b (h w) -> b h w", h=height)
            if height % self.stride == width % self.stride == 0:
                mask = reduce(pixels.float(), "b (h dh) (w dw) -> b h w", "max", h=rows, w=columns) > 0
        elif mask.numel() == len(raw) * rows * columns:
            patches = rearrange(rearrange(mask, "b ... -> b (...)"), "b (h w) -> b h w", h=rows)
            pixels = repeat(patches, "b h w -> b (h dh) (w dw)", dh=self.stride, dw=self.stride)
        else:
            return raw, mask
        return raw.masked_fill(rearrange(~pixels, "b h w -> b 1 1 h w"), 0), mask

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        if raw.shape[-2] % self.stride or raw.shape[-1] % self.stride:
            raise InputError(f"{name} is {tuple(raw.shape)}, but height and width must be divisible by {self.stride}")
        return self.project(match_dtype(self._matches(raw.float()), self.project))

    @torch.no_grad()
    def _matches(self, raw: Float[Tensor, "b 2 c h w"]) -> Float[Tensor, "b rows columns offsets"]:
        grey = reduce(raw, "b t c h w -> b t h w", "mean")
        spread, mean = torch.std_mean(grey, (1, 2, 3), keepdim=True, correction=0)
        first, second = ((grey - mean) / (spread + 1e-2)).unbind(1)
        size, offsets = second.shape[-2:], 2 * self.radius + 1
        wide = F.pad(second, (self.radius,) * 4, mode="replicate")
        # A view of all shifts: einops has no sliding windows.
        shifted = wide.unfold(1, size[0], 1).unfold(2, size[1], 1)
        cost = rearrange((rearrange(first, "b h w -> b 1 1 h w") - shifted).square(), "b y x h w -> b (y x) h w")
        cost = F.avg_pool2d(cost, self.stride + 2, self.stride, 1, count_include_pad=False)
        cost = cost / (cost.mean(1, keepdim=True) / 8 + FLOOR)
        # Times the root of their number: uniform matches then have entries of the size of other features.
        return rearrange((-cost).softmax(1) * offsets, "b n h w -> b h w n")
