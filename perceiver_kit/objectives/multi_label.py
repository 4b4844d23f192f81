"""Multi-label classification."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from ..checks import check_positive
from ..registry import register
from .base import Objective, Outputs, check_same, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class MultiLabel(Objective):
    """Binary cross-entropy of logits (b, labels) against (b, labels) in [0, 1]. Metric: mean average precision.

    >>> loss, _ = MultiLabel(labels=3)({"label": torch.zeros(2, 3)}, {"label": torch.eye(3)[:2]})
    >>> round(loss.item(), 3)  # -log(1/2)
    0.693
    """

    def __init__(self, output: str = "label", *, labels: int) -> None:
        super().__init__()
        check_positive("MultiLabel", labels=labels)
        self.output, self.labels = output, labels

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        check_same(self.output, output, target)
        loss = F.binary_cross_entropy_with_logits(output.float(), target.float(), reduction="sum")
        return loss, target.numel()

    def meters(self) -> dict[str, Metric]:
        kind = dict(task="binary") if self.labels == 1 else dict(task="multilabel", num_labels=self.labels)
        return {"average_precision": torchmetrics_package().AveragePrecision(**kind)}

    def compared(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        return output.sigmoid(), target.long()
