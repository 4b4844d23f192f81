"""The processors that recipes declare: as the kit's loaders of files prepare data for training."""

from __future__ import annotations

from ..checks import check_image_size
from ..data.tags import Unit
from .answers import AnswerText, Question
from .base import Processor
from .classes import Classes, TaskClasses
from .clips import DecodedClip
from .flow import FlowField
from .readers import Frames, Picture, VideoClip
from .tags import TaggedText
from .texts import FilledText, Text


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


def tag_text(max_length: int, unit: Unit = "words") -> Processor:
    """A text → its tags, as ``data.tags.TaggedTexts``; a longer text is read in windows.

    >>> processors.recipes.tag_text(9).interpreter.unit
    'words'
    """
    reader = Text(max_length, special=False, parse_special=False, cut=False)
    return Processor({"text": reader}, TaggedText(max_length, unit))


def answer_text(max_length: int, unanswerable: bool = True) -> Processor:
    """A question and its context → the answer in the context; a longer context is read in windows.

    >>> processors.recipes.answer_text(9).reader.files
    2
    """
    reader = Question(max_length, parse_special=False, cut=False)
    return Processor({"text": reader}, AnswerText(max_length, unanswerable))


def classify_tasks(max_length: int) -> Processor:
    """A text, or a tuple of two → the classes of each task; special strings in it are bytes.

    >>> processors.recipes.classify_tasks(9).item(("Is", "it?")).inputs["text"].shape
    torch.Size([8])
    """
    return Processor({"text": Text(max_length, parse_special=False)}, TaskClasses())
