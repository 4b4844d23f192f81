"""Train a recipe on data by name or path: ``perceiver-kit train``."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checks import check_seed
from ..data.task import Task
from ..data.tasks import open_task
from ..errors import UnknownName, nearest
from ..model import PerceiverIO
from ..recipe import Recipe, objective_for
from ..registry import find
from ..spec import build
from .data import Data
from .fit import fit
from .module import Training


def train_recipe(
    recipe: str,
    data: str | os.PathLike | Task,
    directory: str | os.PathLike,
    *,
    preset: str = "tiny",
    seed: int = 0,
    queries: Mapping[str, int] | None = None,
    parameters: Mapping[str, Any] | None = None,
    **settings: Any,
) -> dict[str, float]:
    """Train a recipe for its declared objective on data by name or path (see ``open_task``).

    ``parameters`` of the recipe override its preset and the sizes that the data set. ``settings`` are arguments of
    ``Training``, ``Data`` and ``fit``; they override the recipe's own, which override ``DEFAULTS``. By default
    ``warmup`` is a twentieth of the steps, and a step decodes ``QUERIES`` rows of large outputs.

    Returns the held-out metrics. Bad data are refused before training starts.
    """
    check_seed("train_recipe", seed)
    entry: Recipe = find("recipes", recipe)
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
        sizes = {name: parameters[name] for name in ("image_size", "max_length", "num_frames") if name in parameters}
        data = open_task(
            data if isinstance(data, str) else Path(data), recipe=recipe, preset=preset, seed=seed, **sizes
        )
    torch.manual_seed(seed)
    model = build(recipe, preset=preset, **(dict(data.overrides) | parameters))
    model.processor = data.processor
    queries = large_outputs(model) if queries is None else queries  # type: ignore[arg-type]
    training = Training(model, objective_for(recipe), queries=queries, seed=seed, **of(Training))  # type: ignore[arg-type]
    return fit(training, Data(data.train, data.held_out, seed=seed, **of(Data)), directory, **of(fit))


DEFAULTS: dict[str, Any] = dict(steps=1000, batch=32, rate=1e-3, warmup=None)
"""Settings that neither the caller nor the recipe gives."""

# Rows of a large output that a step decodes per sample, as in a published re-training.
QUERIES = 512


def large_outputs(model: PerceiverIO) -> dict[str, int]:
    """Outputs with more declared rows than ``QUERIES``, and how many a training step decodes."""
    if model.queries is None:
        return {}
    sizes = {name: model.queries.blocks[name].size for name in model.queries.blocks}
    return {name: QUERIES for name, size in sizes.items() if size is not None and math.prod(size) > QUERIES}  # type: ignore[arg-type]
