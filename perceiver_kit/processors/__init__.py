"""From files to inputs and from outputs to answers: what ``kit.predict`` uses.

A ``Processor`` has a reader for each input and an interpreter. All are frozen dataclasses that specs and checkpoints
hold.
"""

from . import recipes
from .base import Answer, Interpreter, Item, Processor, Raw, Reader, Unsupported
from .classes import ClassAnswer, Classes
from .clips import ClipAnswer, DecodedClip
from .flow import FlowAnswer, FlowField
from .objects import FoundObjects, ObjectsAnswer, PixelClasses, SegmentsAnswer
from .readers import Array, Frames, Picture, Sound, VideoClip
from .texts import FilledAnswer, FilledText, Text

__all__ = [
    "Answer",
    "Array",
    "ClassAnswer",
    "Classes",
    "ClipAnswer",
    "DecodedClip",
    "FilledAnswer",
    "FilledText",
    "FlowAnswer",
    "FlowField",
    "FoundObjects",
    "Frames",
    "Interpreter",
    "Item",
    "ObjectsAnswer",
    "Picture",
    "PixelClasses",
    "Processor",
    "Raw",
    "Reader",
    "SegmentsAnswer",
    "Sound",
    "Text",
    "Unsupported",
    "VideoClip",
    "recipes",
]
