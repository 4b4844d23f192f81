"""Labelled images as data for masked autoencoding: the image and its label are inputs and targets, rows hidden."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator

from ..checks import check_positive, check_probability
from .folders import Size, image_folder
from .images import Images
from .sampling import Samples
from .task import Task
from .tasks import mnist


class MaskedRows(Samples):
    """``image`` float32 (c, h, w) and ``label`` one-hot (1, classes); ``mask`` hides pixels and labels.

    Each pixel and each label is hidden with probability ``rate``. Targets are NaN where the input may be read.

    >>> images = Images(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
    >>> sample = MaskedRows(images, classes=5, rate=0.5)[0]
    >>> sample["mask"]["image"].shape, sample["targets"]["label"].shape
    (torch.Size([8, 8]), torch.Size([1, 5]))
    """

    def __init__(self, images: Images, *, classes: int, channels: int = 1, rate: float = 0.85) -> None:
        check_positive("MaskedRows", classes=classes, channels=channels)
        check_probability("MaskedRows", rate=rate)
        self.images, self.classes, self.channels, self.rate = images, classes, channels, rate
        self.seed = images.seed

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        made = self.images.sample(index, random, training)
        image = made["inputs"]["image"][: self.channels]
        label = F.one_hot(made["targets"]["label"], self.classes).float()[None]
        mask = {name: torch.rand(shape, generator=random) >= self.rate for name, shape in _shapes(image).items()}
        targets = {
            "image": torch.where(mask["image"], torch.nan, image),
            "label": torch.where(mask["label"][:, None], torch.nan, label),
        }
        return {"inputs": {"image": image, "label": label}, "mask": mask, "targets": targets}


def _shapes(image: torch.Tensor) -> dict[str, tuple[int, ...]]:
    return {"image": tuple(image.shape[1:]), "label": (1,)}


def _masked(name: str, task: Task, rate: float, channels: int) -> Task:
    classes = len(task.classes)
    train, held_out = (
        MaskedRows(part, classes=classes, channels=channels, rate=rate)  # type: ignore[arg-type]
        for part in (task.train, task.held_out)
    )
    grid = train[0]["mask"]["image"].shape
    modalities = dict(image=(*grid, channels), label=(1, classes))
    return Task(name, train, held_out, dict(modalities=modalities), task.source)


def masked_digits(*, seed: int = 0, rate: float = 0.85) -> Task:
    """Digits, 28 × 28, and their classes, of which ``rate`` are hidden."""
    return _masked("masked_digits", mnist(seed=seed), rate, channels=1)


def masked_pictures(path: Path, *, image_size: Size = 28, seed: int = 0, rate: float = 0.85) -> Task:
    """A folder of pictures by class, as ``folders.image_folder`` reads it."""
    return _masked(path.name, image_folder(path, image_size=image_size, seed=seed), rate, channels=3)
