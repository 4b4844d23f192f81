"""Preprocess images as the published classifiers do: centre crop, bicubic resize, scale to [0, 1], normalize."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..checking import check_choice, check_sizes, describe_value
from ..errors import AssemblyError, InputError, MissingPackage

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}  # and the modes of PIL
"""Channels that pictures have: grey, RGB, RGBA."""


class ImageProcessor:
    """Images → float32 (b, channels, h, w).

    An image is a PIL image of any mode with a fixed range, or a numpy array or torch tensor (h, w), (h, w, c) or
    (c, h, w) with 1, 3 or 4 channels (grey, RGB, RGBA), uint8 or float in [0, 1]. Values are rounded to 8 bits;
    without an alpha channel, transparent pixels are blended with white. EXIF rotation is ignored: apply it first.

    Args:
        size: (h, w) of the result, or one int for both.
        crop: fraction to keep of each side of the largest centred box with the aspect ratio of ``size``. None:
            resize the whole image, which changes its aspect ratio.
        crop_rounding: an odd margin is split "down", as in Hugging Face, or "up", as in the original: one pixel more
            above and on the left.
        mean: subtracted from values in [0, 1]: one per channel, or one for all.
        std: the divisor after that. A mean and std of 0.5 give [-1, 1].
        channels: of the result: 1 (grey), 3 (RGB) or 4 (RGBA).

    >>> processor = ImageProcessor(size=32)
    >>> images = [np.zeros((48, 64, 3), np.uint8), np.zeros((50, 40, 3), np.uint8)]
    >>> processor(images).shape
    torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        size: int | Sequence[int] = 224,
        *,
        crop: float | None = 0.875,
        crop_rounding: Literal["down", "up"] = "down",
        mean: float | Sequence[float] = IMAGENET_MEAN,
        std: float | Sequence[float] = IMAGENET_STD,
        channels: int = 3,
    ) -> None:
        sizes = check_sizes("ImageProcessor", "size", (size, size) if isinstance(size, int) else size)
        if len(sizes) != 2:
            raise AssemblyError(f"ImageProcessor: size must be an int or (height, width), got {size!r}")
        if crop is not None and not (_is_number(crop) and 0 < crop <= 1):
            raise AssemblyError(f"ImageProcessor: crop must be a number in (0, 1] or None, got {crop!r}")
        self.size: tuple[int, int] = sizes
        check_choice("ImageProcessor", "crop_rounding", crop_rounding, ("down", "up"))
        self.crop, self.crop_rounding = crop, crop_rounding
        self.channels = check_channels("ImageProcessor: channels", channels)
        self.mean = _per_channel("mean", mean, channels)
        self.std = _per_channel("std", std, channels)
        if min(self.std) <= 0:
            raise AssemblyError(f"ImageProcessor: std must be above 0, got {std!r}")

    def __repr__(self) -> str:
        rounding = "" if self.crop_rounding == "down" else f", crop_rounding={self.crop_rounding!r}"
        channels = "" if self.channels == 3 else f", channels={self.channels}"
        settings = f"size={self.size}, crop={self.crop}{rounding}, mean={self.mean}, std={self.std}{channels}"
        return f"ImageProcessor({settings})"

    def __call__(self, images: Any, *, channels: Literal["first", "last"] | None = None) -> Float[Tensor, "b c h w"]:
        """Process one image, a list of images of one type (sizes may differ), or an array or tensor of four axes.

        Args:
            images: one image gives a batch of one.
            channels: the channel axis of arrays and tensors. None: the axis that has 1, 3 or 4 elements.

        Raises:
            InputError: no images; an image that is empty, of another type than the first, of an unsupported or
                ambiguous shape, dtype or mode, or with values outside [0, 1].
            MissingPackage: Pillow is not installed.
        """
        if channels not in ("first", "last", None):
            raise InputError(f'channels must be "first", "last" or None, got {channels!r}')
        pictures = [as_picture(image, name, channels, self.channels) for name, image in _named_images(images)]
        return torch.stack([self._process(picture) for picture in pictures])

    def _process(self, image: PILImage) -> Float[Tensor, "c h w"]:
        from PIL.Image import Resampling

        h, w = self.size
        if self.crop is not None:
            box = min(image.height, image.width * h // w), min(image.width, image.height * w // h)
            height, width = (max(1, int(self.crop * side)) for side in box)
            up = int(self.crop_rounding == "up")
            top, left = (image.height - height + up) // 2, (image.width - width + up) // 2
            image = image.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(image.resize((w, h), Resampling.BICUBIC)))
        values = rearrange(pixels, "h w ... -> (...) h w", h=h).double().mul(1 / 255).float()
        mean, std = (rearrange(torch.tensor(value), "c -> c 1 1") for value in (self.mean, self.std))
        return (values - mean) / std


