"""Images and video through convolutions: a linear map of each pixel, and the stem."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from einops import pack, rearrange, unpack
from torch import Tensor, nn

from ..checking import check_choice, check_elements, check_positive, check_tensor
from ..errors import AssemblyError, InputError
from ..initialisation import scale_by_fan_in
from ..plain import is_plain, match_dtype
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input
from .image import image_axes, image_or_video, strided


@register("inputs")
class Conv1x1(Input):
    """A learned linear map of each pixel of an image (b, c, h, w) or a video (b, t, c, h, w) to ``out_channels``.

    ``stride`` as for ``Pixels``.

    >>> Conv1x1(64, stride=(2, 2))(torch.zeros(2, 3, 8, 16)).rows.shape
    torch.Size([2, 32, 64])
    """

    def __init__(
        self,
        out_channels: int,
        *,
        stride: tuple[int, ...] = (1, 1),
        channels: int = 3,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        stride = image_or_video("Conv1x1", "stride", stride)
        check_positive("Conv1x1", out_channels=out_channels, channels=channels)
        super().__init__(out_channels, axes=len(stride), grid=grid, positions=positions, combine=combine)
        self.stride, self.raw_channels = stride, channels
        check_elements("Conv1x1", channels, out_channels)
        self.conv = nn.Conv2d(channels, out_channels, kernel_size=1)
        scale_by_fan_in(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    @property
    def raw_axes(self) -> str:
        return image_axes(self.raw_channels, video=len(self.stride) == 3)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        pixels = match_dtype(strided(raw, self.stride), self.conv)
        if is_plain(self.conv, {nn.Conv2d}) and _is_linear(self.conv):
            # A matrix product with channels last gives the rows' layout: no copy back from channels first.
            weight = rearrange(self.conv.weight, "d c 1 1 -> d c")
            return F.linear(rearrange(pixels, "... c h w -> ... h w c"), weight, self.conv.bias)
        frames, leading = pack([pixels], "* c h w")
        return unpack(rearrange(self.conv(frames), "b c h w -> b h w c"), leading, "* h w c")[0]


def _is_linear(conv: nn.Conv2d) -> bool:
    """True for a linear map of each pixel."""
    return conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


@register("inputs")
class ConvStem(Input):
    """A small convolutional stem: 7×7 convolution of stride 2, batch norm, ReLU, 3×3 max-pool of stride 2.

    Each of ``layers`` divides height and width by 4. ``axes`` is 2 for images (b, c, h, w) and 3 for video
    (b, t, c, h, w), frame by frame. ``padding`` is ``"same"`` as in the original (224 → 56), or
    ``"huggingface"``, which pads the convolution by 3 on each side and the pool not at all (224 → 55). With ``"same"``
    the mask of an image may be over pixels: a row is read if one of its pixels is.

    Source: deepmind-research/perceiver, io_processors.py, Conv2DDownsample; batch norm decay 0.9.

    >>> ConvStem(64)(torch.zeros(2, 3, 32, 64)).rows.shape
    torch.Size([2, 128, 64])
    """

    def __init__(
        self,
        out_channels: int = 64,
        *,
        layers: int = 1,
        axes: int = 2,
        channels: int = 3,
        batch_norm: bool = True,
        padding: Literal["same", "huggingface"] = "same",
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        check_positive("ConvStem", out_channels=out_channels, channels=channels)
        check_positive("ConvStem", layers=layers, most=16)  # 16 layers divide height and width by 4^16
        check_choice("ConvStem", "padding", padding, ("same", "huggingface"))
        if axes not in (2, 3):
            raise AssemblyError(f"ConvStem: axes must be 2 (images) or 3 (video), got {axes!r}")
        super().__init__(out_channels, axes=axes, grid=grid, positions=positions, combine=combine)
        self.raw_channels, self.padding = channels, padding
        check_elements("ConvStem", 49, out_channels, max(channels, out_channels))
        widths = [channels] + [out_channels] * (layers - 1)
        self.convs = nn.ModuleList(nn.Conv2d(width, out_channels, 7, stride=2, bias=False) for width in widths)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(out_channels, momentum=0.1) if batch_norm else nn.Identity() for _ in widths
        )
        for conv in self.convs:
            scale_by_fan_in(conv.weight)  # type: ignore[arg-type]

    @property
    def raw_axes(self) -> str:
        return image_axes(self.raw_channels, video=self.axes == 3)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        frames, leading = pack([raw], "* c h w")
        frames = match_dtype(frames, self.convs)
        if frames.device.type == "cpu":
            # The stem alone takes 0.6 of the time forward and backward (16 × 96 × 96, 32 channels), 0.4 forward at 224.
            frames = frames.contiguous(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            frames = norm(conv(self._padded(frames, 7, 0.0)))
            if self.padding == "huggingface" and min(frames.shape[-2:]) < 3:
                raise InputError(f"{name} is {tuple(raw.shape)}, too small for a stem whose pool is not padded")
            # ReLU after the pool: the maximum is the same, of a quarter of the values.
            frames = F.max_pool2d(self._padded(frames, 3, -math.inf), 3, stride=2).relu()
        return unpack(rearrange(frames, "b c h w -> b h w c"), leading, "* h w c")[0]

    def masked(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        if self.axes == 2 and self.padding == "same" and raw.ndim == 4 and mask.dtype == torch.bool:
            (height, width), part = raw.shape[-2:], 4 ** len(self.convs)
            if mask.shape[0] == raw.shape[0] and mask.shape[1:] in ((height * width,), (height, width)):
                pixels = rearrange(rearrange(mask, "b ... -> b (...)"), "b (h w) -> b 1 h w", h=height)
                raw = raw.masked_fill(~pixels, 0)
                pooled = F.max_pool2d(pixels.float(), part, ceil_mode=True)
                mask = rearrange(pooled > 0, "b 1 h w -> b h w")
        return raw, mask

    def _padded(self, frames: Tensor, kernel: int, value: float) -> Tensor:
        if self.padding == "huggingface":
            return F.pad(frames, (3, 3, 3, 3)) if kernel == 7 else frames
        # SAME: ⌈size / 2⌉ outputs; odd padding has its extra pixel at the end.
        sides = []
        for size in reversed(frames.shape[-2:]):
            total = kernel - 2 + size % 2
            sides += [total // 2, total - total // 2]
        return F.pad(frames, sides, value=value)
