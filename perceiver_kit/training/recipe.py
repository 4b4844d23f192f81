"""A recipe, a name or path of data, and a directory: what ``perceiver-kit train`` does."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..checks import check_seed
from ..data.tasks import Task, open_task
from ..model import PerceiverIO
from ..objectives import objective_for
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
    steps: int = 1000,
    batch: int = 32,
    rate: float = 1e-3,
    weight_decay: float = 0.1,
    optimizer: str = "adamw",
    schedule: str = "cosine",
    warmup: int | None = None,
    queries: Mapping[str, int] | None = None,
    seed: int = 0,
    workers: int = 0,
    held_out_batch: int | None = None,
    checkpoint_activations: bool = False,
    parameters: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[str, float]:
    """Train a recipe on data by name or path (see ``open_task``) for the objective it is published with.

    ``parameters`` are the recipe's, over its preset and what the data demand. ``warmup`` is a twentieth of the steps,
    and of large outputs ``QUERIES`` rows are asked for, unless said otherwise. ``options`` are those of ``fit``.

    Returns the held-out metrics. Bad data are refused before training starts.
    """
    check_seed("train_recipe", seed)
    parameters = dict(parameters or {})
    if not isinstance(data, Task):
        sizes = {name: parameters[name] for name in ("image_size", "max_length", "num_frames") if name in parameters}
        data = open_task(
            data if isinstance(data, str) else Path(data), recipe=recipe, preset=preset, seed=seed, **sizes
        )
    torch.manual_seed(seed)
    model = build(recipe, preset=preset, **(dict(data.overrides) | parameters))
    training = Training(
        model,  # type: ignore[arg-type]
        objective_for(recipe),
        steps=steps,
        rate=rate,
        weight_decay=weight_decay,
        optimizer=optimizer,  # type: ignore[arg-type]
        schedule=schedule,  # type: ignore[arg-type]
        warmup=steps // 20 if warmup is None else warmup,
        queries=large_outputs(model) if queries is None else queries,  # type: ignore[arg-type]
        seed=seed,
        checkpoint_activations=checkpoint_activations,
    )
    batches = Data(
        data.train,
        data.held_out,
        batch=batch,
        steps=steps,
        seed=seed,
        workers=workers,
        held_out_batch=held_out_batch,
    )
    return fit(training, batches, directory, **options)


# Rows asked of an output a sample and step: as a published re-training does.
QUERIES = 512


def large_outputs(model: PerceiverIO) -> dict[str, int]:
    """Outputs with more declared rows than ``QUERIES``, of which training asks for so many at a time."""
    if model.queries is None:
        return {}
    sizes = {name: model.queries.blocks[name].size for name in model.queries.blocks}
    return {name: QUERIES for name, size in sizes.items() if size is not None and math.prod(size) > QUERIES}  # type: ignore[arg-type]
