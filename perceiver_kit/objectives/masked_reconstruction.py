"""Reconstruction of what a model did not read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..registry import register
from .base import Objective, Outputs, check_same, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class MaskedReconstruction(Objective):
    """Squared error of values against targets of the same shape, where targets are not NaN.

    In masked autoencoding, targets are NaN where the model could read the input. Metric: the mean squared error.

    >>> target = torch.tensor([[1.0, float("nan")]])
    >>> loss, _ = MaskedReconstruction("image")({"image": torch.zeros(1, 2)}, {"image": target})
    >>> loss.item()
    1.0
    """

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output = output

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        check_same(self.output, output, target)
        counted = ~target.isnan()
        return (output.float() - torch.where(counted, target, output)).square().sum(), counted.sum()

    def meters(self) -> dict[str, Metric]:
        return {"mse": torchmetrics_package().MeanSquaredError()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        target = targets[self.output]
        counted = ~target.isnan()
        if counted.any():
            meters["mse"].update(outputs[self.output][counted].float(), target[counted].float())
