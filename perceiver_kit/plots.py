"""Pictures of what a model does. Matplotlib is imported when one is drawn."""

from __future__ import annotations

import csv
from pathlib import Path


def curves(metrics: Path, picture: Path) -> Path:
    """Draw every metric of a training's ``metrics.csv`` against the step: training and held-out in one panel each."""
    from matplotlib.figure import Figure

    series: dict[str, dict[str, list[tuple[int, float]]]] = {}
    with open(metrics, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                part, _, name = key.partition("/")
                if name and value:
                    series.setdefault(name, {}).setdefault(part, []).append((int(row["step"]), float(value)))
    names = sorted(series, key=lambda name: (name != "loss", name))
    figure = Figure(figsize=(4.2 * max(1, len(names)), 3), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), i + 1)
        for part, points in sorted(series[name].items(), reverse=True):
            style = dict(alpha=0.6, linewidth=1) if part == "train" else dict(marker="o", markersize=3)
            axes.plot(*zip(*points, strict=True), label=part.replace("_", "-"), **style)  # type: ignore[arg-type]
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=90)
    return picture
