"""Digits as streams of pixels: each pixel is an id, line by line."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange, reduce
from jaxtyping import Int64, UInt8
from torch import Generator, Tensor

from ..checking import check_positive
from ..errors import InputError
from .images import MNIST_SOURCE, mnist
from .sampling import Samples
from .task import Task

SIDE, LEVELS = 14, 4
START = LEVELS
"""The id before the first pixel."""


class NextPixels(Samples):
    """Pictures, pixels by pixels: ``text`` int64 (h · w,) → ``text`` (predicted,), the last pixels.

    An input starts with ``START`` and lacks the last pixel, so that each row is followed by its target.

    >>> item = NextPixels(torch.arange(2 * 3 * 2).reshape(2, 3, 2) % 4, predicted=2)[0]
    >>> item["inputs"]["text"], item["targets"]["text"]
    (tensor([4, 0, 1, 2, 3, 0]), tensor([0, 1]))

    Raises InputError for more targets than pixels.
    """

    def __init__(self, pictures: Int64[Tensor, "n h w"], *, predicted: int, seed: int = 0) -> None:
        check_positive("NextPixels", predicted=predicted)
        self.ids = rearrange(pictures, "n h w -> n (h w)")
        if predicted > self.ids.shape[1]:
            raise InputError(
                f"NextPixels: predicted {predicted} is more than the {self.ids.shape[1]} pixels of a picture"
            )
        self.predicted, self.seed = predicted, seed

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        ids = self.ids[index]
        started = torch.cat([torch.tensor([START]), ids[:-1]])
        return {"inputs": {"text": started}, "targets": {"text": ids[-self.predicted :].clone()}}


def coarse(pixels: UInt8[Tensor, "n 1 h w"]) -> Int64[Tensor, "n h2 w2"]:
    """Means of 2 × 2 pixels, in four levels from 0, black.

    >>> coarse(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))
    tensor([[[3]]])
    """
    means = reduce(pixels.float(), "n 1 (h i) (w j) -> n h w", "mean", i=2, j=2)
    return (means / 256 * LEVELS).long()


def digit_pixels(*, seed: int = 0) -> Task:
    """Digits of 14 × 14 pixels in four levels; the lower half follows the upper one."""
    train, held_out = (
        NextPixels(coarse(part.pixels), predicted=SIDE * SIDE // 2, seed=seed)  # type: ignore[arg-type]
        for part in mnist(seed=seed)
    )
    pixels = SIDE * SIDE
    overrides = dict(context=pixels, num_latents=pixels // 2, vocabulary=LEVELS + 1, positions="learned")
    return Task("digit_pixels", train, held_out, overrides, MNIST_SOURCE)
