"""Modalities that are already rows: a label, or features of another source."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from ..checking import check_positive, check_tensor
from ..errors import AssemblyError
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class OneHot(Input):
    """A label (b, classes), one-hot or any class weights, as one row.

    >>> OneHot(10)(torch.eye(10)[:2]).rows.shape
    torch.Size([2, 1, 10])
    """

    def __init__(self, classes: int) -> None:
        check_positive("OneHot", classes=classes)
        super().__init__(classes, grid=(1,))
        self.classes = classes

    @property
    def raw_axes(self) -> str:
        return f"b {self.classes}"

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes, hint="one-hot labels: torch.nn.functional.one_hot(…).float()")
        return rearrange(raw, "b classes -> b 1 classes")


@register("inputs")
class Features(Input):
    """Rows as given: (b, n, channels), or (b, *grid, channels) with a grid of ``axes`` axes.

    For points, tracks, measurements or the features of another network: anything with channels last.

    >>> Features(3, axes=2)(torch.zeros(2, 8, 8, 3)).rows.shape
    torch.Size([2, 64, 3])
    """

    def __init__(
        self,
        channels: int,
        *,
        axes: int = 1,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "concat",
    ) -> None:
        check_positive("Features", channels=channels, axes=axes)
        super().__init__(channels, axes=axes, grid=grid, positions=positions, combine=combine)
        if self.grid is not None and len(self.grid) != axes:
            raise AssemblyError(f"Features: grid must have {axes} axes, got {self.grid}")

    @property
    def raw_axes(self) -> str:
        letters = "n" if self.axes == 1 else " ".join(f"n{axis + 1}" for axis in range(self.axes))
        return f"b {letters} {self.content_channels}"

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes)
        return raw
