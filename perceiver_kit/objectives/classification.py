"""Classification of samples, rows or pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..checking import check_probability, describe_value, short
from ..errors import AssemblyError, InputError
from ..registry import register
from .base import Objective, Outputs, check_classes, lookup, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Classification(Objective):
    """Cross-entropy of logits against class indices int64, or against probabilities of the logits' shape, in nats.

    =========================== ==============
    logits                      class indices
    =========================== ==============
    samples (b, classes)        (b,)
    rows (b, n, classes)        (b, n)
    pixels (b, classes, h, w)   (b, h, w)
    video (b, t, classes, h, w) (b, t, h, w)
    =========================== ==============

    Missing targets (-100, NaN, or False in the target ``valid``) are skipped. ``class_weights`` has a weight for each
    class; the mean is then weighted too, as in ``torch.nn.CrossEntropyLoss``. ``label_smoothing`` in [0, 1] mixes the
    target with the uniform distribution. Metric: accuracy.

    >>> loss, parts = Classification()({"label": torch.zeros(2, 4)}, {"label": torch.tensor([1, 3])})
    >>> round(loss.item(), 4)
    1.3863
    """

    def __init__(
        self,
        output: str = "label",
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        valid: str | None = None,
    ) -> None:
        super().__init__()
        check_probability(type(self).__name__, label_smoothing=label_smoothing)
        self.output, self.label_smoothing, self.valid = output, label_smoothing, valid
        self.class_weights = None if class_weights is None else _check_weights(class_weights)

    def needed(self, targets: Outputs) -> dict[str, Tensor]:
        """Rows with a class, (b, n); pixels and samples are needed whole, and all that a derived loss may read."""
        target = lookup(targets, self.output, "targets")
        rows = target.ndim == 2 and not target.is_floating_point()
        own = type(self).loss_sum is Classification.loss_sum and self.valid is None
        return {self.output: self.present(target, targets)} if rows and own else {}

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        logits, wanted, there = self._elements(output, target, targets)
        check_classes(self.output, target, logits.shape[-1])
        if self.class_weights is not None and len(self.class_weights) != logits.shape[-1]:
            expected = f"expected {logits.shape[-1]}, one for each class"
            raise InputError(f"class_weights: {expected}, got {len(self.class_weights)}")
        weight = (
            None if self.class_weights is None else torch.tensor(self.class_weights).to(there.device, non_blocking=True)
        )
        # Elements that are missing are multiplied by zero: to select the others, a GPU would be waited for.
        wanted = torch.where(rearrange(there, "n -> n 1") if wanted.ndim > 1 else there, wanted, 0)
        options: dict[str, Any] = dict(weight=weight, label_smoothing=self.label_smoothing, reduction="none")
        loss = F.cross_entropy(logits.float(), wanted, **options)
        counts = there if weight is None or wanted.ndim > 1 else there * weight[wanted]
        return torch.where(there, loss, 0).sum(), counts.sum()

    def _counted(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        """Logits (k, classes) and targets of the elements that count."""
        logits, target, there = self._elements(output, target, targets)
        return logits[there], target[there]

    def _elements(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, classes), targets (n,) or probabilities (n, classes), and whether each counts."""
        logits = _classes_last(output)
        probabilities = target.is_floating_point() and target.shape == output.shape
        if not probabilities and (target.dtype != torch.int64 or target.shape != logits.shape[:-1]):
            expected = f"int64 {tuple(logits.shape[:-1])} or float {tuple(output.shape)}"
            raise InputError(f"target {self.output!r} must be {expected}, got {describe_value(target)}")
        target = _classes_last(target) if probabilities else target
        there = self.present(target, targets)
        there = there.all(-1) if probabilities else there
        return rearrange(logits, "... c -> (...) c"), _flat(target, probabilities), rearrange(there, "... -> (...)")

    def check_values(self, targets: Outputs, widths: Mapping[str, int]) -> None:
        check_classes(self.output, targets[self.output], widths[self.output])

    def meters(self) -> dict[str, Metric]:
        return {"accuracy": torchmetrics_package().MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        logits, wanted = self._counted(outputs[self.output], targets[self.output], targets)
        if len(logits):
            classes = wanted.argmax(-1) if wanted.is_floating_point() else wanted
            meters["accuracy"].update((logits.argmax(-1) == classes).float())


def _flat(target: Tensor, probabilities: bool) -> Tensor:
    return rearrange(target, "... c -> (...) c" if probabilities else "... -> (...)")


def _classes_last(values: Tensor) -> Tensor:
    return rearrange(values, "b ... c h w -> b ... h w c") if values.ndim > 3 else values


def _check_weights(weights: object) -> tuple[float, ...]:
    numbers = isinstance(weights, tuple | list) and all(
        isinstance(w, int | float) and not isinstance(w, bool) and math.isfinite(w) and w >= 0 for w in weights
    )
    if not numbers or not any(weights):  # type: ignore[arg-type]
        raise AssemblyError(
            f"Classification: class_weights must be finite numbers of at least 0, one for each class, got "
            f"{short(weights)}"
        )
    return tuple(float(w) for w in weights)  # type: ignore[attr-defined]
