"""From files to inputs and from outputs to answers: what ``kit.predict`` uses.

A ``Processor`` has a reader for each input and an interpreter. All are frozen dataclasses that specs and checkpoints
hold.
"""

from . import recipes
from .answers import AnswerText, Question, SpanAnswer
from .base import Answer, Interpreter, Item, Processor, Raw, Reader, Unsupported
from .classes import ClassAnswer, Classes, TaskAnswer, TaskClasses
from .clips import ClipAnswer, DecodedClip
from .flow import FlowAnswer, FlowField
from .readers import Array, Frames, Picture, Sound, VideoClip
from .tags import Span, TagAnswer, TaggedText
from .texts import FilledAnswer, FilledText, Text

__all__ = [
    "Answer",
    "AnswerText",
    "Array",
    "ClassAnswer",
    "Classes",
    "ClipAnswer",
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
    "Question",
    "Raw",
    "Reader",
    "Sound",
    "Span",
    "SpanAnswer",
    "TagAnswer",
    "TaggedText",
    "TaskAnswer",
    "TaskClasses",
    "Text",
    "Unsupported",
    "VideoClip",
    "recipes",
]
