"""Digits."""

from __future__ import annotations

import functools

from einops import rearrange
from torch import nn

from perceiver_kit.objectives import Classification
from perceiver_kit.registry import find

from ..tasks import traits
from ..training import Row, Run, named, opened, recipes_for, row, train


def mnist(recipe: str, preset: str, seed: int) -> list[Row]:
    from sklearn.linear_model import LogisticRegression

    run, said = named(f"mnist_{recipe}", preset)
    task = opened(recipe, "mnist_warped" if preset == "quick" else "mnist", preset, seed=seed)
    metrics = train(run, recipe, task, preset=preset, objective=Classification(label_smoothing=0.1), seed=seed)
    (x, y), held_out = (
        (rearrange(part.pixels, "n ... -> n (...)").numpy() / 255, part.labels.numpy())
        for part in (task.train, task.held_out)
    )
    baseline = {"logistic regression": float(LogisticRegression(max_iter=200).fit(x, y).score(*held_out))}
    label = f"MNIST-5k, `{recipe}`{said}"
    return [row(label, "accuracy", "accuracy", metrics, baseline, samples=len(held_out[1]))]


def initialisation(seed: int) -> list[Row]:
    """Fan-in scaling against a normal of 0.02 for every linear weight, at equal steps."""

    def normal(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    recipe = next(name for name in recipes_for("mnist") if traits(name).pixels)
    task, rows = opened(recipe, "mnist", seed=seed), []
    for how, prepare in (("fan-in", lambda model: None), ("normal 0.02", normal)):
        name = f"initialisation_{how.replace(' ', '_')}"
        metrics = train(name, recipe, task, prepare=prepare, steps=400, batch=64, rate=2e-3, seed=seed)
        label = f"initialisation by {how}, MNIST-5k, `{recipe}`"
        rows.append(row(label, "accuracy", "accuracy", metrics, {"chance": 0.1}, samples=len(task.held_out)))
    return rows


QUICK = [recipe for recipe in recipes_for("mnist") if "quick" in find("recipes", recipe).training]
RUNS = (
    {f"mnist_{recipe}": Run(functools.partial(mnist, recipe, "tiny")) for recipe in recipes_for("mnist")}
    | {"initialisation": Run(initialisation)}
    | {f"mnist_{recipe}_quick": Run(functools.partial(mnist, recipe, "quick"), seeds=(0, 1, 2)) for recipe in QUICK}
)
