"""Base of objectives: (outputs, targets) → loss and named metrics.

A ``Term`` keeps the loss summed over elements (samples, masked bytes, pixels) apart from their number, so that
processes with different numbers of elements compute one mean. Metrics are those of torchmetrics, made by ``meters``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ..block import Block, undefined
from ..checking import checks_values, describe_value
from ..errors import AssemblyError, InputError, MissingPackage, UnknownName, nearest

if TYPE_CHECKING:
    from torchmetrics import Metric

Outputs = Mapping[str, Tensor]
MISSING = -100
"""An integer target that is missing, as in PyTorch's cross-entropy."""


class Term(NamedTuple):
    """A sum over ``count`` elements; the loss is ``weight`` · total / count."""

    total: Tensor
    count: Tensor
    weight: float = 1.0


class Objective(Block):
    """Base of objectives over one named output: ``loss_sum`` is the loss summed over elements, and their number.

    A missing target adds nothing to either, whether all of a sample's or single elements: -100 in integers, NaN in
    floats, or False in the bool target that ``valid`` names.
    """

    output: str
    valid: str | None = None

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor | int]:
        """The summed loss and its number of elements."""
        raise undefined(self, "loss_sum(output, target, targets)")

    def present(self, target: Tensor, targets: Outputs) -> Tensor:
        """Bool, of the target's shape: False where it is missing.

        The target ``valid`` has the first axes of the target, such as (b,) or (b, n), or (b, …, h, w) for pixels.
        """
        there = ~target.isnan() if target.is_floating_point() else target != MISSING
        if self.valid is None:
            return there
        valid, shape = lookup(targets, self.valid, "targets"), tuple(target.shape)
        if valid.dtype == torch.bool and tuple(valid.shape) == shape[: valid.ndim]:
            return there & rearrange(valid, f"... -> ... {'1 ' * (target.ndim - valid.ndim)}")
        if valid.dtype == torch.bool and tuple(valid.shape) == (*shape[:-3], *shape[-2:]):
            return there & rearrange(valid, "... h w -> ... 1 h w")
        raise InputError(
            f"target {self.valid!r} must be bool with the first axes of target {self.output!r}, "
            f"{describe_value(target)}; got {describe_value(valid)}"
        )

    def needed(self, targets: Outputs) -> dict[str, Tensor]:
        """Which rows of an output the loss reads: bool (b, n), for outputs whose targets are (b, n).

        Training decodes no other rows of it. Outputs that are left out are needed whole.
        """
        return {}

    def terms(self, outputs: Outputs, targets: Outputs) -> dict[str, Term]:
        """The terms of the loss, by name."""
        name = self._name()
        result = self.loss_sum(lookup(outputs, name, "outputs"), lookup(targets, name, "targets"), targets)
        if not _is_sum(result):
            expected = "a tensor without axes, and its number of elements"
            raise AssemblyError(f"{type(self).__name__}: loss_sum must return {expected}, got {_shown(result)}")
        total, count = result
        return {name: Term(total, torch.as_tensor(count, device=total.device))}

    def forward(self, outputs: Outputs, targets: Outputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its unweighted terms by name."""
        return combine(self.terms(outputs, targets))

    def check_values(self, targets: Outputs, widths: Mapping[str, int]) -> None:
        """Raise InputError for wrong values, such as classes out of range, before targets are moved to a GPU.

        ``widths`` are the channels of each output's rows.
        """

    def applies(self, outputs: Outputs) -> bool:
        """Whether its output was decoded: training may decode some outputs only."""
        return self._name() in outputs

    def _name(self) -> str:
        name = getattr(self, "output", None)
        if not isinstance(name, str):
            raise AssemblyError(f"{type(self).__name__}: __init__ must set self.output, the name of its output")
        return name

    def meters(self) -> dict[str, Metric]:
        """Metrics of torchmetrics by name, which ``measure`` updates."""
        return {}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        """Update the metrics with one batch."""
        preds, target = self.compared(outputs[self.output], targets[self.output], targets)
        if target.numel():
            for meter in meters.values():
                meter.update(preds, target)

    def compared(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        """Predictions and targets, as the metrics take them: by default the elements whose target is present."""
        there = self.present(target, targets)
        return output[there].float(), target[there].float()


def combine(terms: Mapping[str, Term]) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all terms, and each mean by name; a term of zero elements is zero.

    >>> halves = {name: Term(torch.tensor(2.0), torch.tensor(4), weight) for name, weight in [("a", 1.0), ("b", 0.1)]}
    >>> loss, parts = combine(halves)
    >>> round(loss.item(), 2), {name: part.item() for name, part in parts.items()}
    (0.55, {'a': 0.5, 'b': 0.5})
    """
    for name, term in terms.items() if isinstance(terms, Mapping) else [("", terms)]:
        if not isinstance(term, Term):
            shown = f"{name!r}: {describe_value(term)}" if name else describe_value(term)
            raise AssemblyError(f"terms must map names to Term(total, count), got {shown}")
    means = {name: term.total / torch.where(term.count > 0, term.count, 1) for name, term in terms.items()}
    loss = sum((terms[name].weight * mean for name, mean in means.items()), start=torch.zeros(()))
    return torch.as_tensor(loss), {name: mean.detach() for name, mean in means.items()}


def _is_sum(result: object) -> bool:
    if not isinstance(result, tuple) or len(result) != 2:
        return False
    total, count = result
    return isinstance(total, Tensor) and total.ndim == 0 and getattr(count, "ndim", 0) == 0


def _shown(result: object) -> str:
    return f"({', '.join(map(describe_value, result))})" if isinstance(result, tuple) else describe_value(result)


def lookup(values: Outputs, name: str, argument: str) -> Tensor:
    """The tensor of a name; UnknownName with the nearest one."""
    if name not in values:
        raise UnknownName(f"{argument} has no {name!r}; {nearest(name, values)}")
    return values[name]


def check_same(name: str, output: Tensor, target: Tensor) -> None:
    """Raise InputError unless the target has the shape of its output."""
    if output.shape != target.shape:
        raise InputError(
            f"target {name!r} must have the shape of its output, {describe_value(output)}; got {describe_value(target)}"
        )


def check_classes(name: str, target: Tensor, classes: int) -> None:
    """Raise InputError for class indices out of range, missing ones aside. On a GPU only under ``kit.checks(True)``."""
    if target.dtype != torch.int64 or not checks_values(target):
        return
    target = target[target != MISSING]
    if target.numel():
        low, high = (int(bound) for bound in target.aminmax())
        if low < 0 or high >= classes:
            raise InputError(f"target {name!r} must be classes from 0 to {classes - 1}, got {low} to {high}")


def torchmetrics_package() -> Any:
    """The torchmetrics module, imported when the first metric is made; MissingPackage if it is not installed."""
    try:
        import torchmetrics
    except ImportError as error:
        raise MissingPackage("metrics need torchmetrics: pip install 'perceiver-kit[train]'") from error
    return torchmetrics
