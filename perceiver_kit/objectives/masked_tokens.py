"""Masked-token prediction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import describe_value
from ..errors import InputError
from ..registry import register
from .base import Objective, Outputs, check_classes, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class MaskedTokens(Objective):
    """Cross-entropy of logits (b, n, vocabulary) where targets (b, n) int64 are not -100, in nats.

    Only masked rows count. Metric: accuracy over the same rows.

    >>> loss, _ = MaskedTokens()({"text": torch.zeros(1, 3, 262)}, {"text": torch.tensor([[-100, 80, -100]])})
    >>> round(loss.item(), 3)  # log(262)
    5.568
    """

    def __init__(self, output: str = "text") -> None:
        super().__init__()
        self.output = output

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        if target.dtype != torch.int64 or target.shape != output.shape[:2]:
            expected = tuple(output.shape[:2])
            raise InputError(f"target {self.output!r} must be int64 {expected}, got {describe_value(target)}")
        masked = target != -100
        check_classes(self.output, target[masked], output.shape[-1])
        return F.cross_entropy(output[masked].float(), target[masked], reduction="sum"), masked.sum()

    def check_values(self, targets: Outputs, widths: Mapping[str, int]) -> None:
        target = targets[self.output]
        check_classes(self.output, target[target != -100], widths[self.output])

    def meters(self) -> dict[str, Metric]:
        return {"accuracy": torchmetrics_package().MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        masked = targets[self.output] != -100
        if masked.any():
            correct = outputs[self.output][masked].argmax(-1) == targets[self.output][masked]
            meters["accuracy"].update(correct.float())
