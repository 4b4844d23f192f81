"""From files to inputs and from outputs to answers: what ``kit.predict`` uses.

A ``Processor`` has a reader for each input and an interpreter. All are frozen dataclasses that specs and checkpoints
hold.
"""

from . import recipes
from .base import Answer, Interpreter, Item, Processor, Raw, Reader, Unsupported
from .classes import ClassAnswer, Classes
from .clips import ClipAnswer, DecodedClip
from .flow import FlowAnswer, FlowField
from .readers import Array, Frames, Picture, Sound, VideoClip
from .reconstruction import ReconstructedAnswer, Reconstruction
from .texts import Continued, ContinuedAnswer, FilledAnswer, FilledText, Prompt, Text
from .windows import SceneWindows, SoundWindows

__all__ = [
    "Answer",
    "Array",
    "ClassAnswer",
    "Classes",
    "ClipAnswer",
    "Continued",
    "ContinuedAnswer",
    "DecodedClip",
    "FilledAnswer",
    "FilledText",
    "FlowAnswer",
    "FlowField",
    "Frames",
    "Interpreter",
    "Item",
    "Picture",
    "Processor",
    "Prompt",
    "Raw",
    "Reader",
    "ReconstructedAnswer",
    "Reconstruction",
    "SceneWindows",
    "Sound",
    "SoundWindows",
    "Text",
    "Unsupported",
    "VideoClip",
    "recipes",
]
