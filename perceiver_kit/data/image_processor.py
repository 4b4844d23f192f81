"""Pictures of any size and kind → the tensor that an image model reads.

Centre crop, bicubic resize, values to [0, 1], normalise: what the published image classifiers expect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from perceiver_kit.checks import check_sizes
from perceiver_kit.errors import AssemblyError, InputError, MissingPackage

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CHANNELS = (1, 3, 4)  # grey, RGB, RGBA


class ImageProcessor:
    """Pictures → float32 (b, 3, h, w).

    A picture is a PIL image of any mode with a fixed range, or a numpy array or torch tensor, (h, w), or with
    1, 3 or 4 channels (grey, RGB, RGBA) (h, w, c) or (c, h, w), uint8 or float in [0, 1]. More than 8 bits
    are rounded to 8; transparency is laid on white. Pixels are taken as stored: apply EXIF rotation first.

    Args:
        size: (h, w) of the result, or one number for both.
        crop: how much to keep of each side of the largest centred box with the result's proportions; what is
            outside is lost. None keeps the whole picture and squeezes it into shape.
        mean: subtracted from values in [0, 1]: one for each of R, G, B, or one for all.
        std: divided by after that. A mean and std of 0.5 give [-1, 1].

    >>> processor = ImageProcessor(size=32)
    >>> pictures = [np.zeros((48, 64, 3), np.uint8), np.zeros((50, 40, 3), np.uint8)]
    >>> processor(pictures).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        size: int | Sequence[int] = 224,
        *,
        crop: float | None = 0.875,
        mean: float | Sequence[float] = IMAGENET_MEAN,
        std: float | Sequence[float] = IMAGENET_STD,
    ) -> None:
        sizes = check_sizes("ImageProcessor", "size", (size, size) if isinstance(size, int) else size)
        if len(sizes) != 2:
            raise AssemblyError(f"ImageProcessor: size must be an int or (height, width), got {size!r}")
        if crop is not None and not (_is_number(crop) and 0 < crop <= 1):
            raise AssemblyError(f"ImageProcessor: crop must be a number in (0, 1] or None, got {crop!r}")
        self.size: tuple[int, int] = sizes
        self.crop = crop
        self.mean = _three("mean", mean)
        self.std = _three("std", std)
        if min(self.std) <= 0:
            raise AssemblyError(f"ImageProcessor: std must be above 0, got {std!r}")

    def __repr__(self) -> str:
        return f"ImageProcessor(size={self.size}, crop={self.crop}, mean={self.mean}, std={self.std})"

    def __call__(self, images: Any, *, channels: Literal["first", "last"] | None = None) -> Float[Tensor, "b 3 h w"]:
        """One picture, a list of pictures of one kind (sizes may differ), or an array or tensor of four axes.

        Args:
            images: the pictures; one picture gives a batch of one.
            channels: which axis of an array holds them. None: the one that can, (3, h, w) or (h, w, 3).

        Raises:
            InputError: no pictures; a picture that is empty, of another kind than the first, of a shape,
                dtype or mode that can be read in two ways or none, or with values outside [0, 1].
            MissingPackage: Pillow is not installed.
        """
        if channels not in ("first", "last", None):
            raise InputError(f'channels must be "first", "last" or None, got {channels!r}')
        return torch.stack([self._process(_rgb(image, name, channels)) for name, image in _pictures(images)])

    def _process(self, image: PILImage) -> Float[Tensor, "3 h w"]:
        from PIL.Image import Resampling

        h, w = self.size
        if self.crop is not None:
            box = min(image.height, image.width * h // w), min(image.width, image.height * w // h)
            height, width = (max(1, int(self.crop * side)) for side in box)
            top, left = (image.height - height) // 2, (image.width - width) // 2
            image = image.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(image.resize((w, h), Resampling.BICUBIC)))
        values = rearrange(pixels, "h w c -> c h w").double().mul(1 / 255).float()
        return (values - torch.tensor(self.mean)[:, None, None]) / torch.tensor(self.std)[:, None, None]


