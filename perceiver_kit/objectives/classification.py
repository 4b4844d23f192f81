"""Classification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_probability, describe_value
from ..errors import InputError
from ..registry import register
from .base import Objective, Outputs, check_classes, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Classification(Objective):
    """Cross-entropy of logits (b, classes) against class indices (b,) int64, or (b, classes) probabilities.

    ``label_smoothing`` in [0, 1] mixes the target with the uniform distribution. Metric: accuracy.

    >>> loss, parts = Classification()({"label": torch.zeros(2, 4)}, {"label": torch.tensor([1, 3])})
    >>> round(loss.item(), 4)
    1.3863
    """

    def __init__(self, output: str = "label", *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        check_probability("Classification", label_smoothing=label_smoothing)
        self.output, self.label_smoothing = output, label_smoothing

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        probabilities = target.is_floating_point() and target.shape == output.shape
        if not probabilities and (target.dtype != torch.int64 or target.shape != output.shape[:1]):
            expected = f"int64 ({output.shape[0]},) or float {tuple(output.shape)}"
            raise InputError(f"target {self.output!r} must be {expected}, got {describe_value(target)}")
        check_classes(self.output, target, output.shape[-1])
        loss = F.cross_entropy(output.float(), target, label_smoothing=self.label_smoothing, reduction="sum")
        return loss, target.shape[0]

    def check_values(self, targets: Outputs, widths: Mapping[str, int]) -> None:
        check_classes(self.output, targets[self.output], widths[self.output])

    def meters(self) -> dict[str, Metric]:
        return {"accuracy": torchmetrics_package().MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        target = targets[self.output]
        classes = target if target.ndim == 1 else target.argmax(-1)
        meters["accuracy"].update((outputs[self.output].argmax(-1) == classes).float())
