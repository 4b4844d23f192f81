"""Regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..registry import register
from .base import Objective, Outputs, check_same, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Regression(Objective):
    """Squared error of values (b, …) against targets of the same shape. Metrics: mean squared and absolute error.

    Missing targets (NaN, -100 in integers, or False in the target ``valid``) are skipped: in masked autoencoding, those
    of values that the model could read.

    >>> loss, _ = Regression("height")({"height": torch.zeros(4, 1)}, {"height": torch.full((4, 1), 2.0)})
    >>> loss.item()
    4.0
    """

    def __init__(self, output: str = "label", *, valid: str | None = None) -> None:
        super().__init__()
        self.output, self.valid = output, valid

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        check_same(self.output, output, target)
        there = self.present(target, targets)
        return torch.where(there, output.float() - target.float(), 0).square().sum(), there.sum()

    def meters(self) -> dict[str, Metric]:
        metrics = torchmetrics_package()
        return {"mse": metrics.MeanSquaredError(), "mae": metrics.MeanAbsoluteError()}