def _pictures(images: Any) -> list[tuple[str, Any]]:
    """Each picture with its name in errors."""
    if not isinstance(images, list | tuple) and getattr(images, "ndim", None) != 4:
        return [("images", images)]
    named = [(f"images[{i}]", image) for i, image in enumerate(images)]
    if not named:
        raise InputError("images is empty; give at least one picture")
    first = _kind(named[0][1], named[0][0])
    for name, image in named:
        if _kind(image, name) != first:
            raise InputError(f"{name} is {_kind(image, name)} but images[0] is {first}; give one kind")
    return named


def _kind(image: object, name: str) -> str:
    if isinstance(image, np.ndarray):
        return "a numpy array"
    if isinstance(image, Tensor):
        return "a torch tensor"
    if isinstance(image, _pillow().Image):
        return "a PIL image"
    kinds = "a PIL image (PIL.Image.open reads a file), a numpy array, a torch tensor or a list of them"
    raise InputError(f"{name} must be {kinds}, got a {type(image).__name__}")


def _rgb(image: Any, name: str, channels: str | None) -> PILImage:
    """Any picture as 8-bit RGB."""
    pil = _pillow()
    if _kind(image, name) != "a PIL image":
        image = pil.fromarray(_array(image, name, channels))
    if not image.width or not image.height:
        raise InputError(f"{name} is {image.width} by {image.height} pixels; give one with pixels")
    if image.mode in ("I", "F"):
        hint = "pass a float array in [0, 1], such as np.asarray(image) / 65535 for 16 bits"
        raise InputError(f'{name} has mode "{image.mode}", which does not say what is white; {hint}')
    if image.mode.startswith("I;16"):
        image = pil.fromarray(_eight_bits(np.asarray(image) / 65535))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _array(image: np.ndarray | Tensor, name: str, channels: str | None) -> np.ndarray:
    """An array or tensor as uint8 (h, w) or (h, w, c)."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()  # numpy has no bfloat16
    came = f"{image.dtype} {image.shape}"
    if image.ndim not in (2, 3):
        raise InputError(f"{name} must be (h, w), (h, w, c) or (c, h, w), got {came}")
    if not image.size:
        raise InputError(f"{name} is {came}; give one with pixels")
    if image.ndim == 3:
        fits = [place for place, axis in (("first", 0), ("last", 2)) if image.shape[axis] in CHANNELS]
        fits = [place for place in fits if channels in (place, None)]
        if not fits:
            where = f"{channels} axis" if channels else "first or last axis"
            raise InputError(f"{name} must have 1, 3 or 4 channels on its {where}, got {came}")
        if len(fits) == 2:
            raise InputError(f'{name} is {came}: say which axis holds channels, channels="first" or "last"')
        if fits == ["first"]:
            image = rearrange(image, "c h w -> h w c")
        if image.shape[-1] == 1:
            image = rearrange(image, "h w 1 -> h w")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        hint = "convert it, for only you know which value is white"
        raise InputError(f"{name} must be uint8, or float in [0, 1], got {came}; {hint}")
    if not np.isfinite(image).all():
        raise InputError(f"{name} holds NaN or infinite values; replace them, e.g. by np.nan_to_num")
    low, high = image.min(), image.max()
    if low < 0 or high > 1:
        raise InputError(f"{name} is float and must lie in [0, 1], got {low:g} to {high:g}; rescale or clip it")
    return _eight_bits(image)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _three(name: str, value: Any) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * 3
    if len(values) != 3 or not all(map(_is_number, values)):
        raise AssemblyError(f"ImageProcessor: {name} must be a number or three of them, got {value!r}")
    return tuple(map(float, values))


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        hint = "pip install 'perceiver-kit[images]'"
        raise MissingPackage(f"ImageProcessor needs Pillow, which is not installed; {hint}") from error
    return Image
