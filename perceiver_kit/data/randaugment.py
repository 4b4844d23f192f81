"""RandAugment's operations on pictures of 8 bits, with the magnitudes of the published training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Generator

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

GREY = 128
"""Pixels that an operation uncovers."""
MAX_MAGNITUDE = 10
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
OPERATIONS = (
    *("auto_contrast", "equalize", "invert", "posterize", "solarize", "solarize_add"),
    *("color", "contrast", "brightness", "sharpness", "cutout", *MOVES),
)
"""The sixteen operations, of which one is drawn each time."""


class Affine(NamedTuple):
    """Where a picture reads: x and y of the result read at (a·x + b·y + c, d·x + e·y + f)."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 1.0
    f: float = 0.0


def move(name: str, magnitude: float | int, size: tuple[int, int], random: Generator) -> Affine:
    """One of ``MOVES`` of a picture (height, width), in a random direction; at magnitude 0 nothing moves.

    At magnitude 10: 30 degrees, a shear of 0.3, 100 of 224 pixels.

    >>> move("shear_x", 0, (32, 48), torch.Generator())
    Affine(a=1.0, b=0.0, c=0.0, d=0.0, e=1.0, f=0.0)
    """
    height, width = size
    share = magnitude / MAX_MAGNITUDE * (1 if torch.rand((), generator=random) < 0.5 else -1)
    if name == "rotate":
        cos, sin = math.cos(math.radians(30 * share)), math.sin(math.radians(30 * share))
        x, y = width / 2, height / 2
        return Affine(cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    if name == "shear_x":
        return Affine(b=0.3 * share)
    if name == "shear_y":
        return Affine(d=0.3 * share)
    if name == "translate_x":
        return Affine(c=100 / 224 * width * share)
    return Affine(f=100 / 224 * height * share)


def recolour(name: str, picture: PILImage, magnitude: float | int, random: Generator) -> PILImage:
    """One of the other operations. Those of colour leave an alpha channel as it is.

    As published, magnitude 5 changes nothing in color, contrast, brightness and sharpness.
    """
    if name == "cutout":
        return _cut_out(picture, magnitude, random)
    if picture.mode == "RGBA":
        changed = recolour(name, picture.convert("RGB"), magnitude, random)
        changed.putalpha(picture.getchannel("A"))
        return changed
    return _colours(name, magnitude / MAX_MAGNITUDE)(picture)


def _colours(name: str, share: float) -> Callable[[PILImage], PILImage]:
    from PIL import ImageEnhance, ImageOps

    added = int(110 * share)
    enhance = {"color": ImageEnhance.Color, "contrast": ImageEnhance.Contrast}
    enhance |= {"brightness": ImageEnhance.Brightness, "sharpness": ImageEnhance.Sharpness}
    if name in enhance:
        return lambda picture: enhance[name](picture).enhance(1.8 * share + 0.1)
    return {
        "auto_contrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
        "invert": ImageOps.invert,
        "posterize": lambda picture: ImageOps.posterize(picture, int(4 * share)),
        "solarize": lambda picture: ImageOps.solarize(picture, int(256 * share)),
        "solarize_add": lambda picture: picture.point(lambda value: min(value + added, 255) if value < 128 else value),
    }[name]


def _cut_out(picture: PILImage, magnitude: float | int, random: Generator) -> PILImage:
    """A grey rectangle around a random pixel: at magnitude 10, 80 of 224 pixels."""
    size = torch.tensor(picture.size)
    middle = torch.rand(2, generator=random) * size
    half = 40 / 224 * magnitude / MAX_MAGNITUDE * size
    (left, top), (right, bottom) = (middle - half).clamp(min=0).tolist(), torch.minimum(middle + half, size).tolist()
    changed = picture.copy()
    grey = (GREY,) * len(picture.getbands())
    changed.paste(grey if len(grey) > 1 else GREY, (int(left), int(top), int(right), int(bottom)))
    return changed
