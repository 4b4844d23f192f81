"""Points, sets of entities, series."""

from __future__ import annotations

import functools

import torch
from einops import rearrange, reduce

import perceiver_kit as kit
from perceiver_kit.data.points import Clouds
from perceiver_kit.data.series import Windows
from perceiver_kit.data.sets import Sets

from ..training import Row, Run, directory, opened, recipes_for, row, train

(POINTS,), (SETS,), (SERIES,) = recipes_for("shapes"), recipes_for("molecules"), recipes_for("co2")


def points(data: str, seed: int, **options: int) -> list[Row]:
    """The baseline reads histograms of distances from the centre and of heights."""
    from sklearn.linear_model import LogisticRegression

    task = opened(POINTS, data, "quick", seed=seed, **options)
    metrics = train(f"points_{data}", POINTS, task, preset="quick", seed=seed)
    (x, y), held_out = (_histograms(part, range(min(len(part), 1600))) for part in (task.train, task.held_out))  # type: ignore[arg-type]
    baseline = {
        "logistic regression on histograms": float(LogisticRegression(max_iter=2000).fit(x, y).score(*held_out))
    }
    label = f"points of {data}, {len(task.classes)} classes, `{POINTS}`"
    return [row(label, "accuracy", "accuracy", metrics, baseline, samples=len(held_out[1]))]


def _histograms(part: Clouds, chosen: range):  # type: ignore[no-untyped-def]
    features, labels = [], []
    for i in chosen:
        sample = part[i]
        cloud = sample["inputs"]["points"]
        radii = [cloud.norm(dim=-1), cloud[:, [0, 2]].norm(dim=-1)]
        spread = [torch.histc(radius, 16, 0, 1.8) for radius in radii] + [torch.histc(cloud[:, 1], 16, -1, 1)]
        features.append(torch.cat(spread) / len(cloud))
        labels.append(int(sample["targets"]["label"]))
    return torch.stack(features).numpy(), labels


def molecules(seed: int) -> list[Row]:
    from sklearn.linear_model import LogisticRegression

    task = opened(SETS, "molecules", "quick", seed=seed)
    metrics = train("molecules", SETS, task, preset="quick", seed=seed)
    (x, y), held_out = ((_sums(part), part.labels.numpy()) for part in (task.train, task.held_out))  # type: ignore[attr-defined,arg-type]
    linear = {"logistic regression on counts": float(LogisticRegression(max_iter=5000).fit(x, y).score(*held_out))}
    atoms = [torch.cat([*part.sets]).numpy() for part in (task.train, task.held_out)]  # type: ignore[attr-defined]
    rings = [torch.cat([*part.kinds]).numpy() for part in (task.train, task.held_out)]  # type: ignore[attr-defined]
    each = LogisticRegression(max_iter=5000).fit(atoms[0], rings[0]).score(atoms[1], rings[1])
    count = len(held_out[1])
    return [
        row(f"solubility of molecules, `{SETS}`", "accuracy", "label_accuracy", metrics, linear, samples=count),
        row(
            f"atoms in rings, `{SETS}`",
            "accuracy",
            "entities_accuracy",
            metrics,
            {"logistic regression on the atom": float(each)},
            samples=len(rings[1]),
        ),
    ]


def _sums(part: Sets):  # type: ignore[no-untyped-def]
    return torch.stack([reduce(entities, "n c -> c", "sum") for entities in part.sets]).numpy()


def series(data: str, season: int, seed: int, **options: int) -> list[Row]:
    task = opened(SERIES, data, "quick", seed=seed, **options)
    metrics = train(f"forecasting_{data}", SERIES, task, preset="quick", seed=seed)
    model = kit.load(directory(f"forecasting_{data}", seed))
    errors = absolute_errors(model, task.held_out, season)  # type: ignore[arg-type]
    ours, count = errors.pop("model"), int(errors.pop("count"))
    label = f"forecasting of {data}, `{SERIES}`"
    return [row(label, "absolute error in deviations of the history", ours, metrics, errors, samples=count)]


def absolute_errors(model: torch.nn.Module, held_out: Windows, season: int) -> dict[str, float]:
    """The mean absolute error of the middle quantile, and of baselines, over the readings that are there.

    Seasonal-naive repeats the readings a season before; with drift, it adds the rise between the last two seasons.
    """
    sums = dict.fromkeys(("model", "seasonal-naive", "seasonal-naive with drift", "last reading"), 0.0)
    count = 0
    for i in range(len(held_out)):
        sample = held_out[i]
        history, target = sample["inputs"]["history"], sample["targets"]["future"]
        values = _filled(history[:, 1:])
        steps = torch.arange(len(target)) % season
        naive = values[-season:][steps]
        drift = values[-season:].mean(0) - values[-2 * season : -season].mean(0)
        with torch.no_grad():
            quantiles = model({"history": rearrange(history, "n c -> 1 n c")}, queries=sample["queries"])["future"][0]
        middle = quantiles[..., quantiles.shape[-1] // 2]
        there = ~target.isnan()
        found = (middle, naive, naive + drift, values[-1:].expand_as(target))
        for name, value in zip(sums, found, strict=True):
            sums[name] += float((value - target)[there].abs().sum())
        count += int(there.sum())
    return {name: total / count for name, total in sums.items()} | {"count": count}


def _filled(values: torch.Tensor) -> torch.Tensor:
    """Missing readings as the reading before them; at the start, as the mean."""
    filled, last = values.clone(), torch.zeros(values.shape[-1])
    for row_ in filled:
        row_[:] = last = torch.where(row_.isnan(), last, row_)
    return filled


SEEDS = (0, 1, 2)
RUNS = {
    "points_shapes": Run(functools.partial(points, "shapes"), SEEDS),
    "molecules": Run(molecules, SEEDS),
    "forecasting_co2": Run(functools.partial(series, "co2", 52), SEEDS),
    "forecasting_elnino": Run(functools.partial(series, "elnino", 12, history=48, horizon=12), SEEDS),
}
