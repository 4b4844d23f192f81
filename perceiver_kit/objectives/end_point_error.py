"""Optical flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..checking import check_positive, describe_value
from ..errors import InputError
from ..registry import register
from .base import Objective, Outputs, check_same, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


OUTLIER = (3.0, 0.05)
"""Fl-all counts errors above so many pixels and above this share of the true distance."""


@register("objectives")
class EndPointError(Objective):
    """Distance in pixels between flow (b, 2, h, w) and its target.

    Pixels count where the target is not NaN and the target ``valid`` (b, h, w), if there is one, is True.

    ``scales`` adds the same at halved resolutions, with equal weights; ``robust`` uses (distance + 0.01) ** 0.4, as in
    fine-tuning flow networks. Metrics: the end-point error itself, and KITTI's Fl-all, the share of pixels whose error
    is above 3 pixels and above 5 % of the true distance.

    >>> from einops import repeat
    >>> truth = repeat(torch.tensor([3.0, 4.0]), "c -> 1 c h w", h=8, w=8)
    >>> loss, _ = EndPointError()({"flow": torch.zeros(1, 2, 8, 8)}, {"flow": truth})
    >>> loss.item()
    5.0
    """

    def __init__(self, output: str = "flow", *, valid: str = "valid", scales: int = 1, robust: bool = False) -> None:
        super().__init__()
        check_positive("EndPointError", scales=scales)
        self.output, self.valid, self.scales, self.robust = output, valid, scales, robust

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        check_same(self.output, output, target)
        if output.ndim != 4 or output.shape[1] != 2:
            raise InputError(f"output {self.output!r} must be float (b, 2, h, w), got {describe_value(output)}")
        if min(output.shape[-2:]) >> (self.scales - 1) == 0:
            most = min(output.shape[-2:]).bit_length()
            raise InputError(f"scales: expected at most {most} for {describe_value(output)}, got {self.scales}")
        valid = self._weights(target, targets)
        total, count = output.new_zeros((), dtype=torch.float32), valid.sum()
        error, target = output.float(), target.float()
        error = torch.where(valid > 0, error - target, 0)
        for scale in range(self.scales):
            if scale:
                # Mean error of the valid pixels in each 2 × 2 block.
                share = F.avg_pool2d(valid, 2)
                error = F.avg_pool2d(error * valid, 2) / share.clamp(min=1e-6)
                valid = (share > 0).float()
            distance = _distance(error)
            distance = (distance + 0.01) ** 0.4 if self.robust else distance
            mean = (distance * valid[:, 0]).sum() / valid.sum().clamp(min=1)
            total = total + mean * count / self.scales
        return total, count

    def _weights(self, target: Tensor, targets: Outputs) -> Tensor:
        known = ~target[:, :1].isnan() & ~target[:, 1:].isnan()
        if self.valid not in targets:
            return known.float()
        valid, expected = targets[str(self.valid)], (target.shape[0], *target.shape[2:])
        if tuple(valid.shape) != expected:
            raise InputError(f"target {self.valid!r} must be bool {expected}, got {describe_value(valid)}")
        return (known & rearrange(valid, "b h w -> b 1 h w").bool()).float()

    def meters(self) -> dict[str, Metric]:
        mean = torchmetrics_package().MeanMetric
        return {"epe": mean(), "fl_all": mean()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        target = targets[self.output].float()
        valid = self._weights(target, targets) > 0
        error = torch.where(valid, outputs[self.output].float() - target, 0)
        if valid.any():
            distance, there = _distance(error), valid[:, 0]
            outlier = (distance > OUTLIER[0]) & (distance > OUTLIER[1] * _distance(torch.where(valid, target, 0)))
            meters["epe"].update(distance[there])
            meters["fl_all"].update(outlier[there].float())


def _distance(error: Tensor) -> Tensor:
    # The square root has no gradient at zero, the initial flow.
    return (error.square().sum(1) + 1e-12).sqrt()