def _named_images(images: Any) -> list[tuple[str, Any]]:
    """Each image with its name in errors."""
    if not isinstance(images, list | tuple) and getattr(images, "ndim", None) != 4:
        return [("images", images)]
    named = [(f"images[{i}]", image) for i, image in enumerate(images)]
    if not named:
        raise InputError("images is empty; give at least one image")
    first = _kind(named[0][1], named[0][0])
    for name, image in named:
        if _kind(image, name) != first:
            raise InputError(f"{name} is {_kind(image, name)} but images[0] is {first}; give one type")
    return named


def _kind(image: object, name: str) -> str:
    if isinstance(image, np.ndarray):
        return "a numpy array"
    if isinstance(image, Tensor):
        return "a torch tensor"
    if isinstance(image, _pillow().Image):
        return "a PIL image"
    kinds = "a PIL image (PIL.Image.open reads a file), a numpy array, a torch tensor or a list of them"
    raise InputError(f"{name} must be {kinds}, got {describe_value(image)}")


def as_picture(image: Any, name: str = "image", place: str | None = None, channels: int = 3) -> PILImage:
    """Any image that ``ImageProcessor`` takes as an 8-bit PIL image of so many channels."""
    pil = _pillow()
    if _kind(image, name) != "a PIL image":
        image = pil.fromarray(_array(image, name, place))
    if not image.width or not image.height:
        raise InputError(f"{name} is {image.width} by {image.height} pixels; give a non-empty image")
    if image.mode in ("I", "F"):
        hint = "pass a float array in [0, 1], such as np.asarray(image) / 65535 for 16 bits"
        raise InputError(f'{name} has mode "{image.mode}", whose white level is unknown; {hint}')
    if image.mode.startswith("I;16"):
        image = pil.fromarray(_eight_bits(np.asarray(image) / 65535))
    if channels < 4 and ("A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info):
        image = pil.alpha_composite(pil.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert(CHANNELS[channels])


def _array(image: np.ndarray | Tensor, name: str, channels: str | None) -> np.ndarray:
    """An array or tensor as uint8 (h, w) or (h, w, c)."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()  # numpy has no bfloat16
    came = f"{image.dtype} {image.shape}"
    if image.ndim not in (2, 3):
        raise InputError(f"{name} must be (h, w), (h, w, c) or (c, h, w), got {came}")
    if not image.size:
        raise InputError(f"{name} is {came}; give a non-empty image")
    if image.ndim == 3:
        fits = [place for place, axis in (("first", 0), ("last", 2)) if image.shape[axis] in CHANNELS]
        fits = [place for place in fits if channels in (place, None)]
        if not fits:
            where = f"{channels} axis" if channels else "first or last axis"
            raise InputError(f"{name} must have 1, 3 or 4 channels on its {where}, got {came}")
        if len(fits) == 2:
            raise InputError(f'{name} is {came}: either axis may hold channels; pass channels="first" or "last"')
        if fits == ["first"]:
            image = rearrange(image, "c h w -> h w c")
        if image.shape[-1] == 1:
            image = rearrange(image, "h w 1 -> h w")
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise InputError(
            f"{name} must be uint8, or float in [0, 1], got {came}; its white level is unknown: convert it"
        )
    if not np.isfinite(image).all():
        raise InputError(f"{name} contains NaN or infinite values; replace them, e.g. by np.nan_to_num")
    low, high = image.min(), image.max()
    if low < 0 or high > 1:
        raise InputError(f"{name} is float and must lie in [0, 1], got {low:g} to {high:g}; rescale or clip it")
    return _eight_bits(image)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return np.rint(values.astype(np.float64) * 255).astype(np.uint8)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_channels(owner: str, channels: object, known: Collection[int] = CHANNELS) -> int:
    """Raise AssemblyError unless pictures may have so many channels."""
    if isinstance(channels, bool) or channels not in known:
        names = {1: "1 (grey)", 3: "3 (RGB)", 4: "4 (RGBA)"}
        raise AssemblyError(
            f"{owner} must be {' or '.join(names[count] for count in known)} for pictures, got {channels!r}; "
            "give a model of other channels tensors"
        )
    return int(channels)  # type: ignore[call-overload]


def _per_channel(name: str, value: Any, channels: int) -> tuple[float, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * channels
    if len(values) != channels or not all(map(_is_number, values)):
        raise AssemblyError(
            f"ImageProcessor: {name} must be a number or one for each of {channels} channels, got {value!r}"
        )
    return tuple(map(float, values))


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        hint = "pip install 'perceiver-kit[images]'"
        raise MissingPackage(f"ImageProcessor needs Pillow, which is not installed; {hint}") from error
    return Image
