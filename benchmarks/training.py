"""Training runs for docs/results.md: what they share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import nn

import perceiver_kit as kit
from perceiver_kit.data.tasks import Task, open_task
from perceiver_kit.declarations import objective_for
from perceiver_kit.registry import find
from perceiver_kit.training import Data, Training, fit
from perceiver_kit.training.recipe import large_outputs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
COSTS = ("seconds", "processor_seconds", "steps", "batch", "threads")
EARLY = 60  # processor seconds after which a model is saved, to be measured beside the trained one

SMALL: dict[str, Any] = dict(buckets=2**14)
"""Of models on text that the zoo has room for: a quarter of the table of n-grams."""

Row = dict[str, Any]


class Early(lightning.Callback):
    """Saves the model once, when this process has worked for ``EARLY`` seconds since training began."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.started = directory, 0.0

    def on_train_start(self, trainer: Any, training: Any) -> None:
        self.started = time.process_time()

    def on_train_batch_end(self, trainer: Any, training: Any, *_: Any) -> None:
        if time.process_time() - self.started >= EARLY and not self.directory.exists():
            kit.save(training.model, self.directory)


@dataclass(frozen=True)
class Run:
    """One training run for each seed.

    Args:
        rows: seed → rows of the page, made by ``row``.
        seeds: several for settings that are final; the page then shows mean and standard deviation.
    """

    rows: Callable[[int], list[Row]]
    seeds: tuple[int, ...] = (0,)


def train(
    name: str,
    recipe: str,
    task: Task,
    *,
    seed: int,
    preset: str = "tiny",
    objective: Any = None,
    parameters: dict[str, Any] | None = None,
    prepare: Callable[[nn.Module], nn.Module | None] = lambda model: None,
    **settings: Any,
) -> Row:
    """Train a preset with the recipe's settings for it; returns the last held-out metrics and the cost.

    ``prepare`` changes the new model, or returns another one. The model is saved in ``directory(name, seed)``.
    ``"early"`` of the result holds the metrics after ``EARLY`` processor seconds, where training took longer and was
    not resumed.
    """
    options = find("recipes", recipe).settings(preset) | settings
    steps, batch = options.pop("steps"), options.pop("batch")
    torch.manual_seed(seed)
    model = kit.build(recipe, preset=preset, **(dict(task.overrides) | (parameters or {})))
    model = prepare(model) or model
    missing, collate = options.pop("missing", ()), options.pop("collate", None)
    objective = objective or objective_for(recipe, model=model)
    options |= dict(steps=steps, warmup=options.pop("warmup", steps // 20), seed=seed)
    options |= dict(queries=options.pop("queries", large_outputs(model)))
    training = Training(model, objective, **options)
    read: Any = dict(batch=batch, steps=steps, seed=seed, held_out_batch=50, missing=missing, collate=collate)
    data = Data(task.train, task.held_out, **read)
    saved = directory(name, seed)
    resume = (saved / "checkpoints" / "last.ckpt").exists()
    start, cpu_start = time.time(), time.process_time()
    early = saved / "early"
    metrics: Row = fit(training, data, saved, save_every=100, resume=resume, callbacks=[] if resume else [Early(early)])
    cost = (time.time() - start, time.process_time() - cpu_start, steps, batch, torch.get_num_threads())
    if early.exists():
        then = Training(kit.load(early), objective, **options)
        trainer = lightning.Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
        (found,) = trainer.validate(then, data, verbose=False)
        metrics["early"] = {name.removeprefix("held_out/"): value for name, value in found.items()}
    return metrics | dict(zip(COSTS, cost, strict=True))


def directory(name: str, seed: int) -> Path:
    """Where ``train`` saves a model."""
    return RESULTS / f"{name}_{seed}"


def opened(recipe: str, data: str, preset: str = "tiny", *, seed: int, **options: Any) -> Task:
    """Sample data in the sizes of a preset."""
    return open_task(data, recipe=recipe, preset=preset, seed=seed, **options)


def named(run: str, preset: str, *, small: bool = False) -> tuple[str, str]:
    """The name of a run, and what its row says of the preset."""
    if small:
        return f"{run}_small", f", preset `{preset}`, n-grams in {SMALL['buckets']:,} rows"
    return (run, "") if preset == "tiny" else (f"{run}_{preset}", f", preset `{preset}`")


def recipes_for(data: str) -> list[str]:
    """Recipes that declare this sample data."""
    return [name for name in kit.list() if data in find("recipes", name).data]


def row(
    task: str, metric: str, ours: float, metrics: Row, baselines: dict[str, float], *, samples: int | None = None
) -> Row:
    """A row of the page.

    Args:
        task: what is trained, with the recipe in backquotes.
        metric: name and unit.
        ours: the held-out figure, or its name in ``metrics``; then the row holds the early figure too.
        metrics: what ``train`` returned: the cost is taken from it.
        baselines: name → held-out figure.
        samples: the number of held-out samples of a share such as accuracy: the page shows its 95 % interval.
    """
    known: Row = {"task": task, "metric": metric, "baselines": baselines}
    if isinstance(ours, str):
        early = metrics.get("early", {}).get(ours)
        ours, known = metrics[ours], known | ({} if early is None else {"early": early})
    known["ours"] = float(ours)
    return known | ({} if samples is None else {"samples": samples}) | {key: metrics[key] for key in COSTS}
