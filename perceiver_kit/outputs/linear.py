"""Outputs of at most one linear layer: rows, pixels, a waveform, classes."""

from __future__ import annotations

from einops import rearrange, unpack
from jaxtyping import Float
from torch import Tensor, nn

from ..checks import check_positive
from ..errors import InputError
from ..initialisation import linear
from ..plain import is_plain
from ..registry import register
from ..tokens import Grid
from .base import Affine, Output


@register("outputs")
class Rows(Output):
    """The decoder's rows as they are: (b, o, in_channels).

    >>> Rows(8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        check_positive("Rows", in_channels=in_channels)
        self.in_channels = in_channels

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k c"]:
        return rows


@register("outputs")
class Project(Output):
    """Rows (b, o, in_channels) → rows (b, o, channels).

    >>> Project(512, 7)(torch.zeros(2, 5, 512)).shape
    torch.Size([2, 5, 7])
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        check_positive(type(self).__name__, in_channels=in_channels, channels=channels)
        self.in_channels, self.channels = in_channels, channels
        self.project = linear(in_channels, channels)

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k d"]:
        return self.project(rows)

    def affine(self) -> Affine | None:
        # A layer that replaces this one, such as a low-rank adapter, may not be linear.
        linear = is_plain(self.project, {nn.Linear}) and self.project.bias is not None
        return Affine(self.project.weight, self.project.bias) if linear else None


@register("outputs")
class ToPixels(Project):
    """``channels`` values per pixel, channels first: images (b, c, h, w), or video (b, t, c, h, w).

    >>> ToPixels(512, 3).whole(torch.zeros(2, 32, 3), (2, 4, 4)).shape
    torch.Size([2, 2, 3, 4, 4])
    """

    def check_grid(self, name: str, grid: Grid) -> None:
        if len(grid) not in (2, 3):
            raise InputError(f"output {name!r}: the grid of pixels must be (h, w) or (t, h, w), got {grid}")

    def whole(self, rows: Float[Tensor, "b o c"], grid: Grid) -> Tensor:
        [pixels] = unpack(rows, [grid], "b * c")
        return rearrange(pixels, "b ... h w c -> b ... c h w")

    def rows_of(self, whole: Tensor) -> Tensor:
        if not whole.is_floating_point():  # a class for each pixel
            return rearrange(whole, "b ... -> b (...)")
        return rearrange(whole, "b ... c h w -> b (... h w) c")


@register("outputs")
class ToWaveform(Project):
    """``samples_per_patch`` samples per row, end to end: (b, samples).

    >>> ToWaveform(512, 16).whole(torch.zeros(2, 30, 16), (30,)).shape
    torch.Size([2, 480])
    """

    def __init__(self, in_channels: int, samples_per_patch: int) -> None:
        super().__init__(in_channels, samples_per_patch)

    def whole(self, rows: Float[Tensor, "b o c"], grid: Grid) -> Float[Tensor, "b samples"]:
        return rearrange(rows, "b o c -> b (o c)")

    def rows_of(self, whole: Float[Tensor, "b samples"]) -> Float[Tensor, "b o c"]:
        return rearrange(whole, "b (o c) -> b o c", c=self.channels)


@register("outputs")
class Classify(Project):
    """Logits of ``classes`` from a single row: (b, classes).

    >>> Classify(512, 10).whole(torch.zeros(2, 1, 10), (1,)).shape
    torch.Size([2, 10])
    """

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__(in_channels, classes)

    def check_grid(self, name: str, grid: Grid) -> None:
        if grid != (1,):
            raise InputError(f"output {name!r} has classes from one row, grid (1,), got {grid}")

    def whole(self, rows: Float[Tensor, "b 1 c"], grid: Grid) -> Float[Tensor, "b c"]:
        return rearrange(rows, "b 1 c -> b c")

    def rows_of(self, whole: Float[Tensor, "b c"]) -> Float[Tensor, "b 1 c"]:
        return rearrange(whole, "b c -> b 1 c")
