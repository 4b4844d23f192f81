"""Average precision of detections, by faster-coco-eval."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MissingPackage
from .base import MISSING, torchmetrics_package
from .boxes import corners

if TYPE_CHECKING:
    from torchmetrics import Metric

FIGURES = {"ap": 0, "ap50": 1}
"""Figures by their place in COCO's summary."""


def coco_summary(scores: Tensor, found: Tensor, labels: Tensor, truth: Tensor) -> list[float]:
    """COCO's twelve figures, average precision and recall; -1 where there is nothing to find.

    Args:
        scores: (images, k, classes) of each detection; a detection counts for its best class.
        found: boxes (images, k, 4), centre and size in [0, 1].
        labels: (images, m) int64; a row without an object is -100.
        truth: their boxes (images, m, 4).

    Raises MissingPackage without faster-coco-eval.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        hint = "pip install 'perceiver-kit[detection]'"
        raise MissingPackage(f"average precision needs faster-coco-eval: {hint}") from error
    there = labels != MISSING
    truths = _rows(corners(truth)[there], labels[there], there.nonzero()[:, 0])
    for number, row in enumerate(truths):
        row |= {"id": number + 1, "iscrowd": 0}
    if not truths:
        return [-1.0] * 12
    best, classes = scores.max(-1)
    everywhere = torch.ones_like(classes, dtype=torch.bool)
    places = everywhere.nonzero()[:, 0]
    results = _rows(corners(found)[everywhere], classes[everywhere], places)
    for row, score in zip(results, best[everywhere].tolist(), strict=True):
        row["score"] = score
    images = [{"id": image} for image in range(len(labels))]
    categories = [{"id": one, "name": str(one)} for one in range(scores.shape[-1])]
    known = COCO({"images": images, "annotations": truths, "categories": categories})
    evaluation = COCOeval_faster(known, known.loadRes(results), "bbox", print_function=lambda *_: None)
    evaluation.run()
    return [float(value) for value in evaluation.stats[:12]]


def _rows(boxes: Tensor, classes: Tensor, images: Tensor) -> list[dict[str, Any]]:
    """COCO's entries; boxes are left, top, width, height, in thousandths of the picture."""
    sizes = 1000 * torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], -1).double()
    columns = zip(images.tolist(), classes.tolist(), sizes.tolist(), strict=True)
    return [
        {"image_id": image, "category_id": one, "bbox": box, "area": box[2] * box[3]} for image, one, box in columns
    ]


@functools.cache
def _metric() -> type[Metric]:
    """The metric's class; torchmetrics is imported when the first is made."""

    class AveragePrecision(torchmetrics_package().Metric):
        """One of ``FIGURES`` over all batches of all processes."""

        higher_is_better = True
        full_state_update = False
        PARTS = ("scores", "found", "labels", "truth")

        def __init__(self, figure: str) -> None:
            super().__init__()
            self.figure = figure
            for part in self.PARTS:
                self.add_state(part, default=[], dist_reduce_fx="cat")

        def update(self, scores: Tensor, found: Tensor, labels: Tensor, truth: Tensor) -> None:
            """Detections (b, k, …), and objects (b, m, …) with m ≤ k."""
            extra = scores.shape[1] - labels.shape[1]  # to one number of rows in all batches
            labels, truth = F.pad(labels, (0, extra), value=MISSING), F.pad(truth, (0, 0, 0, extra))
            for part, value in zip(self.PARTS, (scores, found, labels, truth), strict=True):
                getattr(self, part).append(value.detach())

        def compute(self) -> Tensor:
            """The figure; NaN without any object."""
            whole = [getattr(self, part) for part in self.PARTS]
            joined = [torch.cat(value) if isinstance(value, list) else value for value in whole]
            value = coco_summary(*(part.cpu() for part in joined))[FIGURES[self.figure]]
            return torch.tensor(value if value >= 0 else torch.nan)

    return AveragePrecision


def average_precision(figure: str) -> Metric:
    """A metric for one of ``FIGURES``."""
    return _metric()(figure)  # type: ignore[call-arg]
