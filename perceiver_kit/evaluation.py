"""``evaluate``: a model's held-out metrics on data by name or path."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .checking import check_positive
from .data.collation import batched
from .data.task import Task
from .data.tasks import find_loader, open_task
from .declarations import Recipe, objective_for
from .errors import InputError
from .flags import checked_flags
from .objectives import Objective, Term, combine
from .prediction import evaluation_mode, with_bar
from .registry import find


@checked_flags
def evaluate(
    model: nn.Module,
    data: str | Path | Task,
    *,
    objective: Objective | None = None,
    batch: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """The loss and the metrics of a model on the held-out part of data, by name, path or ``NAME:PATH``.

    Benchmarks, such as ``"sintel:PATH"`` and ``"kitti:PATH"`` of ``optical_flow``, are evaluated on all of their
    samples, as whole pictures. Each further bool target of them, such as ``matched``, gives the metrics once more, over
    its elements alone: ``epe_matched``.

    Args:
        model: a model of a recipe, whose sizes the data take; it is evaluated, and its mode stays. Of any other model,
            ``data`` is a ``Task`` and ``objective`` is given.
        data: a name, a path, ``NAME:PATH``, or a ``Task``.
        objective: None: that of the recipe.
        batch: samples that the model reads at once.
        seed: of held-out data that are made.
        progress: whether to show a progress bar.

    Raises InputError for data that the recipe does not read, or whose classes are not those of the model.

    >>> from perceiver_kit.data.warps import Warps
    >>> pairs = Warps([torch.zeros(3, 64, 96, dtype=torch.uint8)], size=(32, 48), items=2)
    >>> model = build("optical_flow", preset="tiny")
    >>> [*evaluate(model, Task("black", pairs, pairs, {}, "made here"), progress=False)]
    ['loss', 'epe', 'fl_all']
    """
    check_positive("evaluate", batch=batch)
    note: dict[str, Any] = getattr(model, "recipe", None) or {}
    if not note and (objective is None or not isinstance(data, Task)):
        raise InputError("evaluate: this model is of no recipe; give data=Task(…) and objective=")
    if not isinstance(data, Task):
        entry: Recipe = find("recipes", note["name"])
        loader, _ = find_loader(entry, data)
        options: dict[str, Any] = {"evaluation": True} if "evaluation" in inspect.signature(loader).parameters else {}
        data = open_task(data, recipe=note["name"], parameters=note["parameters"], seed=seed, **options)
    _check_classes(model, data)
    chosen = objective_for(note["name"]) if objective is None else objective
    like = next(model.parameters())
    meters: dict[str, Any] = {"": chosen.meters()}
    sums: dict[str, Term] = {}
    batches = DataLoader(data.held_out, batch_size=batch, collate_fn=partial(batched, hint="use batch=1"))
    for samples in with_bar(batches, "evaluate") if progress else batches:
        part = {name: _moved(samples[name], like) for name in samples if name != "draw"}
        given = {name: part[name] for name in ("mask", "query_mask", "queries") if name in part}
        with evaluation_mode(model), torch.inference_mode():
            outputs = model(part["inputs"], **given)
            targets = part["targets"]
            for name, term in chosen.terms(outputs, targets).items():
                before = sums.get(name, Term(term.total.new_zeros(()), term.count.new_zeros(())))
                sums[name] = Term(before.total + term.total, before.count + term.count, term.weight)
            chosen.measure(meters[""], outputs, targets)
            for name, masked in _masked(chosen, targets).items():
                chosen.measure(meters.setdefault(f"_{name}", chosen.meters()), outputs, masked)
    if not any(float(term.count) for term in sums.values()):
        raise InputError(f"evaluate: {data.source} has no known target, so nothing is measured")
    loss, _ = combine(sums)
    found = {f"{name}{kind}": meter for kind, group in meters.items() for name, meter in group.items()}
    return {"loss": float(loss)} | {
        name: float(meter.compute()) for name, meter in found.items() if meter._update_count
    }


def _masked(objective: Objective, targets: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Targets whose valid elements are those of each other mask."""
    valid = objective.valid
    if valid is None or valid not in targets:
        return {}
    shape = targets[valid].shape
    masks = {name: value for name, value in targets.items() if value.dtype == torch.bool and value.shape == shape}
    return {name: {**targets, valid: targets[valid] & mask} for name, mask in masks.items() if name != valid}


def _check_classes(model: Any, task: Task) -> None:
    for output, names in getattr(model, "labels", {}).items():
        if task.classes and tuple(names)[: len(task.classes)] != task.classes:
            expected = f"the classes of the model's output {output!r}, {', '.join(names)}"
            raise InputError(f"evaluate: expected data of {expected}; got {', '.join(task.classes)}")


def _moved(part: Any, like: Tensor) -> Any:
    if isinstance(part, Mapping):
        return {name: _moved(value, like) for name, value in part.items()}
    return part.to(like.device)
