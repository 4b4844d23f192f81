"""Readers of pictures, arrays, videos and sound files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from ..checking import check_positive, describe_value
from ..data.decoding import MAX_RATE, read_audio
from ..data.files import PICTURES, SOUNDS, VIDEOS, open_picture
from ..data.image_processor import IMAGENET_MEAN, IMAGENET_STD, ImageProcessor, as_picture
from ..data.images import to_unit
from ..data.tables import read_npy
from ..data.video import load_clip
from ..errors import InputError
from ..registry import register
from .base import Reader

SHOWN = 1024
"""Pixels of a side of a picture that is shown whole."""


def _image(source: Any, reader: Reader, expected: str) -> Any:
    """A picture file as a PIL image; other images are kept."""
    if isinstance(source, str | Path):
        if Path(source).suffix.lower() in (*VIDEOS, *SOUNDS, ".txt"):
            raise reader.refuse(source, expected)
        return open_picture(Path(source))
    if isinstance(source, tuple | list | dict | None):
        raise reader.refuse(source, expected)
    return source


@register("processors")
@dataclass(frozen=True)
class Picture(Reader):
    """A picture as float32 (channels, h, w): a path, a PIL image, an array or a tensor.

    ``ImageProcessor`` says which it takes.

    Args:
        size: (h, w); None keeps the picture's own, for models of any size, and nothing is cropped.
        crop: the fraction of each side to keep; None resizes the whole picture.
        mean: subtracted from values in [0, 1]; one number, or one for each channel.
        std: the divisor after that.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA; opaque where the picture has no alpha).

    >>> processors.Picture((32, 32), crop=0.875).read(torch.rand(3, 48, 64)).shape
    torch.Size([3, 32, 32])
    """

    size: tuple[int, int] | None = (224, 224)
    crop: float | None = 1.0
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    channels: int = 3
    suffixes: ClassVar[tuple[str, ...]] = PICTURES

    def __post_init__(self) -> None:
        super().__post_init__()
        self._processor((1, 1))  # raises AssemblyError for bad settings

    def _processor(self, own: tuple[int, int]) -> ImageProcessor:
        size, crop = (own, None) if self.size is None else (self.size, self.crop)
        return ImageProcessor(size, crop=crop, mean=self.mean, std=self.std, channels=self.channels)

    def read(self, source: Any) -> Float[Tensor, "c h w"]:
        expected = "a picture: a path, PIL image, array or tensor"
        image = _image(source, self, expected)
        if getattr(image, "ndim", 3) == 4:
            raise self.refuse(source, f"{expected} of one; give several as a list")
        own = (1, 1)
        if self.size is None:
            image = as_picture(image, channels=self.channels)
            own = (image.height, image.width)
        return self._processor(own)(image)[0]

    def picture(self, inputs: Mapping[str, Tensor], name: str) -> Tensor:
        return self.pixels(inputs[name])

    def whole(self, source: Any) -> Float[Tensor, "3 h w"]:
        """A picture in its own proportions, RGB in [0, 1], of at most ``SHOWN`` pixels a side."""
        image = as_picture(_image(source, self, "a picture"), channels=self.channels)
        scale = min(1.0, SHOWN / max(image.size))
        size = (max(1, round(image.height * scale)), max(1, round(image.width * scale)))
        return self.pixels(replace(self, size=size, crop=None).read(image))

    def pixels(self, values: Float[Tensor, "c h w"]) -> Float[Tensor, "3 h w"]:
        """A picture as the model reads it → RGB in [0, 1]; RGBA on white."""
        process = self._processor((1, 1))
        mean, std = (rearrange(torch.tensor(value), "c -> c 1 1") for value in (process.mean, process.std))
        image = (values * std + mean).clamp(0, 1)
        if self.channels == 1:
            return repeat(image, "1 h w -> 3 h w")
        colours, alpha = image[:3], image[3:]
        return colours * alpha + 1 - alpha if self.channels == 4 else colours

    def huggingface_files(self) -> dict[str, dict[str, Any]]:
        if self.size is None:
            return {}
        height, width = self.size
        process = self._processor(self.size)
        cropped = {} if self.crop is None else {"height": round(height / self.crop), "width": round(width / self.crop)}
        settings = {
            "image_processor_type": "PerceiverImageProcessor",
            "do_center_crop": self.crop is not None,
            "crop_size": cropped or {"height": 256, "width": 256},
            "do_resize": True,
            "size": {"height": height, "width": width},
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [*process.mean],
            "image_std": [*process.std],
        }
        return {"preprocessor_config.json": settings}


@register("processors")
@dataclass(frozen=True)
class Frames(Reader):
    """Two pictures of one size, a tuple, as float32 (2, channels, h, w) in [-1, 1]; nothing is resized.

    A folder means each pair of successive pictures.

    >>> processors.Frames().read((torch.rand(3, 20, 30), torch.rand(3, 20, 30))).shape
    torch.Size([2, 3, 20, 30])
    """

    channels: int = 3
    suffixes: ClassVar[tuple[str, ...]] = PICTURES
    files: ClassVar[int] = 2
    batch: ClassVar[int] = 1

    def read(self, source: Any) -> Float[Tensor, "2 c h w"]:
        expected = "a tuple of two pictures (paths, PIL images, arrays or tensors)"
        if not isinstance(source, tuple) or len(source) != 2:
            raise self.refuse(source, expected)
        pictures = [
            np.array(as_picture(_image(one, self, expected), f"frame {i}", channels=self.channels))
            for i, one in enumerate(source)
        ]
        grids = [torch.from_numpy(one if one.ndim == 3 else one[..., None]) for one in pictures]
        first, second = (to_unit(rearrange(one, "h w c -> c h w")) for one in grids)
        if first.shape != second.shape:
            sizes = f"{tuple(first.shape[1:])} and {tuple(second.shape[1:])}"
            raise InputError(f"source: expected two pictures of one size, got {sizes}; resize or crop one")
        return torch.stack([first, second])

    def picture(self, inputs: Mapping[str, Tensor], name: str) -> Tensor:
        return (inputs[name][0] + 1) / 2

    def find(self, folder: Path) -> list[Any]:
        paths = super().find(folder)
        if len(paths) < 2:
            raise InputError(f"{folder} has one picture, expected at least two: a pair of frames")
        return [*pairwise(paths)]


@register("processors")
@dataclass(frozen=True)
class VideoClip(Reader):
    """The start of a video file as image float32 (t, 3, h, w) and audio float32 (samples,) of the same time.

    Args:
        num_frames: t.
        image_size: (h, w): frames are cropped to this aspect ratio and resized.
        samples_per_frame: audio samples of a frame.
        fps: frames per second.
        signed: whether pixels are in [-1, 1], not [0, 1].
        image: the modality of the frames.
        audio: the modality of the sound; None for a model without.
        channels: of the frames: 1 (grey) or 3 (RGB).
        gain: the factor of the sound that the model reads.
    """

    num_frames: int
    image_size: tuple[int, int]
    samples_per_frame: int = 1920
    fps: float = 25.0
    signed: bool = True
    image: str = "image"
    audio: str | None = "audio"
    channels: int = 3
    gain: float = 1.0
    suffixes: ClassVar[tuple[str, ...]] = VIDEOS
    batch: ClassVar[int] = 1

    @property
    def rate(self) -> int:
        """Audio samples per second."""
        return round(self.samples_per_frame * self.fps)

    def read(self, source: Any) -> dict[str, Tensor]:
        if not isinstance(source, str | Path) or Path(source).suffix.lower() in (*PICTURES, *SOUNDS, ".txt"):
            raise self.refuse(source, "the path of a video, or a mapping of tensors")
        seconds = self.num_frames / self.fps
        options: dict[str, Any] = dict(size=self.image_size, channels=self.channels, fps=self.fps, rate=self.rate)
        clip = load_clip(source, **options, seconds=seconds, gain=self.gain)
        if len(clip.frames) < self.num_frames:
            hint = f"{self.num_frames} frames at {self.fps:g} a second"
            raise InputError(f"{source} is too short: expected {hint}, got {len(clip.frames)}")
        frames = clip.frames if self.signed else (clip.frames + 1) / 2
        return {self.image: frames} | ({} if self.audio is None else {self.audio: clip.audio})

    def picture(self, inputs: Mapping[str, Tensor], name: str) -> Tensor:
        return self.pixels(inputs[self.image][0])

    def pixels(self, frames: Tensor) -> Tensor:
        """Frames as they are read, in [0, 1]."""
        return ((frames + 1) / 2 if self.signed else frames).clamp(0, 1)


@register("processors")
@dataclass(frozen=True)
class Sound(Reader):
    """The start of a sound file, mixed to mono, as float32 (samples,) in [-1, 1]; what is missing is zero.

    Args:
        samples: of the result.
        rate: samples per second.
    """

    samples: int
    rate: int = 16_000
    suffixes: ClassVar[tuple[str, ...]] = SOUNDS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("Sound", samples=self.samples)
        check_positive("Sound", most=MAX_RATE, rate=self.rate)

    def read(self, source: Any) -> Float[Tensor, "samples"]:
        if not isinstance(source, str | Path) or Path(source).suffix.lower() in (*PICTURES, ".txt"):
            raise self.refuse(source, "the path of a sound file (Array() reads samples)")
        return read_audio(Path(source), 0.0, self.rate, self.samples)


@register("processors")
@dataclass(frozen=True)
class Array(Reader):
    """A float tensor as it is, or from an array, nested lists or a ``.npy`` file.

    Args:
        ragged_rows: whether the first axis has any length, as in a set of points.

    >>> processors.Array().read([[1, 2], [3, 4]]).dtype
    torch.float32
    """

    ragged_rows: bool = False
    suffixes: ClassVar[tuple[str, ...]] = (".npy",)

    @property
    def ragged(self) -> bool:  # type: ignore[override]
        """Whether rows are padded to a batch."""
        return self.ragged_rows

    def read(self, source: Any) -> Tensor:
        try:
            values = torch.as_tensor(read_npy(source) if isinstance(source, str | Path) else source)
        except InputError:
            raise
        except (ValueError, TypeError, RuntimeError) as error:
            came = f"{describe_value(source)} ({error})"
            raise InputError(f"source: expected numbers or a .npy file, got {came}") from error
        return values if values.dtype in (torch.int64, torch.bool) and isinstance(source, Tensor) else values.float()


IMAGENET = dict(crop=0.875, mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""Settings of ``Picture`` of the published image classifiers."""
