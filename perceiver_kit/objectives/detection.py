"""Detection as set prediction: each object is matched with one query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from ..checking import check_number, check_probability, describe_value
from ..errors import InputError, MissingPackage
from ..registry import register
from .average_precision import FIGURES, average_precision
from .base import MISSING, Objective, Outputs, Term, check_classes, lookup
from .boxes import generalised_iou, pairwise

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Detection(Objective):
    """Classes (b, k, classes + 1) and boxes (b, k, 4) of k queries against m ≤ k objects of each sample.

    Targets are the class (b, m) int64 and the box (b, m, 4) of each object, as centre and size in [0, 1]. A row that
    holds no object has class -100. The last class of the output is "no object".

    Each object is matched with one query, such that the sum of costs is the least: ``class_cost`` · −p(class),
    ``box_cost`` · L1 distance, ``giou_cost`` · −generalised IoU. The loss is the cross-entropy of the classes, where
    queries without an object have weight ``no_object``, and for matched queries the L1 distance and 1 − generalised
    IoU, with the same three factors. Metrics: average precision over IoU from 0.5 to 0.95, and at 0.5.

    Source: DETR (Carion et al. 2020), sections 3.1 and A.4; the costs of its code.

    >>> outputs = {"class": torch.zeros(1, 3, 5), "box": torch.full((1, 3, 4), 0.5)}
    >>> targets = {"class": torch.tensor([[2, -100]]), "box": torch.full((1, 2, 4), 0.5)}
    >>> loss, parts = Detection()(outputs, targets)
    >>> {name: round(part.item(), 3) for name, part in parts.items()}  # log 5 for equal logits
    {'class': 1.609, 'box': 0.0, 'giou': 0.0}
    """

    def __init__(
        self,
        output: str = "class",
        box: str = "box",
        *,
        no_object: float = 0.1,
        class_cost: float = 1.0,
        box_cost: float = 5.0,
        giou_cost: float = 2.0,
    ) -> None:
        super().__init__()
        check_probability("Detection", no_object=no_object)
        check_number("Detection", class_cost=class_cost, box_cost=box_cost, giou_cost=giou_cost)
        self.output, self.box, self.no_object = output, box, no_object
        self.class_cost, self.box_cost, self.giou_cost = class_cost, box_cost, giou_cost

    def applies(self, outputs: Outputs) -> bool:
        return self.output in outputs and self.box in outputs

    def terms(self, outputs: Outputs, targets: Outputs) -> dict[str, Term]:
        logits, boxes, classes, truth = self._checked(outputs, targets)
        check_classes(self.output, classes, logits.shape[-1] - 1)
        samples, queries, objects = self.match(logits, boxes, classes, truth)
        wanted = torch.full(logits.shape[:2], logits.shape[-1] - 1, device=logits.device)
        wanted[samples, queries] = classes[samples, objects]
        weight = logits.new_ones(logits.shape[-1])
        weight[-1] = self.no_object
        entropy = F.cross_entropy(rearrange(logits, "b k c -> b c k"), wanted, weight=weight, reduction="sum")
        found, there = boxes[samples, queries], truth[samples, objects]
        count = torch.tensor(len(samples), device=logits.device)
        return {
            "class": Term(entropy, weight[wanted].sum(), self.class_cost),
            "box": Term((found - there).abs().sum(), count, self.box_cost),
            "giou": Term((1 - generalised_iou(found, there)).sum(), count, self.giou_cost),
        }

    @torch.no_grad()
    def match(
        self,
        logits: Float[Tensor, "b k c"],
        boxes: Float[Tensor, "b k 4"],
        classes: Int64[Tensor, "b m"],
        truth: Float[Tensor, "b m 4"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sample, query and object of each pair, three vectors. Raises MissingPackage without SciPy."""
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            hint = "pip install 'perceiver-kit[detection]'"
            raise MissingPackage(f"Detection needs SciPy, which matches objects and queries: {hint}") from error
        there = classes != MISSING
        known = torch.where(there, classes, 0)
        likely = logits.softmax(-1).gather(-1, known[:, None].expand(-1, logits.shape[1], -1))
        cost = self.box_cost * pairwise(lambda one, other: (one - other).abs().sum(-1), boxes, truth)
        cost = (cost - self.class_cost * likely - self.giou_cost * pairwise(generalised_iou, boxes, truth)).cpu()
        pairs = []
        for sample, present in enumerate(there.cpu()):
            objects = present.nonzero()[:, 0]
            # Outputs that are NaN give a NaN loss, which training reports, instead of an error of the assignment.
            rows, columns = linear_sum_assignment(cost[sample][:, objects].nan_to_num(0.0, 0.0, 0.0).numpy())
            pairs.append(torch.stack([torch.full((len(rows),), sample), torch.from_numpy(rows), objects[columns]]))
        samples, queries, objects = torch.cat(pairs, -1).to(logits.device)
        return samples, queries, objects

    def check_values(self, targets: Outputs, widths: Mapping[str, int]) -> None:
        check_classes(self.output, targets[self.output], widths[self.output] - 1)

    def meters(self) -> dict[str, Metric]:
        return {figure: average_precision(figure) for figure in FIGURES}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        logits, boxes, classes, truth = self._checked(outputs, targets)
        scores = logits.softmax(-1)[..., :-1]
        for meter in meters.values():
            meter.update(scores, boxes, classes, truth)

    def _checked(self, outputs: Outputs, targets: Outputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits, boxes, classes and their boxes in float32; boxes of rows without an object are zero."""
        logits, boxes = (lookup(outputs, name, "outputs") for name in (self.output, self.box))
        classes, truth = (lookup(targets, name, "targets") for name in (self.output, self.box))
        self._expect(f"output {self.box!r}", boxes, (*logits.shape[:2], 4))
        if classes.dtype != torch.int64 or classes.ndim != 2 or len(classes) != len(logits):
            expected = f"int64 ({len(logits)}, objects)"
            raise InputError(f"target {self.output!r} must be {expected}, got {describe_value(classes)}")
        self._expect(f"target {self.box!r}", truth, (*classes.shape, 4))
        if classes.shape[1] > logits.shape[1]:
            # Trailing rows without an object may be there: of all, the objects of a sample count.
            most = int((classes != MISSING).sum(-1).max())
            if most > logits.shape[1]:
                expected = f"at most {logits.shape[1]} objects, the number of queries"
                raise InputError(f"target {self.output!r}: expected {expected}, got {most}; build with more queries")
            order = (classes == MISSING).to(torch.int8).argsort(dim=1, stable=True)[:, : logits.shape[1]]
            classes = classes.gather(1, order)
            truth = truth.gather(1, order[..., None].expand(-1, -1, 4))
        truth = torch.where((classes != MISSING)[..., None], truth, 0)
        return logits.float(), boxes.float(), classes, truth.float()

    @staticmethod
    def _expect(name: str, value: Any, shape: tuple[int, ...]) -> None:
        if not value.is_floating_point() or tuple(value.shape) != shape:
            raise InputError(f"{name} must be float {shape}, got {describe_value(value)}")
