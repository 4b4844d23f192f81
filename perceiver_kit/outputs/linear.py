"""Outputs of at most one linear layer: rows, pixels, patches, a waveform, classes."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch.nn.functional as F
from einops import rearrange, unpack
from jaxtyping import Float
from torch import Tensor, nn

from ..block import LEFT_OUT
from ..checking import check_choice, check_positive
from ..errors import InputError
from ..initialisation import linear
from ..inputs.image import from_patches, image_or_video, to_patches
from ..plain import is_plain
from ..registry import register
from ..tokens import Grid
from .base import Affine, Output, checked_size

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]
OBJECTIVES: dict[str, str] = {
    "single_label_classification": "Classification",
    "multi_label_classification": "MultiLabel",
    "regression": "Regression",
}


@register("outputs")
class Rows(Output):
    """The decoder's rows as they are: (b, o, in_channels).

    >>> Rows(8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    objective = "Reconstruction"

    def __init__(self, in_channels: int = LEFT_OUT, *, size: Grid | None = None) -> None:
        super().__init__()
        check_positive("Rows", in_channels=in_channels)
        self.in_channels, self.size = in_channels, checked_size("Rows", size)

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k c"]:
        return rows


@register("outputs")
class Project(Output):
    """Rows (b, o, in_channels) → rows (b, o, channels). ``zero`` initialises the weight to zero.

    ``size`` is the grid of the rows, from which ``kit.assemble`` chooses a query.

    >>> Project(7, in_channels=512)(torch.zeros(2, 5, 512)).shape
    torch.Size([2, 5, 7])
    """

    objective = "Reconstruction"

    def __init__(
        self, channels: int, *, in_channels: int = LEFT_OUT, size: Grid | None = None, zero: bool = False
    ) -> None:
        super().__init__()
        check_positive(type(self).__name__, in_channels=in_channels, channels=channels)
        self.in_channels, self.channels, self.size = in_channels, channels, checked_size(type(self).__name__, size)
        self.project = linear(in_channels, channels)
        if zero:
            nn.init.zeros_(self.project.weight)

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k d"]:
        return self.project(rows)

    def affine(self) -> Affine | None:
        # A layer that replaces this one, such as a low-rank adapter, may not be linear.
        linear = is_plain(self.project, {nn.Linear}) and self.project.bias is not None
        return Affine(self.project.weight, self.project.bias) if linear else None


@register("outputs")
class Quantiles(Project):
    """Rows (b, o, in_channels) → evenly spaced quantiles of several series, (b, o, series, quantiles), in order.

    With ``at``, a row has the quantiles of one series after another. Levels are 1/(quantiles + 1) and its multiples.
    The layer gives the middle one, and the positive distances of all others, so that no two cross.

    >>> Quantiles(2, quantiles=3, in_channels=8).whole(torch.zeros(1, 5, 6), (5,)).shape
    torch.Size([1, 5, 2, 3])
    """

    objective = "Quantile"

    def __init__(
        self, series: int, *, quantiles: int = 9, in_channels: int = LEFT_OUT, size: Grid | None = None
    ) -> None:
        check_positive("Quantiles", series=series, quantiles=quantiles)
        super().__init__(series * quantiles, in_channels=in_channels, size=size)
        self.series, self.quantiles = series, quantiles

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k d"]:
        split = rearrange(self.project(rows), "b k (s q) -> b k s q", s=self.series)
        median, steps = split[..., :1], F.softplus(split[..., 1:])
        offsets = F.pad(steps.cumsum(-1), (1, 0))
        middle = self.quantiles // 2
        ordered = median + offsets - offsets[..., middle : middle + 1]
        return rearrange(ordered, "b k s q -> b k (s q)")

    def affine(self) -> Affine | None:
        return None

    def whole(self, rows: Float[Tensor, "b o d"], grid: Grid) -> Float[Tensor, "b o s q"]:
        return rearrange(rows, "b o (s q) -> b o s q", s=self.series)

    def rows_of(self, whole: Float[Tensor, "b o s q"]) -> Float[Tensor, "b o d"]:
        return rearrange(whole, "b o s q -> b o (s q)")


@register("outputs")
class ToPixels(Project):
    """``channels`` values per pixel, channels first: images (b, c, h, w), or video (b, t, c, h, w).

    >>> ToPixels(3, in_channels=512).whole(torch.zeros(2, 32, 3), (2, 4, 4)).shape
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
class ToPatches(Project):
    """An image (b, c, h, w) or a video (b, t, c, h, w) of one patch per row: the inverse of ``inputs.Patches``.

    ``patch`` is (height, width) for images and (frames, height, width) for video, ``size`` the grid of patches. The
    values of a row are ordered (frame, y, x, channel); with ``at``, a row is a patch.

    >>> ToPatches((1, 4, 4), in_channels=512).whole(torch.zeros(2, 24, 48), (3, 2, 4)).shape
    torch.Size([2, 3, 3, 8, 16])
    """

    def __init__(
        self, patch: tuple[int, ...], *, values: int = 3, in_channels: int = LEFT_OUT, size: Grid | None = None
    ) -> None:
        patch = image_or_video(type(self).__name__, "patch", patch)
        check_positive(type(self).__name__, values=values)
        super().__init__(math.prod(patch) * values, in_channels=in_channels, size=size)
        self.patch, self.values = patch, values

    @property
    def width(self) -> int:
        return self.values

    def check_grid(self, name: str, grid: Grid) -> None:
        if len(grid) != len(self.patch):
            raise InputError(f"output {name!r}: the grid of patches {self.patch} must have as many axes, got {grid}")

    def whole(self, rows: Float[Tensor, "b o c"], grid: Grid) -> Tensor:
        [patches] = unpack(rows, [grid], "b * c")
        return from_patches(patches, self.patch)

    def rows_of(self, whole: Tensor) -> Float[Tensor, "b o c"]:
        return rearrange(to_patches(whole, self.patch, "target"), "b ... c -> b (...) c")


@register("outputs")
class ToWaveform(Project):
    """``samples_per_patch`` samples per row, end to end: (b, samples).

    >>> ToWaveform(16, in_channels=512).whole(torch.zeros(2, 30, 16), (30,)).shape
    torch.Size([2, 480])
    """

    def __init__(self, samples_per_patch: int, *, in_channels: int = LEFT_OUT, size: Grid | None = None) -> None:
        super().__init__(samples_per_patch, in_channels=in_channels, size=size)

    def whole(self, rows: Float[Tensor, "b o c"], grid: Grid) -> Float[Tensor, "b samples"]:
        return rearrange(rows, "b o c -> b (o c)")

    def rows_of(self, whole: Float[Tensor, "b samples"]) -> Float[Tensor, "b o c"]:
        return rearrange(whole, "b (o c) -> b o c", c=self.channels)


@register("outputs")
class Boxes(Project):
    """A box of each row, (b, o, 4): centre x and y, width and height, as shares of the picture in (0, 1).

    >>> Boxes(in_channels=512)(torch.zeros(2, 30, 512)).shape
    torch.Size([2, 30, 4])
    """

    objective = None

    def __init__(self, *, in_channels: int = LEFT_OUT, size: Grid | None = None) -> None:
        super().__init__(4, in_channels=in_channels, size=size)

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k 4"]:
        return self.project(rows).sigmoid()

    def affine(self) -> Affine | None:
        return None


@register("outputs")
class Choose(Project):
    """A logit of each row: (b, o), of which ``Classification`` takes one as the class.

    For the first or the last byte of an answer, the item of a list, the cell of a grid.

    >>> Choose(in_channels=512).whole(torch.zeros(2, 30, 1), (30,)).shape
    torch.Size([2, 30])
    """

    objective = "Classification"

    def __init__(self, *, in_channels: int = LEFT_OUT, size: Grid | None = None) -> None:
        super().__init__(1, in_channels=in_channels, size=size)

    def whole(self, rows: Float[Tensor, "b o 1"], grid: Grid) -> Float[Tensor, "b o"]:
        return rearrange(rows, "b o 1 -> b o")

    def rows_of(self, whole: Float[Tensor, "b o"]) -> Float[Tensor, "b o 1"]:
        return rearrange(whole, "b o -> b o 1")


@register("outputs")
class Classify(Project):
    """Logits of ``classes`` from a single row: (b, classes).

    ``problem_type`` says what the values mean: logits of one class (also where it is None), of any number of classes
    (``"multi_label_classification"``), or values (``"regression"``). It is metadata in Hugging Face's words, for the
    choice of an objective and for reading answers.

    >>> Classify(10, in_channels=512).whole(torch.zeros(2, 1, 10), (1,)).shape
    torch.Size([2, 10])
    """

    size = (1,)

    def __init__(self, classes: int, *, in_channels: int = LEFT_OUT, problem_type: Problem | None = None) -> None:
        super().__init__(classes, in_channels=in_channels, size=(1,))
        if problem_type is not None:
            check_choice("Classify", "problem_type", problem_type, get_args(Problem))
        self.problem_type = problem_type
        self.objective = OBJECTIVES[problem_type or "single_label_classification"]

    def check_grid(self, name: str, grid: Grid) -> None:
        if grid != (1,):
            raise InputError(f"output {name!r} has classes from one row, grid (1,), got {grid}")

    def whole(self, rows: Float[Tensor, "b 1 c"], grid: Grid) -> Float[Tensor, "b c"]:
        return rearrange(rows, "b 1 c -> b c")

    def rows_of(self, whole: Float[Tensor, "b c"]) -> Float[Tensor, "b 1 c"]:
        return rearrange(whole, "b c -> b 1 c")
