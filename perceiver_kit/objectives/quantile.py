"""Quantiles of values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..checking import describe_value
from ..errors import InputError
from ..registry import register
from .base import Objective, Outputs, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


def levels(count: int) -> Float[Tensor, "quantiles"]:
    """The levels of evenly spaced quantiles: 1/(count + 1), …, count/(count + 1).

    >>> levels(3)
    tensor([0.2500, 0.5000, 0.7500])
    """
    return torch.arange(1, count + 1) / (count + 1)


@register("objectives")
class Quantile(Objective):
    """Twice the pinball loss of evenly spaced quantiles (b, n, series, quantiles) against values (b, n, series).

    It is the absolute error for the median alone, and approaches the continuous ranked probability score for many
    quantiles. Missing targets (NaN, or False in the target ``valid``) are skipped. Metrics: absolute error of the
    middle quantile; coverage, the share of values between the first and the last.

    >>> values, quantiles = torch.tensor([[[2.0]]]), torch.tensor([[[[1.0, 2.0, 4.0]]]])
    >>> loss, _ = Quantile("future")({"future": quantiles}, {"future": values})
    >>> round(loss.item(), 4)  # 2 · (0.25 · 1 + 0 + 0.25 · 2) / 3
    0.5
    """

    def __init__(self, output: str = "label", *, valid: str | None = None) -> None:
        super().__init__()
        self.output, self.valid = output, valid

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        quantiles, there = self._by_value(output, target), self.present(target, targets)
        error = rearrange(torch.where(there, target, 0).float(), "... -> ... 1") - quantiles.float()
        level = levels(quantiles.shape[-1]).to(error, non_blocking=True)
        loss = 2 * torch.maximum(level * error, (level - 1) * error).mean(-1)
        return torch.where(there, loss, 0).sum(), there.sum()

    def _by_value(self, output: Tensor, target: Tensor) -> Tensor:
        """The quantiles (…, quantiles) of each value; rows of some places have those of a series after another."""
        if output.ndim == target.ndim and output.ndim and output.shape[-1] % max(target.shape[-1], 1) == 0:
            output = rearrange(output, "... (series quantiles) -> ... series quantiles", series=target.shape[-1])
        if output.shape[:-1] != target.shape:
            expected = f"a value for the quantiles of each place and series, {describe_value(output)}"
            raise InputError(f"target {self.output!r} must have {expected}; got {describe_value(target)}")
        return output

    def meters(self) -> dict[str, Metric]:
        metrics = torchmetrics_package()
        return {"mae": metrics.MeanAbsoluteError(), "coverage": metrics.MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        target = targets[self.output]
        there = self.present(target, targets)
        quantiles, values = self._by_value(outputs[self.output], target)[there].float(), target[there].float()
        if len(values):
            meters["mae"].update(quantiles[:, quantiles.shape[-1] // 2], values)
            meters["coverage"].update(((quantiles[:, 0] <= values) & (values <= quantiles[:, -1])).float())
