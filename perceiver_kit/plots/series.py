"""Losses and metrics over training steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import InputError
from ..flags import checked_flags
from .style import COLOURS, INK, MUTED, SMALL, WIDTH, figure, open_frame, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@checked_flags
def losses(
    series: Mapping[str, Sequence[float | int]],
    *,
    every: int = 1,
    log: bool = False,
    baselines: Mapping[str, float | int] | None = None,
    ylabel: str = "loss",
) -> Figure:
    """Loss curves by name: thin raw values, and their running mean over a fiftieth of the curve.

    ``every`` is the number of steps between two values, ``log`` makes the axis logarithmic, and ``baselines`` are
    drawn as horizontal lines by name. Raises InputError for an empty series.

    >>> picture = losses({"tiny": [2.5, 1.5, 1.25]}, baselines={"chance": 2.3})
    >>> picture.axes[0].get_ylabel()
    'loss'
    """
    if not isinstance(series, Mapping) or not series or any(len(values) == 0 for values in series.values()):
        raise InputError("series must map names to at least one loss each")
    page = figure(WIDTH, 2.6)
    axes = page.subplots()
    for i, (name, given) in enumerate(series.items()):
        values = torch.tensor([float(value) for value in given], dtype=torch.float64)
        steps = (torch.arange(len(values)) + 1) * every
        window = max(1, len(values) // 50)
        colour = COLOURS[i % len(COLOURS)]
        if window > 1:
            # At most 600 raw points: more than the picture has pixels only makes it large.
            thin = max(1, len(values) // 300)
            axes.plot(steps[::thin].numpy(), values[::thin].numpy(), color=colour, alpha=0.25, linewidth=0.7)
        mean = values.unfold(0, window, 1).mean(-1)
        axes.plot(steps[window - 1 :].numpy(), mean.numpy(), color=colour, linewidth=1.6, label=name)
    for i, (name, value) in enumerate((baselines or {}).items()):
        style = ("--", ":", "-.")[i % 3]
        axes.axhline(value, color=MUTED, linewidth=1.1, linestyle=style, label=f"{name} ({value:.3g})")
    if log:
        axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=SMALL, color=INK)
    axes.set_ylabel(ylabel, fontsize=SMALL, color=INK)
    open_frame(axes)
    page.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=SMALL, labelcolor=INK)
    return page


def curves(metrics: Path, picture: Path) -> Path:
    """Draw each metric of a run's ``metrics.csv`` against the step, training and held-out in one panel.

    Writes to the path ``picture`` and returns it.
    """
    series: dict[str, dict[str, list[tuple[int, float]]]] = {}
    with open(metrics, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                part, _, name = key.partition("/")
                if name and value:
                    series.setdefault(name, {}).setdefault(part, []).append((int(row["step"]), float(value)))
    names = sorted(series, key=lambda name: (name != "loss", name))
    across = max(1, min(3, len(names)))
    page = figure(3.6 * across, 2.8 * max(1, math.ceil(len(names) / across)))
    for i, name in enumerate(names):
        axes = page.add_subplot(math.ceil(len(names) / across), across, i + 1)
        for part, points in sorted(series[name].items(), reverse=True):
            trained = part == "train"
            style = dict(alpha=0.6, linewidth=1) if trained else dict(marker="o", markersize=3)
            colour = COLOURS[0 if trained else 1]
            axes.plot(*zip(*points, strict=True), label=part.replace("_", "-"), color=colour, **style)  # type: ignore[arg-type]
        title(axes, name.replace("_", " "))
        axes.set_xlabel("step", fontsize=SMALL, color=INK)
        open_frame(axes)
        axes.legend(frameon=False, fontsize=SMALL, labelcolor=INK)
    page.savefig(picture)
    return picture
