"""Data for masked autoencoding: every modality is input and target, and most of its rows are hidden."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Generator, Tensor

from ..checking import check_positive, check_probability
from ..errors import InputError
from .clips import CLIP_SOURCE, one_clip
from .folders import Size, image_folder
from .sampling import Samples
from .task import Task
from .tasks import mnist
from .video import load_clip

RATE = 0.85
"""Share of hidden rows, as in Hierarchical Perceiver (Carreira et al. 2022)."""


class MaskedRows(Samples):
    """Samples of which each row of each modality is hidden with probability ``rate``.

    ``modalities`` are those of ``hierarchical_autoencoding``: the grid of rows and their channels. A label () int64
    becomes one-hot (1, channels); values (n · channels,), such as sound, become (n, channels); of pictures (c, h, w)
    and video (t, c, h, w) the first channels are kept. ``mask`` is True where a row may be read; there, targets are
    NaN.

    >>> from perceiver_kit.data.images import Images
    >>> images = Images(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
    >>> sample = MaskedRows(images, dict(image=(8, 8, 1), label=(1, 5)), rate=0.5)[0]
    >>> sample["mask"]["image"].shape, sample["targets"]["label"].shape
    (torch.Size([8, 8]), torch.Size([1, 5]))
    """

    def __init__(self, samples: Samples, modalities: Mapping[str, tuple[int, ...]], *, rate: float = RATE) -> None:
        check_probability("MaskedRows", rate=rate)
        for name, size in modalities.items():
            check_positive("MaskedRows", **{f"{name} {i}": length for i, length in enumerate(size)})
        self.samples, self.modalities, self.rate, self.seed = samples, dict(modalities), rate, samples.seed

    def __len__(self) -> int:
        return len(self.samples)  # type: ignore[arg-type]

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        made = self.samples.sample(index, random, training)
        known = made["targets"] | made["inputs"]
        found: dict[str, dict[str, Tensor]] = {"inputs": {}, "mask": {}, "targets": {}}
        for name, (*grid, channels) in self.modalities.items():
            value = in_rows(known[name], len(grid), channels)
            mask = torch.rand(tuple(grid), generator=random) >= self.rate
            hides = rearrange(mask, "... h w -> ... 1 h w" if len(grid) > 1 else "n -> n 1")
            found["inputs"][name], found["mask"][name] = value, mask
            found["targets"][name] = torch.where(hides, torch.nan, value)
        return found


def in_rows(value: Tensor, axes: int, channels: int) -> Tensor:
    """A value in the form that ``hierarchical_autoencoding`` reads; InputError for one that has no such form.

    >>> in_rows(torch.tensor(2), 1, 3), in_rows(torch.zeros(12), 1, 4).shape
    (tensor([[0., 0., 1.]]), torch.Size([3, 4]))
    """
    if not value.ndim:
        return F.one_hot(value, channels).float()[None]
    if axes > 1:
        return value[..., :channels, :, :]
    if value.numel() % channels:
        raise InputError(f"MaskedRows: {value.numel()} values are no rows of {channels}")
    return rearrange(value, "(n c) -> n c", c=channels)


def _masked(task: Task, modalities: Mapping[str, tuple[int, ...]], rate: float, name: str | None = None) -> Task:
    train, held_out = (MaskedRows(part, modalities, rate=rate) for part in (task.train, task.held_out))  # type: ignore[arg-type]
    return Task(name or task.name, train, held_out, dict(modalities=dict(modalities)), task.source)


def _pictures(task: Task, channels: int, rate: float, name: str) -> Task:
    grid = task.train[0]["inputs"]["image"].shape[-2:]
    return _masked(task, dict(image=(*grid, channels), label=(1, len(task.classes))), rate, name)


def masked_digits(*, seed: int = 0, rate: float = RATE) -> Task:
    """Digits, 28 × 28, and their classes, of which ``rate`` are hidden."""
    return _pictures(mnist(seed=seed), 1, rate, "masked_digits")


def masked_pictures(path: Path, *, image_size: Size = 28, seed: int = 0, rate: float = RATE) -> Task:
    """A folder of pictures by class, as ``folders.image_folder`` reads it."""
    return _pictures(image_folder(path, image_size=image_size, seed=seed), 3, rate, path.name)


def masked_clip(*, num_frames: int = 4, image_size: Size = 32, seed: int = 0, rate: float = RATE) -> Task:
    """Windows of a clip: frames, and sound in rows of 16 values, of which ``rate`` are hidden."""
    train, held_out = one_clip(load_clip(size=image_size), num_frames=num_frames, augment=True, seed=seed)
    shapes = {name: value.shape for name, value in train[0]["inputs"].items()}
    t, c, h, w = shapes["image"]
    modalities = dict(image=(t, h, w, c), audio=(shapes["audio"][0] // 16, 16))
    return _masked(Task("masked_clip", train, held_out, {}, CLIP_SOURCE), modalities, rate)
