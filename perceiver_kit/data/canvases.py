"""Pictures of several digits, for detection and segmentation."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int64, UInt8
from torch import Generator, Tensor

from ..checking import check_choice, check_image_size, check_positive
from ..errors import InputError
from .images import mnist, to_unit
from .sampling import Samples

INK = 100
"""A pixel at least as bright (of 255) belongs to a digit; boxes and masks hold these pixels."""
OVERLAP = 0.2
"""Boxes of two digits share at most this part of the smaller one."""


class Scene(NamedTuple):
    """A canvas uint8 (h, w), the class of each pixel (0: none, d + 1: digit d), and the digits with their boxes."""

    canvas: UInt8[Tensor, "h w"]
    mask: Int64[Tensor, "h w"]
    digits: Int64[Tensor, "m"]
    boxes: Int64[Tensor, "m 4"]  # left, top, right, bottom


class DigitScenes(Samples):
    """Digits at random places of a dark canvas: ``image`` float32 (3, h, w) in [-1, 1] → objects or a mask.

    Targets of ``"objects"`` are ``class`` int64 (objects,), the digit, and ``box`` (objects, 4), centre and size of its
    ink as shares of the canvas; rows without a digit are -100 and NaN. The target of ``"mask"`` is ``label`` int64
    (h, w): 0 where there is no ink, d + 1 on digit d.

    Args:
        pixels: uint8 digits (n, 1, 28, 28), which are not resized.
        labels: their classes.
        size: (h, w) of the canvas, at least 28.
        objects: digits of a scene, 1 to ``objects``. One that finds no place is left out.
        items: length of the data set.

    >>> scenes = DigitScenes(torch.full((1, 1, 28, 28), 255, dtype=torch.uint8), torch.tensor([7]), size=64, items=2)
    >>> scenes[0]["targets"]["class"][0].item(), scenes[0]["targets"]["box"].shape
    (7, torch.Size([5, 4]))
    """

    def __init__(
        self,
        pixels: UInt8[Tensor, "n 1 h w"],
        labels: Int64[Tensor, "n"],
        *,
        size: int | tuple[int, int] = 96,
        objects: int = 5,
        items: int = 4096,
        targets: Literal["objects", "mask"] = "objects",
        seed: int = 0,
    ) -> None:
        check_positive("DigitScenes", items=items, objects=objects)
        check_choice("DigitScenes", "targets", targets, ("objects", "mask"))
        self.size = check_image_size("DigitScenes", size)
        if min(self.size) < max(pixels.shape[-2:]):
            raise InputError(f"image_size: expected at least {max(pixels.shape[-2:])}, got {self.size}")
        self.digits = [_trimmed(picture[0]) for picture in pixels]
        self.labels, self.objects, self.items = labels.tolist(), objects, items
        self.targets, self.seed = targets, seed

    def __len__(self) -> int:
        return self.items

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        scene = self.scene(random)
        inputs = {"image": to_unit(scene.canvas).expand(3, -1, -1).contiguous()}
        if self.targets == "mask":
            return {"inputs": inputs, "targets": {"label": scene.mask}}
        h, w = self.size
        low, high = scene.boxes.float().split(2, -1)
        shares = torch.cat([(low + high) / 2, high - low], -1) / torch.tensor([w, h, w, h])
        return {"inputs": inputs, "targets": padded_objects(scene.digits, shares, self.objects)}

    def scene(self, random: Generator) -> Scene:
        """A random scene."""
        canvas, mask = torch.zeros(self.size, dtype=torch.uint8), torch.zeros(self.size, dtype=torch.int64)
        count = int(torch.randint(1, self.objects + 1, (), generator=random))
        boxes: list[tuple[int, int, int, int]] = []
        classes = []
        for _ in range(count):
            which = int(torch.randint(len(self.digits), (), generator=random))
            digit = self.digits[which]
            h, w = digit.shape
            for x, y in torch.rand(20, 2, generator=random).tolist():
                left, top = int(x * (self.size[1] - w + 1)), int(y * (self.size[0] - h + 1))
                box = (left, top, left + w, top + h)
                if all(_shared(box, other) <= OVERLAP for other in boxes):
                    break
            else:
                continue
            place = (slice(top, top + h), slice(left, left + w))
            canvas[place] = torch.maximum(canvas[place], digit)
            mask[place] = torch.where(digit >= INK, self.labels[which] + 1, mask[place])
            boxes.append(box)
            classes.append(self.labels[which])
        return Scene(canvas, mask, torch.tensor(classes), torch.tensor(boxes))


def padded_objects(classes: Int64[Tensor, "m"], boxes: Tensor, most: int) -> dict[str, Tensor]:
    """Targets of ``most`` rows: classes and boxes, then -100 and NaN.

    >>> padded_objects(torch.tensor([3]), torch.rand(1, 4), 2)["class"]
    tensor([   3, -100])
    """
    whole = {"class": torch.full((most,), -100), "box": torch.full((most, 4), torch.nan)}
    whole["class"][: len(classes)], whole["box"][: len(classes)] = classes, boxes
    return whole


def digit_scenes(
    *, size: int | tuple[int, int] = 96, objects: int = 5, items: int = 20_000, seed: int = 0, **targets: Any
) -> tuple[DigitScenes, DigitScenes]:
    """Scenes of the training digits of ``images.mnist``, and 500 scenes of its held-out digits."""
    parts = zip(mnist(seed=seed), (items, 500), strict=True)
    train, held_out = (
        DigitScenes(part.pixels, part.labels, size=size, objects=objects, items=n, seed=seed, **targets)  # type: ignore[arg-type]
        for part, n in parts
    )
    return train, held_out


def _trimmed(picture: UInt8[Tensor, "h w"]) -> UInt8[Tensor, "_ _"]:
    """The smallest part that holds all ink."""
    rows, columns = (picture >= INK).nonzero().unbind(-1)
    return picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    least = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return max(width, 0) * max(height, 0) / least
