"""Regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..registry import register
from .base import Objective, Outputs, check_same, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Regression(Objective):
    """Squared error of values (b, …) against targets of the same shape. Metrics: mean squared and absolute error.

    >>> loss, _ = Regression("height")({"height": torch.zeros(4, 1)}, {"height": torch.full((4, 1), 2.0)})
    >>> loss.item()
    4.0
    """

    def __init__(self, output: str = "label") -> None:
        super().__init__()
        self.output = output

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        check_same(self.output, output, target)
        return (output.float() - target).square().sum(), target.numel()

    def meters(self) -> dict[str, Metric]:
        metrics = torchmetrics_package()
        return {"mse": metrics.MeanSquaredError(), "mae": metrics.MeanAbsoluteError()}
