"""Multi-label classification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..checking import check_positive
from ..registry import register
from .base import MISSING, Objective, Outputs, check_same, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class MultiLabel(Objective):
    """Binary cross-entropy of logits (b, …, labels) against targets in [0, 1] of the same shape.

    Metric: mean average precision.

    A label that is missing (-100, NaN, or False in the target ``valid``) is skipped.

    >>> loss, _ = MultiLabel(labels=3)({"label": torch.zeros(2, 3)}, {"label": torch.eye(3)[:2]})
    >>> round(loss.item(), 3)  # -log(1/2)
    0.693
    """

    def __init__(self, output: str = "label", *, labels: int, valid: str | None = None) -> None:
        super().__init__()
        check_positive("MultiLabel", labels=labels)
        self.output, self.labels, self.valid = output, labels, valid

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        check_same(self.output, output, target)
        there = self.present(target, targets)
        known = torch.where(there, target, 0).float()
        loss = F.binary_cross_entropy_with_logits(output.float(), known, weight=there.float(), reduction="sum")
        return loss, there.sum()

    def meters(self) -> dict[str, Metric]:
        kind = dict(task="binary") if self.labels == 1 else dict(task="multilabel", num_labels=self.labels)
        return {"average_precision": torchmetrics_package().AveragePrecision(**kind, ignore_index=MISSING)}

    def compared(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        known = torch.where(self.present(target, targets), target, MISSING).long()
        scores, known = (rearrange(value, "b ... labels -> (b ...) labels") for value in (output.sigmoid(), known))
        return scores, known
