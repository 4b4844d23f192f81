"""What one output is trained for: classes, values, labels, masked tokens, flow, a reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_positive, check_probability, describe_value
from ..errors import InputError
from ..registry import register
from .base import Objective, Outputs, check_same, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Classification(Objective):
    """Cross-entropy of logits (b, classes) against class indices (b,) int64, or (b, classes) probabilities.

    ``label_smoothing`` in [0, 1] mixes the target with the uniform distribution. Metric: accuracy.

    >>> loss, parts = Classification()({"label": torch.zeros(2, 4)}, {"label": torch.tensor([1, 3])})
    >>> round(loss.item(), 4)
    1.3863
    """

    def __init__(self, output: str = "label", *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        check_probability("Classification", label_smoothing=label_smoothing)
        self.output, self.label_smoothing = output, label_smoothing

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        probabilities = target.is_floating_point() and target.shape == output.shape
        if not probabilities and (target.dtype != torch.int64 or target.shape != output.shape[:1]):
            wanted = f"int64 ({output.shape[0]},) or float {tuple(output.shape)}"
            raise InputError(f"target {self.output!r} must be {wanted}, got {describe_value(target)}")
        _check_classes(self.output, target, output.shape[-1])
        loss = F.cross_entropy(output.float(), target, label_smoothing=self.label_smoothing, reduction="sum")
        return loss, target.shape[0]

    def meters(self) -> dict[str, Metric]:
        return {"accuracy": torchmetrics_package().MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        target = targets[self.output]
        classes = target if target.ndim == 1 else target.argmax(-1)
        meters["accuracy"].update((outputs[self.output].argmax(-1) == classes).float())


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

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        check_same(self.output, output, target)
        return (output.float() - target).square().sum(), target.numel()

    def meters(self) -> dict[str, Metric]:
        metrics = torchmetrics_package()
        return {"mse": metrics.MeanSquaredError(), "mae": metrics.MeanAbsoluteError()}


@register("objectives")
class MultiLabel(Objective):
    """Binary cross-entropy of logits (b, labels) against (b, labels) in [0, 1]. Metric: mean average precision.

    >>> loss, _ = MultiLabel(labels=3)({"label": torch.zeros(2, 3)}, {"label": torch.eye(3)[:2]})
    >>> round(loss.item(), 3)  # -log(1/2)
    0.693
    """

    def __init__(self, output: str = "label", *, labels: int) -> None:
        super().__init__()
        check_positive("MultiLabel", labels=labels)
        self.output, self.labels = output, labels

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        check_same(self.output, output, target)
        loss = F.binary_cross_entropy_with_logits(output.float(), target.float(), reduction="sum")
        return loss, target.numel()

    def meters(self) -> dict[str, Metric]:
        one = dict(task="binary") if self.labels == 1 else dict(task="multilabel", num_labels=self.labels)
        return {"average_precision": torchmetrics_package().AveragePrecision(**one)}

    def compared(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        return output.sigmoid(), target.long()


@register("objectives")
class MaskedTokens(Objective):
    """Cross-entropy of logits (b, n, vocabulary) where targets (b, n) int64 are not -100: only masked rows count.

    In nats. Metrics: accuracy over the same rows.

    >>> loss, _ = MaskedTokens()({"text": torch.zeros(1, 3, 262)}, {"text": torch.tensor([[-100, 80, -100]])})
    >>> round(loss.item(), 3)  # log(262)
    5.568
    """

    def __init__(self, output: str = "text") -> None:
        super().__init__()
        self.output = output

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        if target.dtype != torch.int64 or target.shape != output.shape[:2]:
            wanted = tuple(output.shape[:2])
            raise InputError(f"target {self.output!r} must be int64 {wanted}, got {describe_value(target)}")
        asked = target != -100
        _check_classes(self.output, target[asked], output.shape[-1])
        return F.cross_entropy(output[asked].float(), target[asked], reduction="sum"), asked.sum()

    def meters(self) -> dict[str, Metric]:
        return {"accuracy": torchmetrics_package().MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        asked = targets[self.output] != -100
        if asked.any():
            right = outputs[self.output][asked].argmax(-1) == targets[self.output][asked]
            meters["accuracy"].update(right.float())


@register("objectives")
class EndPointError(Objective):
    """Distance in pixels between flow (b, 2, h, w) and its target, over the pixels where target ``valid`` is True.

    ``scales`` adds the same at halved resolutions, each of equal weight; ``robust`` raises distances to the power
    0.4 after adding 0.01, as flow networks are fine-tuned. Metric: the end-point error itself.

    >>> truth = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    >>> loss, _ = EndPointError()({"flow": torch.zeros(1, 2, 8, 8)}, {"flow": truth})
    >>> loss.item()
    5.0
    """

    def __init__(self, output: str = "flow", *, valid: str = "valid", scales: int = 1, robust: bool = False) -> None:
        super().__init__()
        check_positive("EndPointError", scales=scales)
        self.output, self.valid, self.scales, self.robust = output, valid, scales, robust

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        check_same(self.output, output, target)
        if output.ndim != 4 or output.shape[1] != 2:
            raise InputError(f"output {self.output!r} must be whole, (b, 2, h, w), got {describe_value(output)}")
        if min(output.shape[-2:]) >> (self.scales - 1) == 0:
            raise InputError(f"{self.scales} scales halve {describe_value(output)} to nothing; take fewer")
        valid = self._weights(target, targets)
        total, count = output.new_zeros((), dtype=torch.float32), valid.sum()
        error, target = output.float(), target.float()
        error = torch.where(valid > 0, error - target, 0)
        for scale in range(self.scales):
            if scale:
                # The mean error of the valid pixels of each 2 × 2.
                share = F.avg_pool2d(valid, 2)
                error = F.avg_pool2d(error * valid, 2) / share.clamp(min=1e-6)
                valid = (share > 0).float()
            distance = _distance(error)
            distance = (distance + 0.01) ** 0.4 if self.robust else distance
            mean = (distance * valid[:, 0]).sum() / valid.sum().clamp(min=1)
            total = total + mean * count / self.scales
        return total, count

    def _weights(self, target: Tensor, targets: Outputs) -> Tensor:
        if self.valid not in targets:
            return torch.ones_like(target[:, :1], dtype=torch.float32)
        valid, wanted = targets[self.valid], (target.shape[0], *target.shape[2:])
        if tuple(valid.shape) != wanted:
            raise InputError(f"target {self.valid!r} must be bool {wanted}, got {describe_value(valid)}")
        return valid[:, None].float()

    def meters(self) -> dict[str, Metric]:
        return {"epe": torchmetrics_package().MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        target = targets[self.output].float()
        valid = self._weights(target, targets)[:, 0] > 0
        error = torch.where(valid[:, None], outputs[self.output].float() - target, 0)
        if valid.any():
            meters["epe"].update(_distance(error)[valid])


@register("objectives")
class Reconstruction(Objective):
    """Absolute error of values against targets of the same shape. Metric: PSNR for values in [-1, 1].

    >>> loss, _ = Reconstruction("image")({"image": torch.zeros(1, 4)}, {"image": torch.full((1, 4), 0.5)})
    >>> loss.item()
    0.5
    """

    def __init__(self, output: str) -> None:
        super().__init__()
        self.output = output

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        check_same(self.output, output, target)
        return (output.float() - target).abs().sum(), target.numel()

    def meters(self) -> dict[str, Metric]:
        torchmetrics_package()
        from torchmetrics.image import PeakSignalNoiseRatio

        return {"psnr": PeakSignalNoiseRatio(data_range=2.0)}

    def compared(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        return output.float(), target.float()


def _check_classes(name: str, target: Tensor, classes: int) -> None:
    """Indices are those of classes. On a CPU only: on other devices looking would wait for all that is computed."""
    if target.dtype == torch.int64 and target.device.type == "cpu" and target.numel():
        low, high = (int(bound) for bound in target.aminmax())
        if low < 0 or high >= classes:
            raise InputError(f"target {name!r} must be classes from 0 to {classes - 1}, got {low} to {high}")


def _distance(error: Tensor) -> Tensor:
    # The square root has no gradient at zero, where flow starts.
    return (error.square().sum(1) + 1e-12).sqrt()
