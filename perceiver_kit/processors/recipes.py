"""The processors that recipes declare: as the kit's loaders of files prepare data for training."""

from __future__ import annotations

from ..checks import check_image_size
from ..data.image_processor import CHANNELS
from .base import Processor
from .classes import Classes
from .clips import DecodedClip
from .flow import FlowField
from .readers import Array, Frames, Picture, VideoClip
from .texts import FilledText, Text


def classify_picture(image_size: int | tuple[int, int], image_channels: int = 3) -> Processor:
    """A picture → classes; pixels in [-1, 1], cropped to the aspect ratio of ``image_size``.

    An image of more channels than a picture has is an array (channels, h, w), as the model reads it.

    >>> processors.recipes.classify_picture(32).readers["image"].size
    (32, 32)
    """
    if image_channels not in CHANNELS:
        return Processor({"image": Array()}, Classes())
    half = (0.5,) * image_channels
    size = check_image_size("classify_picture", image_size)
    return Processor({"image": Picture(size, mean=half, std=half, channels=image_channels)}, Classes())


def classify_text(max_length: int) -> Processor:
    """A text → classes; special strings in it are bytes.

    >>> processors.recipes.classify_text(9).item("[MASK] it").inputs["text"].shape
    torch.Size([9])
    """
    return Processor({"text": Text(max_length, parse_special=False)}, Classes())


def fill_text(max_length: int) -> Processor:
    """A text with ``[MASK]`` → the filled text; without ``[CLS]`` and ``[SEP]``, as ``texts.MaskedBytes``.

    >>> processors.recipes.fill_text(9).item("[MASK]a").inputs["text"]
    tensor([  3, 103])
    """
    return Processor({"text": Text(max_length, special=False)}, FilledText())


def find_flow(image_channels: int = 3) -> Processor:
    """Two pictures → optical flow.

    >>> processors.recipes.find_flow().reader.files
    2
    """
    return Processor({"frames": Frames(image_channels)}, FlowField())


def decode_clip(
    num_frames: int, image_size: int | tuple[int, int], audio_samples: int | None = None, image_channels: int = 3
) -> Processor:
    """A video → the video, sound and class that a model decodes.

    >>> processors.recipes.decode_clip(4, 32).reader.rate
    48000
    """
    per_frame = 1920 if audio_samples is None else audio_samples // num_frames
    size = check_image_size("decode_clip", image_size)
    return Processor({"clip": VideoClip(num_frames, size, per_frame, channels=image_channels)}, DecodedClip())
