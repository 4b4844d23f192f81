"""The data of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset

from .sampling import Sample


@dataclass(frozen=True)
class Task:
    """Data for a recipe: sample data, or a user's own files.

    Args:
        name: the data's name.
        train: the training set, a map-style data set: ``train[i, step]``.
        held_out: the held-out set: ``held_out[i]``.
        overrides: parameters for the recipe: ``kit.build(recipe, preset=preset, **task.overrides)``.
        source: origin and licence of the data.
        classes: a name for each label; () for data without labels.
        processor: reads new files as this data set reads its own, for ``kit.predict``; None: the recipe's.
    """

    name: str
    train: Dataset[Sample]
    held_out: Dataset[Sample]
    overrides: Mapping[str, Any]
    source: str
    classes: tuple[str, ...] = ()
    processor: Any = None
