"""Classes, several labels, or values: the logits of a classifier with names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..checking import describe_value
from ..errors import InputError
from ..plots import class_scores
from ..registry import register
from .base import TOP, Answer, Interpreter, Item, Processor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ClassAnswer(Answer):
    """Classes with their probabilities."""

    def text(self) -> str:
        if not isinstance(self.scores, dict):
            return str(self.best)
        return ", ".join(f"{name} {value:.3g}" for name, value in self.top().items())

    def top(self) -> dict[str, float]:
        """The first ``TOP`` scores."""
        return dict([*self.scores.items()][:TOP])

    def json(self) -> dict[str, Any]:
        return super().json() | {"scores": self.top()}

    def figure(self) -> Figure:
        return class_scores(self.top(), self.picture())


@dataclass(frozen=True, repr=False)
class TaskAnswer(Answer):
    """The classes, or numbers, of several tasks."""

    def text(self) -> str:
        return ", ".join(
            f"{task} {best if isinstance(best, str) else f'{best:.3g}'}" for task, best in self.best.items()
        )

    def json(self) -> dict[str, Any]:
        return super().json() | {"scores": {task: dict([*own.items()][:TOP]) for task, own in self.scores.items()}}


@register("processors")
@dataclass(frozen=True)
class Classes(Interpreter):
    """Names of classes by probability, from ``model.labels`` or ``class 0``, ``class 1`` and so on.

    ``best`` is the likeliest class; ``scores`` maps each class to its probability, the highest first. A model of
    several labels has sigmoids: ``best`` is a tuple of the labels above one half. A model with a single output, or of
    regression, has values: ``best`` is the value, or the values by name.

    Args:
        output: the output with the logits (classes,).
    """

    output: str = "label"

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> ClassAnswer:
        best, scores = self.scores(outputs, model)
        return ClassAnswer(source, best, scores, outputs, processor)

    def scores(self, outputs: dict[str, Tensor], model: Any) -> tuple[Any, dict[str, float]]:
        """The best class and the scores by name."""
        logits = outputs[self.output]
        if logits.ndim != 1:
            raise InputError(f"Classes: output {self.output!r} must be (classes,), got {describe_value(logits)}")
        problem = getattr(model.outputs.blocks[self.output], "problem_type", None)
        word = "value" if problem == "regression" else "class"
        names = getattr(model, "labels", {}).get(self.output) or [f"{word} {i}" for i in range(len(logits))]
        if problem == "multi_label_classification":
            scores = logits.sigmoid()
        elif problem == "regression" or (problem is None and len(logits) == 1):
            values = dict(zip(names, logits.tolist(), strict=True))
            return next(iter(values.values())) if len(values) == 1 else values, values
        else:
            scores = logits.softmax(-1)
        order = scores.argsort(descending=True, stable=True).tolist()
        by_name = {names[i]: float(scores[i]) for i in order}
        if problem == "multi_label_classification":
            return tuple(name for name, value in by_name.items() if value > 0.5), by_name
        return names[order[0]], by_name


@register("processors")
@dataclass(frozen=True)
class TaskClasses(Interpreter):
    """The classes of every output, each as ``Classes`` reads it: ``best`` and ``scores`` map tasks to theirs."""

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> TaskAnswer:
        found = {task: Classes(task).scores(outputs, model) for task in outputs}
        best, scores = ({task: pair[i] for task, pair in found.items()} for i in (0, 1))
        return TaskAnswer(source, best, scores, outputs, processor)
