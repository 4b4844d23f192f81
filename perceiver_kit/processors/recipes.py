"""The processors that recipes declare: as the kit's loaders of files prepare data for training."""

from __future__ import annotations

from ..checks import check_image_size
from .base import Processor
from .classes import Classes
from .clips import DecodedClip
from .flow import FlowField
from .readers import Frames, Picture, VideoClip
from .texts import FilledText, Text
from .windows import SceneWindows, SoundWindows


def classify_picture(image_size: int | tuple[int, int]) -> Processor:
    """A picture → classes; pixels in [-1, 1], cropped to the aspect ratio of ``image_size``.

    >>> processors.recipes.classify_picture(32).readers["image"].size
    (32, 32)
    """
    return Processor({"image": Picture(check_image_size("classify_picture", image_size))}, Classes())


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


def classify_sound(audio_samples: int, sample_rate: int) -> Processor:
    """A sound → classes: the outputs for its windows are averaged.

    >>> processors.recipes.classify_sound(800, 8000).item(torch.rand(1000)).inputs["audio"].shape
    torch.Size([2, 800])
    """
    return Processor({"audio": SoundWindows(audio_samples, sample_rate)}, Classes())


def classify_clip(
    num_frames: int, image_size: int | tuple[int, int], fps: int | float, audio_samples: int | None = None
) -> Processor:
    """A video or a sound → classes: the outputs for its windows are averaged.

    >>> processors.recipes.classify_clip(8, 32, 25.0, 2560).reader.per_frame
    320
    """
    size = check_image_size("classify_clip", image_size)
    return Processor({"clip": SceneWindows(num_frames, size, fps, audio_samples)}, Classes())
