"""Images and video as rows: patches and pixels."""

from __future__ import annotations

import math

from einops import rearrange
from torch import Tensor

from ..checking import check_positive, check_sizes, check_tensor
from ..errors import AssemblyError, InputError
from ..initialisation import linear
from ..plain import match_dtype
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class Patches(Input):
    """Patches of an image (b, c, h, w) or a video (b, t, c, h, w), one row each.

    ``size`` is (height, width) for images and (frames, height, width) for video. The values of a row are ordered
    (frame, y, x, channel); ``out_channels`` adds a linear layer. ``size`` must divide the raw sizes.

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
        size = image_or_video("Patches", "size", size)
        check_positive("Patches", channels=channels)
        patch_channels = math.prod(size) * channels
        if out_channels is not None:
            check_positive("Patches", out_channels=out_channels)
        super().__init__(
            out_channels or patch_channels, axes=len(size), grid=grid, positions=positions, combine=combine
        )
        self.size, self.raw_channels = size, channels
        self.project = None if out_channels is None else linear(patch_channels, out_channels)

    @property
    def raw_axes(self) -> str:
        return image_axes(self.raw_channels, video=len(self.size) == 3)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        content = to_patches(raw, self.size, name)
        return content if self.project is None else self.project(match_dtype(content, self.project))


@register("inputs")
class Pixels(Input):
    """Pixels of an image (b, c, h, w) or a video (b, t, c, h, w), one row each.

    ``stride`` subsamples: (height, width) for images, (frames, height, width) for video.

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
        stride = image_or_video("Pixels", "stride", stride)
        check_positive("Pixels", channels=channels)
        super().__init__(channels, axes=len(stride), grid=grid, positions=positions, combine=combine)
        self.stride = stride

    @property
    def raw_axes(self) -> str:
        return image_axes(self.content_channels, video=len(self.stride) == 3)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        return rearrange(strided(raw, self.stride), "... c h w -> ... h w c")


# An image or a video, and its patches, by the number of axes.
PATCHES = {
    2: ("b c (h dh) (w dw)", "b h w (dh dw c)"),
    3: ("b (t dt) c (h dh) (w dw)", "b t h w (dt dh dw c)"),
}


def to_patches(raw: Tensor, size: Grid, name: str) -> Tensor:
    """Patches of an image or a video, (b, *grid, c); InputError, naming it, unless ``size`` divides its axes."""
    extent = (*raw.shape[1:2], *raw.shape[-2:]) if len(size) == 3 else tuple(raw.shape[-2:])
    if any(whole % part for whole, part in zip(extent, size, strict=True)):
        axes = "frames, height and width" if len(size) == 3 else "height and width"
        raise InputError(
            f"{name} is {tuple(raw.shape)} but patches of {size} need {axes} divisible by them; crop or pad"
        )
    whole, patches = PATCHES[len(size)]
    return rearrange(raw, f"{whole} -> {patches}", **_extents(size))


def from_patches(patches: Tensor, size: Grid) -> Tensor:
    """The image or video of patches (b, *grid, c), the inverse of ``to_patches``."""
    whole, content = PATCHES[len(size)]
    return rearrange(patches, f"{content} -> {whole}", **_extents(size))


def _extents(size: Grid) -> dict[str, int]:
    return dict(zip(("dt", "dh", "dw")[-len(size) :], size, strict=True))


def image_or_video(owner: str, name: str, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes of an image (height, width) or a video (frames, height, width); else an AssemblyError."""
    sizes = check_sizes(owner, name, sizes)
    if len(sizes) not in (2, 3):
        raise AssemblyError(f"{owner}: {name} must be (height, width) or (frames, height, width), got {sizes}")
    return sizes


def image_axes(channels: int, video: bool) -> str:
    """Axes of a raw image or video, as ``check_tensor`` takes them."""
    return f"b {'t ' if video else ''}{channels} h w"


def strided(raw: Tensor, stride: tuple[int, ...]) -> Tensor:
    """A subsampled image or video."""
    if len(stride) == 3:
        raw = raw[:, :: stride[0]]
    return raw[..., :: stride[-2], :: stride[-1]]
