"""Weighted sums of objectives over several outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..checking import describe_value, short
from ..errors import AssemblyError, InputError
from ..modalities import ByModality, check_names
from ..registry import register
from .base import Objective, Outputs, Term

if TYPE_CHECKING:
    from torchmetrics import Metric


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
        if not isinstance(objectives, Mapping) or not objectives:
            raise AssemblyError("Weighted: give at least one objective by name, such as dict(label=Classification())")
        for name, objective in objectives.items():
            if not isinstance(objective, Objective):
                raise AssemblyError(f"Weighted: {name!r} must be an objective, got {describe_value(objective)}")
        check_names("Weighted: weights", weights or {}, objectives)
        for name, weight in (weights or {}).items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise AssemblyError(f"Weighted: the weight of {name!r} must be a finite number, got {short(weight)}")
        self.objectives = ByModality(objectives)
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in objectives}

    def arguments(self) -> dict[str, Any]:
        return {"objectives": {name: self.objectives[name] for name in self.objectives}, "weights": self.weights}

    def check_values(self, targets: Outputs, widths: Mapping[str, int]) -> None:
        for name in self.objectives:
            self.objectives[name].check_values(targets, widths)

    def applies(self, outputs: Outputs) -> bool:
        return any(self.objectives[name].applies(outputs) for name in self.objectives)

    def terms(self, outputs: Outputs, targets: Outputs) -> dict[str, Term]:
        terms = {}
        for name in self.objectives:
            objective: Objective = self.objectives[name]
            if objective.applies(outputs):
                parts = objective.terms(outputs, targets)
                several = len(parts) > 1 or isinstance(objective, Weighted)
                for part, term in parts.items():
                    # By its name here: several objectives may look at one output.
                    own = f"{name}_{part}" if several else name
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
