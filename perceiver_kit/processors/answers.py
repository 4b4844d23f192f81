"""Answers to questions: a span of the context."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..checking import check_positive
from ..data.bytes import ByteTokenizer
from ..data.questions import allowed_rows, context_windows
from ..errors import InputError
from ..objectives.answer_span import best_ends
from ..registry import register
from .base import TOP, Answer, Interpreter, Item, Processor
from .tags import decoded, first_bytes
from .texts import Text

STARTS = 20
"""The likeliest spans, one for each first row; those with the same text are added up."""


@register("processors")
@dataclass(frozen=True)
class Question(Text):
    """A question and its context, two texts or paths in a tuple, as ``[CLS]`` question ``[SEP]`` context ``[SEP]``.

    On the command line every second text or file is the context of the one before it.

    >>> processors.Question(parse_special=False).read(("ab", "c"))
    tensor([  4, 103, 104,   5, 105,   5])
    """

    files: ClassVar[int] = 2

    def read(self, source: Any) -> Tensor:
        if not isinstance(source, tuple) or len(source) != 2:
            raise self.refuse(source, "a tuple of a question and its context")
        return super().read(source)


@dataclass(frozen=True, repr=False)
class SpanAnswer(Answer):
    """A span of the context, at characters ``start`` to ``end``; ``best`` is None without an answer."""

    start: int = 0
    end: int = 0
    context: str = ""

    def text(self) -> str:
        return "no answer" if self.best is None else str(self.best)

    def json(self) -> dict[str, Any]:
        return super().json() | {"start": self.start, "end": self.end}

    def _repr_html_(self) -> str:
        before, inside, after = (
            self.context[: self.start],
            self.context[self.start : self.end],
            self.context[self.end :],
        )
        marked = f"<mark>{html.escape(inside)}</mark>" if inside else ""
        shown = f"{html.escape(before)}{marked}{html.escape(after)}"
        return f'<div><p>{html.escape(self.text())}</p><p style="white-space:pre-wrap">{shown}</p></div>'


@register("processors")
@dataclass(frozen=True)
class AnswerText(Interpreter):
    """The span of a context that answers a question: the first and the last row with the highest sum of logits.

    ``best`` is the text of the span; ``scores`` has the best texts with their probability, the highest first, None
    standing for no answer. A text may stand in several places: of the ``STARTS`` likeliest spans, those with the same
    text are added up. A context too long for the model is read in windows that overlap by a half. The logits of each
    window count beyond those of no answer in it, if no answer may win: otherwise those were never trained.

    Args:
        max_length: ids that the model reads.
        unanswerable: whether no answer may win.
        longest: bytes of an answer at most.
        text: the input with the ids.
        start: the output with the logits of the first row.
        end: that of the last row.
    """

    max_length: int = 2048
    unanswerable: bool = True
    longest: int = 64
    text: str = "text"
    start: str = "start"
    end: str = "end"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("AnswerText", max_length=self.max_length, longest=self.longest)

    def prepare(self, item: Item) -> Item:
        ids = item.inputs[self.text]
        question, context = _parts(ids)
        if not question.strip() or not context.strip():
            raise InputError("source: expected a question and its context, got an empty one")
        context_windows(*_cut(ids), self.max_length, "source")
        return item

    def split(self, item: Item) -> list[Item]:
        ids = item.inputs[self.text]
        windows = context_windows(*_cut(ids), self.max_length, "source")
        return [Item({**item.inputs, self.text: torch.tensor(window)}, item.ragged) for _, window in windows]

    def join(self, item: Item, windows: list[Item], outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        if len(windows) == 1:
            return outputs[0]
        ids = item.inputs[self.text]
        question, context = _cut(ids)
        starts = [start for start, _ in context_windows(question, context, self.max_length, "source")]
        first = len(question) + 2
        joined = {}
        for name in (self.start, self.end):
            rows = torch.full((len(ids),), -torch.inf)
            rows[0] = 0.0
            for start, own in zip(starts, outputs, strict=True):
                length = min(self.max_length - first - 1, len(context) - start)
                beyond = own[name][first : first + length] - (own[name][0] if self.unanswerable else 0)
                place = slice(first + start, first + start + length)
                rows[place] = torch.maximum(rows[place], beyond)
            joined[name] = rows.nan_to_num(neginf=-1e9)
        return {**outputs[0], **joined}

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: Any, processor: Processor
    ) -> SpanAnswer:
        ids = item.inputs[self.text]
        context = _parts(ids)[1]
        allowed = allowed_rows(ids, self.unanswerable)
        start, end = (outputs[name][: len(ids)].masked_fill(~allowed, -torch.inf) for name in (self.start, self.end))
        whole = start.logsumexp(-1) + end.logsumexp(-1)
        scores: dict[Any, float] = {}
        places: dict[Any, tuple[int, int]] = {}
        found, ends = (row[0] for row in best_ends(start[None], end[None], allowed[None], longest=self.longest))
        for score, first in zip(*(values.tolist() for values in found.topk(min(STARTS, len(found)))), strict=True):
            if score == -math.inf and scores:
                break
            place = _characters(ids, context, first, int(ends[first]))
            text = None if first == 0 else context[place[0] : place[1]]
            scores[text] = scores.get(text, 0.0) + math.exp(score - float(whole))
            places.setdefault(text, place)
        best_text = max(scores, key=lambda text: scores[text])
        ordered = dict(sorted(scores.items(), key=lambda pair: -pair[1])[:TOP])
        at = places[best_text]
        return SpanAnswer(source, best_text, ordered, outputs, processor, start=at[0], end=at[1], context=context)


def _cut(ids: Tensor) -> tuple[list[int], list[int]]:
    """The ids of the question and of the context."""
    row = ids.tolist()
    if row[:1] != [ByteTokenizer.cls_id] or row.count(ByteTokenizer.sep_id) != 2 or row[-1] != ByteTokenizer.sep_id:
        raise InputError("source: expected ids of [CLS] question [SEP] context [SEP]")
    middle = row.index(ByteTokenizer.sep_id)
    return row[1:middle], row[middle + 1 : -1]


def _parts(ids: Tensor) -> tuple[str, str]:
    question, context = (decoded(torch.tensor(part, dtype=torch.int64)) for part in _cut(ids))
    return question, context


def _characters(ids: Tensor, context: str, first: int, last: int) -> tuple[int, int]:
    """The characters of the context that these rows are part of; (0, 0) for row 0."""
    if first == 0:
        return 0, 0
    offset = len(_cut(ids)[0]) + 2
    starts = torch.tensor(first_bytes(context))
    start, end = (int(torch.searchsorted(starts, row - offset, right=True)) for row in (first, last))
    return start - 1, end
