"""Segmentation: the classes of pixels, with their intersection over union."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..registry import register
from .base import Outputs, torchmetrics_package
from .classification import Classification

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Segmentation(Classification):
    """``Classification`` of pixels (b, classes, h, w), with the mean intersection over union as a second metric.

    Pixels without a class (-100) are ignored in the loss and in both metrics. The mean is over the classes that occur
    in targets or predictions.

    >>> loss, parts = Segmentation()({"label": torch.zeros(2, 4, 8, 8)}, {"label": torch.ones(2, 8, 8).long()})
    >>> round(loss.item(), 4)
    1.3863
    """

    def meters(self) -> dict[str, Metric]:
        return super().meters() | {"iou": _metric()()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        super().measure(meters, outputs, targets)
        logits, wanted = self._counted(outputs[self.output], targets[self.output], targets)
        if len(logits):
            classes = wanted.argmax(-1) if wanted.is_floating_point() else wanted
            meters["iou"].update(logits.argmax(-1), classes, logits.shape[-1])


@functools.cache
def _metric() -> type[Metric]:
    """The metric's class; torchmetrics is imported when the first is made."""

    class IntersectionOverUnion(torchmetrics_package().Metric):
        """The mean over classes; torchmetrics' own needs their number before the first batch."""

        higher_is_better = True
        full_state_update = False
        MOST = 2**12

        def __init__(self) -> None:
            super().__init__()
            for part in ("both", "either"):
                self.add_state(part, default=torch.zeros(self.MOST, dtype=torch.int64), dist_reduce_fx="sum")

        def update(self, found: Tensor, wanted: Tensor, classes: int) -> None:
            """Classes (pixels,) that are found and wanted."""
            both = torch.bincount(found[found == wanted], minlength=classes)
            each = torch.bincount(found, minlength=classes) + torch.bincount(wanted, minlength=classes)
            self.both[: len(both)] += both
            self.either[: len(each)] += each - both

        def compute(self) -> Tensor:
            """NaN without pixels."""
            there = self.either > 0
            return (self.both[there] / self.either[there]).mean()

    return IntersectionOverUnion
