"""Images and video: pixels, patches, convolutions, and neighbourhoods of a pair of frames."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checks import check_choice, check_elements, check_positive, check_sizes, check_tensor
from ..errors import AssemblyError, InputError
from ..initialisation import linear, scale_by_fan_in
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class Patches(Input):
    """Patches of an image (b, c, h, w) or a video (b, t, c, h, w), each a row of its values.

    ``size`` is (height, width) for images and (frames, height, width) for video. The values of a row are ordered
    (frame, y, x, channel); ``out_channels`` puts a linear layer after them. The raw sizes must be divisible.

    >>> Patches((1, 4, 4))(torch.zeros(2, 3, 3, 8, 16)).rows.shape
    torch.Size([2, 24, 48])
    """

    def __init__(
        self,
        size: tuple[int, ...],
        *,
        channels: int = 3,
        out_channels: int | None = None,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        size = _image_or_video("Patches", "size", size)
        check_positive("Patches", channels=channels)
        patch_channels = math.prod(size) * channels
        if out_channels is not None:
            check_positive("Patches", out_channels=out_channels)
        super().__init__(out_channels or patch_channels, grid=grid, positions=positions, combine=combine)
        self.size, self.raw_channels = size, channels
        self.project = None if out_channels is None else linear(patch_channels, out_channels)

    @property
    def raw_axes(self) -> str:
        return _axes(self.raw_channels, video=len(self.size) == 3)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        video = len(self.size) == 3
        check_tensor(raw, name, self.raw_axes)
        extent = (*raw.shape[1:2], *raw.shape[-2:]) if video else tuple(raw.shape[-2:])
        if any(whole % part for whole, part in zip(extent, self.size, strict=True)):
            axes = "frames, height and width" if video else "height and width"
            raise InputError(
                f"{name} is {tuple(raw.shape)} but patches of {self.size} need {axes} divisible by them: crop or pad"
            )
        if video:
            t, h, w = self.size
            content = rearrange(raw, "b (t dt) c (h dh) (w dw) -> b t h w (dt dh dw c)", dt=t, dh=h, dw=w)
        else:
            h, w = self.size
            content = rearrange(raw, "b c (h dh) (w dw) -> b h w (dh dw c)", dh=h, dw=w)
        return content if self.project is None else self.project(content.to(self.project.weight.dtype))


@register("inputs")
class Pixels(Input):
    """Pixels of an image (b, c, h, w) or a video (b, t, c, h, w), each a row.

    ``stride`` is (height, width) for images and (frames, height, width) for video: every so many pixels is taken.

    >>> Pixels((2, 2))(torch.zeros(2, 3, 8, 16)).rows.shape
    torch.Size([2, 32, 3])
    """

    def __init__(
        self,
        stride: tuple[int, ...] = (1, 1),
        *,
        channels: int = 3,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        stride = _image_or_video("Pixels", "stride", stride)
        check_positive("Pixels", channels=channels)
        super().__init__(channels, grid=grid, positions=positions, combine=combine)
        self.stride = stride

    @property
    def raw_axes(self) -> str:
        return _axes(self.content_channels, video=len(self.stride) == 3)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        return _strided(raw, self.stride).movedim(-3, -1)


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
        stride = _image_or_video("Conv1x1", "stride", stride)
        check_positive("Conv1x1", out_channels=out_channels, channels=channels)
        super().__init__(out_channels, grid=grid, positions=positions, combine=combine)
        self.stride, self.raw_channels = stride, channels
        check_elements("Conv1x1", channels, out_channels)
        self.conv = nn.Conv2d(channels, out_channels, kernel_size=1)
        scale_by_fan_in(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    @property
    def raw_axes(self) -> str:
        return _axes(self.raw_channels, video=len(self.stride) == 3)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        # A matrix product over channels last is where the rows are wanted: no copy back from channels first.
        pixels = _strided(raw, self.stride).movedim(-3, -1).to(self.conv.weight.dtype)
        return F.linear(pixels, self.conv.weight.flatten(1), self.conv.bias)


@register("inputs")
class ConvStem(Input):
    """A small convolutional stem: 7×7 convolution of stride 2, batch norm, ReLU, 3×3 max-pool of stride 2.

    Each of ``layers`` divides height and width by 4. ``axes`` is 2 for images (b, c, h, w) and 3 for video
    (b, t, c, h, w), whose frames are treated alike. ``padding`` is ``"same"`` as in the original (224 → 56), or
    ``"huggingface"``, which pads the convolution by 3 on each side and the pool not at all (224 → 55).

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
        check_positive("ConvStem", layers=layers, most=16)  # which divide height and width by 4^16
        check_choice("ConvStem", "padding", padding, ("same", "huggingface"))
        if axes not in (2, 3):
            raise AssemblyError(f"ConvStem: axes is 2 for images or 3 for video, got {axes!r}")
        super().__init__(out_channels, grid=grid, positions=positions, combine=combine)
        self.axes, self.raw_channels, self.padding = axes, channels, padding
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
        return _axes(self.raw_channels, video=self.axes == 3)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        frames = raw.flatten(0, -4).to(self.convs[0].weight.dtype)  # type: ignore[arg-type]
        for conv, norm in zip(self.convs, self.norms, strict=True):
            frames = norm(conv(self._padded(frames, 7, 0.0))).relu()
            if self.padding == "huggingface" and min(frames.shape[-2:]) < 3:
                raise InputError(f"{name} is {tuple(raw.shape)}, too small for this stem without padding of its pool")
            frames = F.max_pool2d(self._padded(frames, 3, -math.inf), 3, stride=2)
        return frames.movedim(1, -1).unflatten(0, raw.shape[:-3])

    def _padded(self, frames: Tensor, kernel: int, value: float) -> Tensor:
        if self.padding == "huggingface":
            return F.pad(frames, (3, 3, 3, 3)) if kernel == 7 else frames
        # SAME: as many outputs as ⌈size / 2⌉, the odd one of the padding at the end.
        sides = []
        for size in reversed(frames.shape[-2:]):
            total = kernel - 2 + size % 2
            sides += [total // 2, total - total // 2]
        return F.pad(frames, sides, value=value)


@register("inputs")
class Neighbourhoods(Input):
    """``size`` × ``size`` neighbourhoods in all ``frames`` (b, frames, c, h, w) as one row, then a linear layer.

    Each row is one pixel of the frames' common grid (h, w). Outside the image is zero. The values under the linear
    layer are ordered (frame, y, x, channel).

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
            raise AssemblyError(f"Neighbourhoods: size must be odd, for a pixel in the middle, got {size}")
        super().__init__(out_channels, grid=grid, positions=positions, combine=combine)
        self.size, self.frames, self.raw_channels = size, frames, channels
        self.project = linear(frames * size * size * channels, out_channels)

    @property
    def raw_axes(self) -> str:
        return f"b {self.frames} {self.raw_channels} h w"

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        # A linear layer over neighbourhoods is a convolution: the 54 values of every pixel are never written out.
        kernel = rearrange(self.project.weight, "d (t y x c) -> d (t c) y x", t=self.frames, y=self.size, x=self.size)
        stacked = raw.flatten(1, 2).to(kernel.dtype)
        return F.conv2d(stacked, kernel, self.project.bias, padding=self.size // 2).movedim(1, -1)


def _image_or_video(owner: str, name: str, sizes: tuple[int, ...]) -> tuple[int, ...]:
    sizes = check_sizes(owner, name, sizes)
    if len(sizes) not in (2, 3):
        raise AssemblyError(f"{owner}: {name} is (height, width) or (frames, height, width), got {sizes}")
    return sizes


def _axes(channels: int, video: bool) -> str:
    return f"b {'t ' if video else ''}{channels} h w"


def _strided(raw: Tensor, stride: tuple[int, ...]) -> Tensor:
    if len(stride) == 3:
        raw = raw[:, :: stride[0]]
    return raw[..., :: stride[-2], :: stride[-1]]
