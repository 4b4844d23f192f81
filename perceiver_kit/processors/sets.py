"""Readers of sets of entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..checking import check_positive
from ..data.sets import SETS
from ..data.tables import read_rows
from ..errors import AssemblyError, InputError
from ..registry import register
from .base import Processor, Reader
from .classes import Classes
from .points import as_rows


@register("processors")
@dataclass(frozen=True)
class Entities(Reader):
    """A set of entities as float32 (n, features), standardised: a .csv or .npy file, an array or lists.

    Args:
        features: columns.
        most: entities at most.
        mean: subtracted from each column; (): nothing.
        deviation: the divisor of each column after that; (): nothing.

    >>> processors.Entities(2, mean=(1.0, 0.0), deviation=(2.0, 1.0)).read([[3, 1], [1, 0]])
    tensor([[1., 1.],
            [0., 0.]])
    """

    features: int
    most: int = 512
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()
    suffixes: ClassVar[tuple[str, ...]] = SETS
    ragged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("Entities", features=self.features, most=self.most)
        for name, given in (("mean", self.mean), ("deviation", self.deviation)):
            if len(given) not in (0, self.features):
                raise AssemblyError(f"Entities: {name} must have {self.features} numbers, got {len(given)}")

    def read(self, source: Any) -> Float[Tensor, "n c"]:
        if isinstance(source, str | Path):
            if Path(source).suffix.lower() not in self.suffixes:
                raise self.refuse(source, f"a set: a file ending in {', '.join(self.suffixes)}, or an array")
            rows = read_rows(Path(source))
            if rows.shape[-1] != self.features:
                raise InputError(f"{source} must have {self.features} columns, got {rows.shape[-1]}")
        else:
            rows = as_rows(source, self, self.features)
        if len(rows) > self.most:
            name = source if isinstance(source, str | Path) else "source"
            raise InputError(f"{name} has {len(rows)} entities; at most {self.most} are read")
        rows = rows - torch.tensor(self.mean) if self.mean else rows
        return rows / torch.tensor(self.deviation) if self.deviation else rows


def classify_set(
    features: int, entities: int, mean: Sequence[float] = (), deviation: Sequence[float] = ()
) -> Processor:
    """A set of entities → classes; ``outputs`` of the answer has the logits of each entity.

    >>> processors.sets.classify_set(3, 8).item([[0, 1, 2]]).inputs["entities"].shape
    torch.Size([1, 3])
    """
    return Processor({"entities": Entities(features, entities, tuple(mean), tuple(deviation))}, Classes())
