"""The processors that recipes declare: as the kit's loaders of files prepare data for training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..checking import check_image_size
from ..data.image_processor import CHANNELS
from ..data.tags import Unit
from ..flags import checked_flags
from .answers import AnswerText, Question
from .base import Processor, Reader
from .classes import Classes, TaskClasses
from .clips import DecodedClip
from .flow import FlowField
from .objects import FoundObjects, PixelClasses
from .readers import Array, Frames, Picture, VideoClip
from .reconstruction import Reconstruction
from .tags import TaggedText
from .texts import Continued, FilledText, Prompt, Text
from .windows import SceneWindows, SoundWindows


def classify_picture(image_size: int | tuple[int, int], image_channels: int = 3) -> Processor:
    """A picture → classes; pixels in [-1, 1], cropped to the aspect ratio of ``image_size``.

    An image of more channels than a picture has is an array (channels, h, w), as the model reads it.

    >>> processors.recipes.classify_picture(32).readers["image"].size
    (32, 32)
    """
    return Processor({"image": _picture(image_size, image_channels)}, Classes())


def _picture(size: int | tuple[int, int], channels: int, **options: Any) -> Reader:
    if channels not in CHANNELS:
        return Array()
    return Picture(check_image_size("processor", size), channels=channels, **options)


def detect_objects(image_size: int | tuple[int, int]) -> Processor:
    """A picture, resized as a whole, → objects with their boxes; pixels in [-1, 1].

    >>> processors.recipes.detect_objects(32).interpreter.threshold
    0.5
    """
    return Processor({"image": _picture(image_size, 3, crop=None)}, FoundObjects())


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


def continue_text(context: int) -> Processor:
    """A text → the text that follows.

    >>> processors.recipes.continue_text(9).item("[MASK] it").inputs["text"].shape
    torch.Size([9])
    """
    return Processor({"text": Prompt(context)}, Continued())


def reconstruct(modalities: Any) -> Processor:
    """Pictures, or arrays of the other modalities → the modalities, reconstructed from some of their rows.

    >>> processors.recipes.reconstruct(dict(image=(28, 28, 1), label=(1, 10))).readers["image"].channels
    1
    """
    data_sets = (modalities,) if isinstance(modalities, Mapping) else tuple(modalities)
    sizes = {name: size for data_set in data_sets for name, size in data_set.items()}
    pictures = {
        name: _picture(size[:2], size[2]) for name, size in sizes.items() if len(size) == 3 and size[2] in CHANNELS
    }
    readers = pictures or dict.fromkeys(sizes, Array())
    return Processor(readers, Reconstruction(data_sets))


def find_flow(image_channels: int = 3) -> Processor:
    """Two pictures → optical flow.

    >>> processors.recipes.find_flow().reader.files
    2
    """
    return Processor({"frames": Frames(image_channels)}, FlowField())


def decode_clip(
    num_frames: int,
    image_size: int | tuple[int, int],
    audio_samples: int | None = None,
    image_channels: int = 3,
    gain: float = 1.0,
) -> Processor:
    """A video → the video, sound and class that a model decodes.

    >>> processors.recipes.decode_clip(4, 32).reader.rate
    48000
    """
    per_frame = 1920 if audio_samples is None else audio_samples // num_frames
    size = check_image_size("decode_clip", image_size)
    clip = VideoClip(num_frames, size, per_frame, channels=image_channels, gain=gain)
    return Processor({"clip": clip}, DecodedClip())


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


def tag_text(max_length: int, unit: Unit = "words") -> Processor:
    """A text → its tags, as ``data.tags.TaggedTexts``; a longer text is read in windows.

    >>> processors.recipes.tag_text(9).interpreter.unit
    'words'
    """
    reader = Text(max_length, special=False, parse_special=False, cut=False)
    return Processor({"text": reader}, TaggedText(max_length, unit))


@checked_flags
def answer_text(max_length: int, unanswerable: bool = True, longest: int = 64) -> Processor:
    """A question and its context → the answer in the context; a longer context is read in windows.

    >>> processors.recipes.answer_text(9).reader.files
    2
    """
    reader = Question(max_length, parse_special=False, cut=False)
    return Processor({"text": reader}, AnswerText(max_length, unanswerable, longest))


def classify_tasks(max_length: int) -> Processor:
    """A text, or a tuple of two → the classes of each task; special strings in it are bytes.

    >>> processors.recipes.classify_tasks(9).item(("Is", "it?")).inputs["text"].shape
    torch.Size([8])
    """
    return Processor({"text": Text(max_length, parse_special=False)}, TaskClasses())
