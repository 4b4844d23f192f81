"""Reconstruction of the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..registry import register
from .base import Objective, Outputs, check_same, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Reconstruction(Objective):
    """Absolute error of values against targets of the same shape. Metric: PSNR for values in [-1, 1].

    Missing targets (NaN, -100 in integers, or False in the target ``valid``) are skipped.

    >>> loss, _ = Reconstruction("image")({"image": torch.zeros(1, 4)}, {"image": torch.full((1, 4), 0.5)})
    >>> loss.item()
    0.5
    """

    def __init__(self, output: str, *, valid: str | None = None) -> None:
        super().__init__()
        self.output, self.valid = output, valid

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        check_same(self.output, output, target)
        there = self.present(target, targets)
        return torch.where(there, output.float() - target.float(), 0).abs().sum(), there.sum()

    def meters(self) -> dict[str, Metric]:
        torchmetrics_package()
        from torchmetrics.image import PeakSignalNoiseRatio

        return {"psnr": PeakSignalNoiseRatio(data_range=2.0)}
