"""Images and video."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from ..checks import check_positive, check_sizes, check_tensor
from ..errors import AssemblyError, InputError
from ..initialisation import linear
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
        size = check_sizes("Patches", "size", size)
        if len(size) not in (2, 3):
            raise AssemblyError(f"Patches: size is (height, width) or (frames, height, width), got {size}")
        check_positive("Patches", channels=channels)
        raw_channels = channels
        for length in size:
            raw_channels *= length
        super().__init__(out_channels or raw_channels, grid=grid, positions=positions, combine=combine)
        self.size, self.raw_channels = size, channels
        if out_channels is not None:
            check_positive("Patches", out_channels=out_channels)
        self.project = None if out_channels is None else linear(raw_channels, out_channels)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        video = len(self.size) == 3
        check_tensor(raw, name, f"b {'t ' if video else ''}{self.raw_channels} h w")
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
