"""The answer to a question as a span of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ..checking import check_positive, describe_value
from ..errors import InputError
from ..registry import register
from .base import MISSING, Objective, Outputs, Term, check_classes, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


class BestSpan(NamedTuple):
    """The likeliest span of each sample: its first and last row, and the sum of their logits."""

    start: Int64[Tensor, "b"]
    end: Int64[Tensor, "b"]
    score: Float[Tensor, "b"]


def best_ends(
    start: Float[Tensor, "b n"], end: Float[Tensor, "b n"], allowed: Bool[Tensor, "b n"], *, longest: int = 64
) -> tuple[Float[Tensor, "b n"], Int64[Tensor, "b n"]]:
    """For each first row, the highest sum of logits of a span of at most ``longest`` rows, and the span's last row.

    Only rows that are ``allowed`` begin or end a span; where none does, the sum is -inf. Row 0, where it is allowed,
    stands for no answer: it is a span of its own, (0, 0).

    >>> best_ends(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[True, True, True]]), longest=2)
    (tensor([[0., 2., 2.]]), tensor([[0, 2, 2]]))
    """
    start, end = (logits.float().masked_fill(~allowed, -math.inf) for logits in (start, end))
    longest = min(longest, start.shape[1])
    ends = torch.nn.functional.pad(end, (0, longest - 1), value=-math.inf).unfold(1, longest, 1)
    sums = rearrange(start, "b n -> b n 1") + ends
    sums[:, 0, 1:] = -math.inf  # no answer is no beginning
    score, more = sums.max(dim=-1)
    return score, torch.arange(start.shape[1], device=start.device) + more


def best_span(
    start: Float[Tensor, "b n"], end: Float[Tensor, "b n"], allowed: Bool[Tensor, "b n"], *, longest: int = 64
) -> BestSpan:
    """The span with the highest sum of logits, of those of ``best_ends``.

    >>> start, end = torch.tensor([[0.0, 1.0, 5.0, 0.0]]), torch.tensor([[0.0, 9.0, 0.0, 2.0]])
    >>> best_span(start, end, torch.tensor([[True, False, True, True]]))[:2]
    (tensor([2]), tensor([3]))
    """
    scores, ends = best_ends(start, end, allowed, longest=longest)
    score, first = scores.max(dim=1)
    return BestSpan(first, rearrange(ends.gather(1, rearrange(first, "b -> b 1")), "b 1 -> b"), score)


@register("objectives")
class AnswerSpan(Objective):
    """Cross-entropy of the first and the last row of an answer, in nats.

    ``outputs["start"]`` and ``outputs["end"]`` are logits of rows (b, n). Targets: ``start`` and ``end`` int64 (b, k),
    the first and last row of k right answers of which any counts, -100 for fewer; ``allowed`` bool (b, n), the rows
    that may be chosen. A row that is not allowed has no probability. Row 0 means no answer.

    Metrics: of ``best_span``, the share that equals a right answer (``exact_match``), and the F1 of its rows against
    the right answer that it overlaps most.

    >>> targets = {"start": torch.tensor([[1]]), "end": torch.tensor([[2]]), "allowed": torch.ones(1, 4).bool()}
    >>> loss, parts = AnswerSpan()({"start": torch.zeros(1, 4), "end": torch.zeros(1, 4)}, targets)
    >>> round(parts["end"].item(), 4)
    1.3863
    """

    def __init__(self, output: str = "start", *, end: str = "end", allowed: str = "allowed", longest: int = 64) -> None:
        super().__init__()
        check_positive("AnswerSpan", longest=longest)
        self.output, self.end, self.allowed, self.longest = output, end, allowed, longest

    def terms(self, outputs: Outputs, targets: Outputs) -> dict[str, Term]:
        return {name: Term(*self._loss(name, outputs, targets)) for name in (self.output, self.end)}

    def applies(self, outputs: Outputs) -> bool:
        return self.output in outputs and self.end in outputs

    def _loss(self, name: str, outputs: Outputs, targets: Outputs) -> tuple[Tensor, Tensor]:
        for needed, values in ((name, outputs), (name, targets), (self.allowed, targets)):
            if needed not in values:
                raise InputError(f"AnswerSpan: expected {needed!r}, got {', '.join(values)}")
        logits, target, allowed = outputs[name], targets[name], targets[self.allowed]
        if target.dtype != torch.int64 or target.ndim != 2 or len(target) != len(logits):
            expected = f"int64 ({len(logits)}, answers)"
            raise InputError(f"target {name!r} must be {expected}, got {describe_value(target)}")
        if allowed.dtype != torch.bool or allowed.shape != logits.shape:
            expected = f"bool {tuple(logits.shape)}"
            raise InputError(f"target {self.allowed!r} must be {expected}, got {describe_value(allowed)}")
        check_classes(name, target, logits.shape[1])
        there = target != MISSING
        # Finite: the gradient of a log of zero is NaN. Samples without a target may allow no row.
        logs = logits.float().masked_fill(~allowed, -1e9).log_softmax(-1)
        right = logs.gather(1, target.clamp(min=0)).masked_fill(~there, -math.inf)
        known = there.any(-1)
        right = torch.where(rearrange(known, "b -> b 1"), right, 0)  # finite where nothing is known
        return -torch.where(known, right.logsumexp(-1), 0).sum(), known.sum()

    def check_values(self, targets: Outputs, widths: Mapping[str, int]) -> None:
        for name in (self.output, self.end):
            check_classes(name, targets[name], targets[self.allowed].shape[1])

    def meters(self) -> dict[str, Metric]:
        metrics = torchmetrics_package()
        return {"exact_match": metrics.MeanMetric(), "f1": metrics.MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        found = best_span(outputs[self.output], outputs[self.end], targets[self.allowed], longest=self.longest)
        start, end = targets[self.output], targets[self.end]
        known = (start != MISSING).any(-1)
        first, last = (rearrange(row, "b -> b 1") for row in (found.start, found.end))
        exact = ((first == start) & (last == end)).any(-1)
        shared = (torch.minimum(last, end) - torch.maximum(first, start) + 1).clamp(min=0)
        f1 = 2 * shared / (last - first + end - start + 2)
        f1 = f1.masked_fill(start == MISSING, 0).amax(-1)
        for name, values in (("exact_match", exact), ("f1", f1)):
            if known.any():
                meters[name].update(values[known].float())
