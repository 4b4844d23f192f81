"""The processors that recipes declare: as the kit's loaders of files prepare data for training."""

from __future__ import annotations

from ..checks import check_image_size
from .base import Processor
from .classes import Classes
from .clips import DecodedClip
from .flow import FlowField
from .objects import FoundObjects, PixelClasses
from .readers import Frames, Picture, VideoClip
from .texts import FilledText, Text


def classify_picture(image_size: int | tuple[int, int]) -> Processor:
    """A picture → classes; pixels in [-1, 1], cropped to the aspect ratio of ``image_size``.

    >>> processors.recipes.classify_picture(32).readers["image"].size
    (32, 32)
    """
    return Processor({"image": Picture(check_image_size("classify_picture", image_size))}, Classes())


def detect_objects(image_size: int | tuple[int, int]) -> Processor:
    """A picture, resized as a whole, → objects with their boxes; pixels in [-1, 1].

    >>> processors.recipes.detect_objects(32).interpreter.threshold
    0.5
    """
    return Processor({"image": Picture(check_image_size("detect_objects", image_size), crop=None)}, FoundObjects())


def segment_picture() -> Processor:
    """A picture of any size → the class of each pixel; pixels in [-1, 1].

    >>> processors.recipes.segment_picture().item(torch.rand(3, 20, 30)).inputs["image"].shape
    torch.Size([3, 20, 30])
    """
    return Processor({"image": Picture(None)}, PixelClasses())


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


def find_flow() -> Processor:
    """Two pictures → optical flow.

    >>> processors.recipes.find_flow().reader.files
    2
    """
    return Processor({"frames": Frames()}, FlowField())


def decode_clip(num_frames: int, image_size: int | tuple[int, int], audio_samples: int | None = None) -> Processor:
    """A video → the video, sound and class that a model decodes.

    >>> processors.recipes.decode_clip(4, 32).reader.rate
    48000
    """
    per_frame = 1920 if audio_samples is None else audio_samples // num_frames
    size = check_image_size("decode_clip", image_size)
    return Processor({"clip": VideoClip(num_frames, size, per_frame)}, DecodedClip())
