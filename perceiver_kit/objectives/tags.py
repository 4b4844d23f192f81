"""Tags of words or characters, and the spans that they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..checking import check_class_names
from ..registry import register
from .base import MISSING, Outputs, torchmetrics_package
from .classification import Classification

if TYPE_CHECKING:
    from torchmetrics import Metric

OUTSIDE = "O"


class TagSpan(NamedTuple):
    """Elements ``start`` to ``end`` (after the last one) of a sequence, which have a kind together."""

    kind: str
    start: int
    end: int


def are_spans(names: Sequence[str]) -> bool:
    """Whether tags are of the scheme BIO, or BIOES: ``O``, and kinds after ``B-``, ``I-``, ``E-`` or ``S-``.

    >>> are_spans(["O", "B-name", "I-name"]), are_spans(["NOUN", "VERB"])
    (True, False)
    """
    return any(name != OUTSIDE for name in names) and all(
        name == OUTSIDE or (name[:1] in "BIES" and name[1:2] == "-") for name in names
    )


def tag_spans(tags: Sequence[str]) -> list[TagSpan]:
    """The spans of BIO or BIOES tags, by seqeval's default definition.

    A span starts at ``B`` or ``S``, after ``E``, ``S`` or ``O``, and where the kind changes: ``I`` may start one.

    Source: seqeval (Nakayama 2018), ``get_entities``, which follows conlleval.

    >>> tag_spans(["B-name", "I-name", "O", "I-place", "B-place"])
    [TagSpan(kind='name', start=0, end=2), TagSpan(kind='place', start=3, end=4), TagSpan(kind='place', start=4, end=5)]
    """
    spans: list[TagSpan] = []
    for place, (before, tag) in enumerate(pairwise([OUTSIDE, *tags])):
        if tag == OUTSIDE:
            continue
        if tag[0] in "BS" or before[0] in "ESO" or before[2:] != tag[2:]:
            spans.append(TagSpan(tag[2:], place, place + 1))
        else:
            spans[-1] = spans[-1]._replace(end=place + 1)
    return spans


@register("objectives")
class Tags(Classification):
    """Cross-entropy of tags: logits (b, n, classes), targets (b, n) int64, -100 where an element has no tag; nats.

    ``names`` are those of the classes. Metrics: accuracy, and where the names are BIO or BIOES tags the precision,
    recall and F1 of whole spans (``tag_spans``). A sample's elements with a tag are one sequence.

    >>> objective = Tags(names=("O", "B-name", "I-name"))
    >>> [*objective.meters()]
    ['accuracy', 'precision', 'recall', 'f1']
    """

    def __init__(
        self,
        output: str = "tags",
        *,
        names: Sequence[str] = (),
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__(output, label_smoothing=label_smoothing, class_weights=class_weights)
        self.names: tuple[str, ...] = check_class_names("Tags: names", names) if names else ()

    def meters(self) -> dict[str, Metric]:
        meters = super().meters()
        if are_spans(self.names):
            metrics = torchmetrics_package().classification
            # Over the spans that are wanted or found; the counts are those of seqeval's micro average.
            meters |= {
                "precision": metrics.BinaryPrecision(),
                "recall": metrics.BinaryRecall(),
                "f1": metrics.BinaryF1Score(),
            }
        return meters

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        super().measure({"accuracy": meters["accuracy"]}, outputs, targets)
        found, wanted = (self._spans(tags, targets) for tags in (outputs[self.output].argmax(-1), targets[self.output]))
        every = sorted(found | wanted)
        if every:
            is_found, is_wanted = (torch.tensor([span in spans for span in every]).int() for spans in (found, wanted))
            for name in meters.keys() - {"accuracy"}:
                meters[name].update(is_found.to(meters[name].device), is_wanted.to(meters[name].device))

    def _spans(self, tags: Tensor, targets: Outputs) -> set[tuple[int, TagSpan]]:
        """The spans of a batch with the number of their sample."""
        if not are_spans(self.names):
            return set()
        present = targets[self.output] != MISSING
        rows = [[self.names[i] for i in row[there].tolist()] for row, there in zip(tags, present, strict=True)]
        return {(i, span) for i, row in enumerate(rows) for span in tag_spans(row)}
