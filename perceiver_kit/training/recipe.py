"""Train a recipe on data by name or path: ``perceiver-kit train``."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn

from ..checking import check_seed, short
from ..data.augmentation import Augmentation, augmented
from ..data.task import Task
from ..data.tasks import open_task
from ..declarations import Recipe, objective_for
from ..errors import InputError, UnknownName, nearest
from ..freezing import freeze as freeze_stages
from ..hub import load
from ..hub.files import read_json
from ..hub.heads import transfer
from ..model import PerceiverIO
from ..registry import find, names
from ..specs import build
from .data import Data
from .fit import fit
from .module import Training


def train_recipe(
    recipe: str | os.PathLike,
    data: str | os.PathLike | Task,
    directory: str | os.PathLike,
    *,
    preset: str = "tiny",
    seed: int = 0,
    queries: Mapping[str, int] | None = None,
    parameters: Mapping[str, Any] | None = None,
    start: str | os.PathLike | None = None,
    freeze: Sequence[str] = (),
    objective: str | None = None,
    augment: Augmentation | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Train a recipe for its declared objective on data by name or path (see ``open_task``).

    ``parameters`` of the recipe override its preset and the sizes that the data set. ``settings`` are arguments of
    ``Training``, ``Data`` and ``fit``; they override the recipe's own, which override ``DEFAULTS``. By default
    ``warmup`` is a twentieth of the steps, and a step decodes ``QUERIES`` rows of large outputs.

    ``recipe`` may also be a spec, a ``.json`` file as ``kit.spec`` gives: its data are those of a recipe with the same
    names of inputs and outputs, and its objective is chosen from its outputs, or by the name ``objective``.

    ``start`` is a saved model whose weights are taken over where they fit, with its recipe's sizes. ``freeze`` names
    stages that are not trained. ``augment`` changes training pictures at random.

    Returns the held-out metrics. Bad data are refused before training starts.
    """
    check_seed("train_recipe", seed)
    document = _read_spec(recipe)
    reader = str(recipe) if document is None else _reader(build(document))
    entry: Recipe = find("recipes", reader)
    settings = DEFAULTS | entry.settings(preset) | settings
    if settings["warmup"] is None:
        settings["warmup"] = settings["steps"] // 20 if isinstance(settings["steps"], int) else 0
    known = {call: {*inspect.signature(call).parameters} for call in (Training, Data, fit)}
    for name in settings:
        if not any(name in names for names in known.values()):
            raise UnknownName(f"train_recipe has no setting {name!r}; {nearest(name, set().union(*known.values()))}")

    def of(call: Any) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name in known[call]}

    parameters = dict(parameters or {})
    if not isinstance(data, Task):
        given = {name: value for name, value in parameters.items() if "label" not in name}
        source = data if isinstance(data, str) else Path(data)
        data = open_task(source, recipe=reader, preset=preset, parameters=given, seed=seed)
    if settings.get("progress", True):
        rank_zero_info(described(data))
    if augment is not None:
        data = augmented(data, augment, seed=seed)
    torch.manual_seed(seed)
    loaded: Any = None if start is None else load(start)
    if document is not None:
        model: Any = build(document)
        if data.classes and len(model.outputs.blocks) == 1 and not model.labels:
            model.labels = dict.fromkeys(model.outputs.blocks, data.classes)
    else:
        sizes = _sizes(loaded, entry)
        if "num_labels" in parameters and parameters["num_labels"] != data.overrides.get("num_labels"):
            parameters.setdefault("labels", None)
        model = build(reader, preset=preset, **(sizes | dict(data.overrides) | parameters))
    model.processor = data.processor
    if loaded is not None:
        transfer(loaded, model)
    if freeze:
        freeze_stages(model, *freeze)
    problem = (dict(data.overrides) | parameters).get("problem_type")  # says more than the recipe
    declared = document is None and objective is None and problem is None
    chosen = objective_for(reader, model=model) if declared else objective_for(model, objective)
    queries = large_outputs(model) if queries is None else queries  # type: ignore[arg-type]
    training = Training(model, chosen, queries=queries, seed=seed, **of(Training))  # type: ignore[arg-type]
    return fit(training, Data(data.train, data.held_out, seed=seed, **of(Data)), directory, **of(fit))


def described(data: Task) -> str:
    """What a run reads: how many samples, of which classes, and the sizes that the data set."""
    sizes = {name: value for name, value in data.overrides.items() if isinstance(value, int | tuple | str)}
    counts = (len(part) for part in (data.train, data.held_out))  # type: ignore[arg-type]
    lines = ["{}: {:,} samples to train on, {:,} held out".format(data.name, *counts)]
    lines += [f"classes: {', '.join(data.classes)}"] if data.classes else []
    lines += [f"sizes: {', '.join(f'{name}={short(value)}' for name, value in sizes.items())}"] if sizes else []
    return "\n".join(lines)


def _read_spec(source: str | os.PathLike) -> dict[str, Any] | None:
    """The document of a spec's file; None for the name of a recipe."""
    return read_json(Path(source)) if str(source).endswith(".json") else None


def _reader(model: nn.Module) -> str:
    """The first recipe that reads the same inputs and gives the same outputs, whose data fit this model."""
    wanted, known = _modalities(model), {}
    for name in names():
        if find("recipes", name).data:
            with torch.device("meta"):
                known[name] = _modalities(build(name, preset="tiny"))
    fitting = [name for name, found in known.items() if found == wanted]
    if not fitting:
        there = "; ".join(sorted({_arrow(found) for found in known.values()}))
        raise InputError(
            f"train: no data are declared for a model of {_arrow(wanted)}; there are data for {there}. Take these "
            "names, or give fit your own data"
        )
    return fitting[0]


def _modalities(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(model.inputs.blocks), tuple(model.outputs.blocks) if model.outputs is not None else ()


def _arrow(modalities: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
    return " → ".join(" and ".join(part) for part in modalities)


def _sizes(loaded: Any, entry: Recipe) -> dict[str, Any]:
    """Parameters of a loaded model that this recipe has, too: all but those of the classes."""
    note = (getattr(loaded, "recipe", None) or {}).get("parameters", {})
    return {name: note[name] for name in entry.signature.parameters if name in note and "label" not in name}


DEFAULTS: dict[str, Any] = dict(steps=1000, batch=32, rate=1e-3, warmup=None)
"""Settings that neither the caller nor the recipe gives."""

# Rows of a large output that a step decodes per sample, as in a published re-training.
QUERIES = 512


def large_outputs(model: PerceiverIO) -> dict[str, int]:
    """Outputs with more declared rows than ``QUERIES``, and how many a training step decodes."""
    if model.queries is None or model.outputs is None:
        return {}
    sizes = {name: model.queries.blocks[model.outputs.query_of(name)].size for name in model.outputs.blocks}
    return {name: QUERIES for name, size in sizes.items() if size is not None and math.prod(size) > QUERIES}  # type: ignore[arg-type]
