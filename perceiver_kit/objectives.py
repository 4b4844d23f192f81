"""What a model is trained for: (outputs, targets) → loss and named metrics. One a recipe, and sums of any for the rest.

An objective is a sum over things (samples, masked bytes, pixels) and their number, kept apart in ``Term``, so that
processes that hold different numbers of them agree on one loss. Metrics are torchmetrics', made by ``meters``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_positive, check_probability, describe_value
from .errors import AssemblyError, InputError, MissingPackage, UnknownName, nearest
from .modalities import ByModality, check_names
from .registry import Block, register

if TYPE_CHECKING:
    from torchmetrics import Metric

Outputs = Mapping[str, Tensor]


class Term(NamedTuple):
    """A sum over ``count`` things; the loss is ``weight`` · total / count."""

    total: Tensor
    count: Tensor
    weight: float = 1.0


class Objective(Block):
    """Base of objectives over one named output: ``sum_of`` gives the loss summed over things, and their number."""

    output: str

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor | int]:
        """The summed loss and the number of things in it."""
        raise NotImplementedError

    def terms(self, outputs: Outputs, targets: Outputs) -> dict[str, Term]:
        """The loss in parts, by name."""
        output, target = _named(outputs, self.output, "outputs"), _named(targets, self.output, "targets")
        total, count = self.sum_of(output, target, targets)
        return {self.output: Term(total, torch.as_tensor(count, device=total.device))}

    def forward(self, outputs: Outputs, targets: Outputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and each of its parts by name, unweighted."""
        return combine(self.terms(outputs, targets))

    def applies(self, outputs: Outputs) -> bool:
        """Whether what it looks at is there: training may ask for some outputs only."""
        return self.output in outputs

    def meters(self) -> dict[str, Metric]:
        """Torchmetrics' metrics by name, for ``measure`` to update."""
        return {}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        """Update the metrics with one batch."""
        preds, wanted = self.compared(outputs[self.output], targets[self.output], targets)
        for meter in meters.values():
            meter.update(preds, wanted)

    def compared(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        """What the metrics compare."""
        return output, target


def combine(terms: Mapping[str, Term]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and each mean by name; a term of no things is zero."""
    means = {name: term.total / term.count.clamp(min=1) for name, term in terms.items()}
    loss = sum((terms[name].weight * mean for name, mean in means.items()), start=torch.zeros(()))
    return torch.as_tensor(loss), {name: mean.detach() for name, mean in means.items()}


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
        loss = F.cross_entropy(output.float(), target, label_smoothing=self.label_smoothing, reduction="sum")
        return loss, target.shape[0]

    def meters(self) -> dict[str, Metric]:
        return {"accuracy": _torchmetrics().MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        target = targets[self.output]
        classes = target if target.ndim == 1 else target.argmax(-1)
        meters["accuracy"].update((outputs[self.output].argmax(-1) == classes).float())


@register("objectives")
class Regression(Objective):
    """Squared error of values (b, …) against targets of the same shape. Metrics: mean squared and absolute error."""

    def __init__(self, output: str = "label") -> None:
        super().__init__()
        self.output = output

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        _check_same(self.output, output, target)
        return (output.float() - target).square().sum(), target.numel()

    def meters(self) -> dict[str, Metric]:
        metrics = _torchmetrics()
        return {"mse": metrics.MeanSquaredError(), "mae": metrics.MeanAbsoluteError()}


@register("objectives")
class MultiLabel(Objective):
    """Binary cross-entropy of logits (b, labels) against (b, labels) in [0, 1]. Metric: mean average precision."""

    def __init__(self, output: str = "label", *, labels: int) -> None:
        super().__init__()
        check_positive("MultiLabel", labels=labels)
        self.output, self.labels = output, labels

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, int]:
        _check_same(self.output, output, target)
        loss = F.binary_cross_entropy_with_logits(output.float(), target.float(), reduction="sum")
        return loss, target.numel()

    def meters(self) -> dict[str, Metric]:
        one = dict(task="binary") if self.labels == 1 else dict(task="multilabel", num_labels=self.labels)
        return {"average_precision": _torchmetrics().AveragePrecision(**one)}

    def compared(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        return output.sigmoid(), target.long()


@register("objectives")
class MaskedTokens(Objective):
    """Cross-entropy of logits (b, n, vocabulary) where targets (b, n) int64 are not -100: only masked rows count.

    In nats. Metrics: accuracy over the same rows.
    """

    def __init__(self, output: str = "text") -> None:
        super().__init__()
        self.output = output

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        if target.dtype != torch.int64 or target.shape != output.shape[:2]:
            wanted = tuple(output.shape[:2])
            raise InputError(f"target {self.output!r} must be int64 {wanted}, got {describe_value(target)}")
        asked = target != -100
        return F.cross_entropy(output[asked].float(), target[asked], reduction="sum"), asked.sum()

    def meters(self) -> dict[str, Metric]:
        return {"accuracy": _torchmetrics().MeanMetric()}

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
    """

    def __init__(self, output: str = "flow", *, valid: str = "valid", scales: int = 1, robust: bool = False) -> None:
        super().__init__()
        check_positive("EndPointError", scales=scales)
        self.output, self.valid, self.scales, self.robust = output, valid, scales, robust

    def sum_of(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        _check_same(self.output, output, target)
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
        return {"epe": _torchmetrics().MeanMetric()}

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
        _check_same(self.output, output, target)
        return (output.float() - target).abs().sum(), target.numel()

    def meters(self) -> dict[str, Metric]:
        _torchmetrics()
        from torchmetrics.image import PeakSignalNoiseRatio

        return {"psnr": PeakSignalNoiseRatio(data_range=2.0)}

    def compared(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        return output.float(), target.float()


@register("objectives")
class Weighted(Objective):
    """A weighted sum of objectives, for several outputs at once; only outputs that were asked for count.

    >>> objective = Weighted(dict(image=Reconstruction("image"), label=Classification()), weights=dict(label=0.01))
    >>> loss, parts = objective(
    ...     {"image": torch.zeros(2, 4), "label": torch.zeros(2, 3)},
    ...     {"image": torch.ones(2, 4), "label": torch.tensor([0, 2])},
    ... )
    >>> [*parts]
    ['image', 'label']
    """

    def __init__(self, objectives: Mapping[str, Objective], *, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        for name, objective in objectives.items():
            if not isinstance(objective, Objective):
                raise AssemblyError(f"Weighted: {name!r} must be an objective, got a {type(objective).__name__}")
        if not objectives:
            raise AssemblyError("Weighted: give at least one objective by name, such as dict(label=Classification())")
        check_names("Weighted: weights", weights or {}, objectives)
        self.objectives = ByModality(objectives)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in objectives}

    def arguments(self) -> dict[str, Any]:
        return {"objectives": {name: self.objectives[name] for name in self.objectives}, "weights": self.weights}

    def applies(self, outputs: Outputs) -> bool:
        return any(self.objectives[name].applies(outputs) for name in self.objectives)

    def terms(self, outputs: Outputs, targets: Outputs) -> dict[str, Term]:
        terms = {}
        for name in self.objectives:
            objective: Objective = self.objectives[name]
            if objective.applies(outputs):
                for part, term in objective.terms(outputs, targets).items():
                    # By its name here: several objectives may look at one output.
                    own = f"{name}_{part}" if isinstance(objective, Weighted) else name
                    terms[own] = term._replace(weight=term.weight * self.weights[name])
        if not terms:
            raise InputError(f"Weighted: outputs has none of {', '.join(self.objectives)}, got {[*outputs]}")
        return terms

    def meters(self) -> dict[str, Metric]:
        return {
            f"{name}_{metric}": meter
            for name in self.objectives
            for metric, meter in self.objectives[name].meters().items()
        }

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        for name in self.objectives:
            objective: Objective = self.objectives[name]
            if objective.applies(outputs):
                own = {metric: meters[f"{name}_{metric}"] for metric in objective.meters()}
                objective.measure(own, outputs, targets)


def multimodal_reconstruction() -> Weighted:
    """The weighted reconstruction loss of ``multimodal_autoencoding``.

    Source of the weights: a published re-training; a starting point, since the paper does not say.
    """
    parts = dict(image=Reconstruction("image"), audio=Reconstruction("audio"), label=Classification("label"))
    return Weighted(parts, weights=dict(image=0.03, audio=1.0, label=1e-4))


# What each recipe is trained for unless told otherwise.
FOR_RECIPE = {
    "masked_lm": MaskedTokens,
    "sequence_classification": Classification,
    "image_classification_learned": Classification,
    "image_classification_fourier": Classification,
    "image_classification_conv": Classification,
    "optical_flow": EndPointError,
    "multimodal_autoencoding": multimodal_reconstruction,
}


def objective_for(recipe: str) -> Objective:
    """The objective that a recipe is trained for unless told otherwise."""
    if recipe not in FOR_RECIPE:
        raise UnknownName(f"no objective is known for recipe {recipe!r}; give one. {nearest(recipe, FOR_RECIPE)}")
    return FOR_RECIPE[recipe]()


def _distance(error: Tensor) -> Tensor:
    # The square root has no gradient at zero, where flow starts.
    return (error.square().sum(1) + 1e-12).sqrt()


def _named(values: Outputs, name: str, argument: str) -> Tensor:
    if name not in values:
        raise UnknownName(f"{argument} has no {name!r}; {nearest(name, values)}")
    return values[name]


def _check_same(name: str, output: Tensor, target: Tensor) -> None:
    if output.shape != target.shape:
        raise InputError(
            f"target {name!r} must be like its output, {describe_value(output)}; got {describe_value(target)}"
        )


def _torchmetrics() -> Any:
    try:
        import torchmetrics
    except ImportError as error:
        raise MissingPackage("metrics need torchmetrics: pip install 'perceiver-kit[train]'") from error
    return torchmetrics
