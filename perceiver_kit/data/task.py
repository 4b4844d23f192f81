"""What a training run needs to know about its data."""

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
        name: that of the data.
        train: to train on: a map-style data set, ``train[i, step]``.
        held_out: to test on, ``held_out[i]``.
        overrides: parameters that the recipe must be built with:
            ``kit.build(recipe, preset=preset, **task.overrides)``.
        source: where the data come from, and under which licence.
        classes: what each label means; () where nothing is labelled.
    """

    name: str
    train: Dataset[Sample]
    held_out: Dataset[Sample]
    overrides: Mapping[str, Any]
    source: str
    classes: tuple[str, ...] = ()
