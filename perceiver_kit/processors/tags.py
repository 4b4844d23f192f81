"""Tagged texts: the words or spans that a model names, at their places in the text."""

from __future__ import annotations

import html
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checking import check_choice, check_positive
from ..data.bytes import BYTE_OFFSET
from ..data.tags import Unit, units_of
from ..errors import InputError
from ..objectives.tags import are_spans, tag_spans
from ..plots.style import COLOURS
from ..registry import register
from .base import Answer, Interpreter, Item, Processor


class Span(NamedTuple):
    """Characters ``start`` to ``end`` (after the last one) of a text, their tag or kind, and its probability."""

    text: str
    label: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, repr=False)
class TagAnswer(Answer):
    """A text with its tags; a notebook colours them."""

    text_read: str = ""

    def text(self) -> str:
        return ", ".join(f"{span.text} {span.label}" for span in self.best) or "no span"

    def json(self) -> dict[str, Any]:
        return super().json() | {"best": [span._asdict() for span in self.best], "scores": self.scores}

    def _repr_html_(self) -> str:
        kinds = sorted({span.label for span in self.best})
        parts, end = [], 0
        for span in self.best:
            colour = COLOURS[kinds.index(span.label) % len(COLOURS)]
            style = f"background:{colour}33;border-bottom:2px solid {colour}"
            label = f'<sub style="color:{colour}">{html.escape(span.label)}</sub>'
            parts += [html.escape(self.text_read[end : span.start])]
            parts += [f'<span style="{style}">{html.escape(span.text)}{label}</span>']
            end = span.end
        parts.append(html.escape(self.text_read[end:]))
        return f'<div><p style="white-space:pre-wrap;line-height:2">{"".join(parts)}</p></div>'


@register("processors")
@dataclass(frozen=True)
class TaggedText(Interpreter):
    """The tag of each word or character of a text, read at its first byte; BIO tags are joined to spans.

    ``best`` is a tuple of ``Span``; ``scores`` has the number of spans of each label. A text of more than
    ``max_length`` bytes is read in windows that overlap by a half; a byte's tag is that of the window in whose middle
    it is.

    Args:
        max_length: bytes that the model reads.
        unit: what has a tag.
        text: the input with the ids.
        tags: the output with the logits.
    """

    max_length: int = 2048
    unit: Unit = "words"
    text: str = "text"
    tags: str = "tags"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("TaggedText", max_length=self.max_length)
        check_choice("TaggedText", "unit", self.unit, ("words", "characters"))

    def prepare(self, item: Item) -> Item:
        text = decoded(item.inputs[self.text])
        if not text.strip():
            raise InputError("source: expected a text, got only white space")
        return item

    def split(self, item: Item) -> list[Item]:
        ids = item.inputs[self.text]
        starts = overlapping_starts(len(ids), self.max_length)
        windows = [{**item.inputs, self.text: ids[start : start + self.max_length]} for start in starts]
        return [Item(window, item.ragged) for window in windows]

    def join(self, item: Item, windows: list[Item], outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        total = len(item.inputs[self.text])
        rows = [own[self.tags][: len(window.inputs[self.text])] for own, window in zip(outputs, windows, strict=True)]
        return {**outputs[0], self.tags: join_windows(rows, total, self.max_length)}

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: Any, processor: Processor
    ) -> TagAnswer:
        text = decoded(item.inputs[self.text])
        units = units_of(text, self.unit)
        firsts = first_bytes(text)
        probs = outputs[self.tags][torch.tensor([firsts[start] for start, _ in units])].softmax(-1)
        names = getattr(model, "labels", {}).get(self.tags) or [f"class {i}" for i in range(probs.shape[-1])]
        values, order = (part.tolist() for part in probs.max(-1))
        tags = [names[i] for i in order]
        if are_spans(names):
            found = [(span.kind, span.start, span.end) for span in tag_spans(tags)]
        else:
            found = [(tag, i, i + 1) for i, tag in enumerate(tags)]
        spans = tuple(
            Span(
                text[(s := units[first][0]) : (e := units[last - 1][1])],
                label,
                s,
                e,
                sum(values[first:last]) / (last - first),
            )
            for label, first, last in found
        )
        labels = [span.label for span in spans]
        counts = {label: labels.count(label) for label in sorted({*labels})}
        return TagAnswer(source, spans, counts, outputs, processor, text_read=text)


def decoded(ids: Tensor) -> str:
    """The text of bytes as ids; InputError for other ids, or bytes that are no UTF-8."""
    try:
        return bytes((ids - BYTE_OFFSET).tolist()).decode()
    except ValueError as error:
        raise InputError(f"source: expected the ids of a text in UTF-8, without special ids ({error})") from None


def first_bytes(text: str) -> list[int]:
    """The place of the first byte of each character, and the number of bytes.

    >>> first_bytes("aé🙂b")
    [0, 1, 3, 7, 8]
    """
    return [0, *accumulate(len(character.encode()) for character in text)]


def overlapping_starts(total: int, length: int) -> list[int]:
    """Where windows start that overlap by a half, and end with the text.

    >>> overlapping_starts(9, 4), overlapping_starts(3, 4)
    ([0, 2, 4, 5], [0])
    """
    last = max(0, total - length)
    return [*range(0, last, max(1, length // 2)), last]


def join_windows(rows: list[Tensor], total: int, length: int) -> Tensor:
    """Rows (total, c) of windows: each is taken from the window to whose middle it is nearest.

    >>> join_windows([torch.zeros(4, 1), torch.ones(4, 1)], 6, 4)[:, 0]
    tensor([0., 0., 0., 1., 1., 1.])
    """
    starts = overlapping_starts(total, length)
    middles = torch.tensor([start + len(own) / 2 - 0.5 for start, own in zip(starts, rows, strict=True)])
    owner = (torch.arange(total)[:, None] - middles).abs().argmin(-1).tolist()
    return torch.stack([rows[window][place - starts[window]] for place, window in enumerate(owner)])
