"""From files to inputs and from outputs to answers: what ``kit.predict`` uses.

A ``Processor`` has a reader for each input and an interpreter. All are frozen dataclasses that specs and checkpoints
hold.
"""

from . import points, recipes, series, sets
from .answers import AnswerText, Question, SpanAnswer
from .base import Answer, Interpreter, Item, Processor, Raw, Reader, Unsupported
from .classes import ClassAnswer, Classes, TaskAnswer, TaskClasses
from .clips import ClipAnswer, DecodedClip
from .flow import FlowAnswer, FlowField
from .objects import FoundObjects, ObjectsAnswer, PixelClasses, SegmentsAnswer
from .points import Cloud
from .readers import Array, Frames, Picture, Sound, VideoClip
from .reconstruction import ReconstructedAnswer, Reconstruction
from .series import Forecast, ForecastAnswer, History
from .sets import Entities
from .tags import Span, TagAnswer, TaggedText
from .texts import Continued, ContinuedAnswer, FilledAnswer, FilledText, Prompt, Text
from .windows import SceneWindows, SoundWindows

__all__ = [
    "Answer",
    "AnswerText",
    "Array",
    "ClassAnswer",
    "Classes",
    "ClipAnswer",
    "Cloud",
    "Continued",
    "ContinuedAnswer",
    "DecodedClip",
    "Entities",
    "FilledAnswer",
    "FilledText",
    "FlowAnswer",
    "FlowField",
    "Forecast",
    "ForecastAnswer",
    "FoundObjects",
    "Frames",
    "History",
    "Interpreter",
    "Item",
    "ObjectsAnswer",
    "Picture",
    "PixelClasses",
    "Processor",
    "Prompt",
    "Question",
    "Raw",
    "Reader",
    "ReconstructedAnswer",
    "Reconstruction",
    "SceneWindows",
    "SegmentsAnswer",
    "Sound",
    "SoundWindows",
    "Span",
    "SpanAnswer",
    "TagAnswer",
    "TaggedText",
    "TaskAnswer",
    "TaskClasses",
    "Text",
    "Unsupported",
    "VideoClip",
    "points",
    "recipes",
    "series",
    "sets",
]
