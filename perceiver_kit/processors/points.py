"""Readers of point clouds and of sets of entities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from ..checking import check_positive
from ..data.points import CLOUDS, normalised, read_cloud
from ..data.sampling import generator
from ..data.tables import checked_rows
from ..registry import register
from .base import Processor, Reader
from .classes import Classes


def as_rows(source: Any, reader: Reader, columns: int) -> Float[Tensor, "n c"]:
    """An array or nested lists as float32 rows. Raises InputError, naming a bad row."""
    expected = f"numbers (n, {columns})"
    try:
        values = source.detach().cpu() if isinstance(source, Tensor) else torch.as_tensor(np.array(source))
    except (TypeError, ValueError) as error:
        raise reader.refuse(source, expected) from error
    if values.is_complex():
        raise reader.refuse(source, f"real {expected}")
    rows = values.float()
    if rows.ndim != 2 or rows.shape[-1] != columns:
        raise reader.refuse(rows, expected)
    return checked_rows(rows, "source")


@register("processors")
@dataclass(frozen=True)
class Cloud(Reader):
    """A point cloud as float32 (n, axes + features), centred and scaled to [-1, 1]: a path, an array or lists.

    Files are .npy, .csv, .ply, .obj and .off; of a mesh, points on its faces are taken.

    Args:
        points: at most so many points are taken, always the same ones, whatever their order.
        axes: coordinates of a point.
        features: further columns.

    >>> processors.Cloud(points=4).read([[0, 0, 0], [2, 1, 0]])
    tensor([[-1.0000, -0.5000,  0.0000],
            [ 1.0000,  0.5000,  0.0000]])
    """

    points: int = 2000
    axes: int = 3
    features: int = 0
    suffixes: ClassVar[tuple[str, ...]] = CLOUDS
    ragged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("Cloud", points=self.points, axes=self.axes)
        check_positive("Cloud", least=0, features=self.features)

    def read(self, source: Any) -> Float[Tensor, "n c"]:
        columns = self.axes + self.features
        if isinstance(source, str | Path):
            if Path(source).suffix.lower() not in self.suffixes:
                raise self.refuse(source, f"a point cloud: a file ending in {', '.join(self.suffixes)}, or an array")
            rows = read_cloud(Path(source), columns=columns)
        else:
            rows = as_rows(source, self, columns)
        if len(rows) > self.points:
            rows = rows[np.lexsort(rows.numpy().T)]  # the order of a cloud does not matter
            rows = rows[torch.randperm(len(rows), generator=generator(0))[: self.points].sort().values]
        return normalised(rows, self.axes)

    def picture(self, inputs: Mapping[str, Tensor], name: str) -> Tensor | None:
        return None if self.axes != 3 else drawn(inputs[name])


def drawn(points: Float[Tensor, "n c"], size: int = 96) -> Float[Tensor, "3 h w"]:
    """A cloud seen obliquely from above, nearer points darker; y is up.

    >>> drawn(torch.rand(100, 3)).shape
    torch.Size([3, 96, 96])
    """
    x, y, z = points[:, :3].unbind(-1)
    across, up, depth = 0.8 * x + 0.6 * z, y * 0.9 - 0.3 * (0.8 * z - 0.6 * x), 0.8 * z - 0.6 * x
    spot = ((torch.stack([-up, across]) * 0.55 + 0.5).clamp(0, 1) * (size - 2)).long()
    shade = 0.25 + 0.5 * (depth / 2 + 0.5).clamp(0, 1)
    picture = torch.zeros(size * size)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a point is 2 × 2 pixels
        place = (spot[0] + row) * size + spot[1] + column
        picture.scatter_reduce_(0, place, shade, "amax")
    return 1 - repeat(picture, "(h w) -> 3 h w", h=size)


def classify_points(points: int, axes: int, features: int) -> Processor:
    """A point cloud → classes.

    >>> processors.points.classify_points(64, 3, 0).item([[0, 0, 0], [1, 1, 1]]).inputs["points"].shape
    torch.Size([2, 3])
    """
    return Processor({"points": Cloud(points, axes, features)}, Classes())
