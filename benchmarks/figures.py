"""From measurements to figures: medians, ratios, slopes, shares of the peak, and targets met or not."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from .tasks import KIT, Target, Task

Rounds = list[list[dict[str, float]]]
Found = dict[str, Rounds]


def ratios(ours: Rounds, theirs: Rounds, point: int = 0) -> list[float]:
    """Sorted speed-ups, one per round."""
    return sorted(b[point]["seconds"] / a[point]["seconds"] for a, b in zip(ours, theirs, strict=False))


def median(rounds: Rounds, key: str, point: int = 0) -> float:
    return statistics.median(entries[point][key] for entries in rounds)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of a least-squares line through the logarithms: 1 for proportional growth."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope


def counted(rounds: Rounds, point: int = 0) -> float | None:
    """FLOPs, which only one round counts."""
    return next((entries[point]["flops"] for entries in rounds if "flops" in entries[point]), None)


def summary(tasks: Sequence[Task], found: dict[str, Found]) -> dict[str, Any]:
    """The measurements in docs/benchmarks.json."""
    peaks: dict[str, float] = {}
    if "peak" in found and found["peak"][KIT]:
        points = next(task.points for task in tasks if task.name == "peak")
        for number, point in enumerate(points):
            peaks[point["dtype"]] = max(entries[number]["per_second"] for entries in found["peak"][KIT])
    rows = [row(task, found[task.name], peaks) for task in tasks if task.kind != "peak"]
    forwards = [entry for entry in rows if entry["task"].startswith("forward/")]
    return {"peak_flops_per_second": peaks, "geometric_mean": mean_ratio(forwards), "tasks": rows}


def mean_ratio(entries: Sequence[dict[str, Any]]) -> float | None:
    """The geometric mean of the entries' speed-ups; None of none."""
    return statistics.geometric_mean(entry["points"][0]["ratio"] for entry in entries) if entries else None


def row(task: Task, found: Found, peaks: dict[str, float]) -> dict[str, Any]:
    """Figures of one task: its points, and whether each target is met."""
    points = []
    for number, size in enumerate(task.points):
        point: dict[str, Any] = {"size": size}
        for side in task.sides:
            point[side] = {
                "seconds": median(found[side], "seconds", number),
                "mebibytes": median(found[side], "mebibytes", number),
                "flops": counted(found[side], number),
            }
        if len(task.sides) == 2:
            each = ratios(found[KIT], found[task.sides[1]], number)
            point |= {"ratio": statistics.median(each), "least": each[0], "most": each[-1]}
            point["memory"] = point[KIT]["mebibytes"] / point[task.sides[1]]["mebibytes"]
        flops, peak = point[KIT]["flops"], peaks.get(task.dtype)
        if flops and peak:
            point["share_of_peak"] = flops / point[KIT]["seconds"] / peak
        points.append(point)
    entry = {"task": task.name, "dtype": task.dtype, "points": points, "rounds": len(found[KIT])}
    if task.target.time_slope is not None:
        sizes = [next(iter(size.values())) for size in task.points]
        # Rounded to the digits that the page shows.
        entry["time_slope"] = round(slope(sizes, [point[KIT]["seconds"] for point in points]), 2)
        entry["memory_slope"] = round(slope(sizes, [point[KIT]["mebibytes"] for point in points]), 2)
    return entry | {"targets": judged(entry, task.target)}


def judged(entry: dict[str, Any], target: Target) -> list[dict[str, Any]]:
    """Targets and figures: {"target", "found", "met"}."""
    point, verdicts = entry["points"][0], []

    def judge(name: str, bound: float | None, found: float | None, at_least: bool) -> None:
        if bound is not None and found is not None:
            sign, met = ("≥", found >= bound) if at_least else ("≤", found <= bound)
            verdicts.append({"target": f"{name} {sign} {bound:.2f}", "found": f"{found:.2f}", "met": met})

    judge("times faster", target.faster, point.get("ratio"), True)
    judge("share of the memory", target.memory, point.get("memory"), False)
    share = point.get("share_of_peak")
    judge("times its floor", target.floor, None if share is None else 1 / share, False)
    judge("slope of time", target.time_slope, entry.get("time_slope"), False)
    judge("slope of memory", target.memory_slope, entry.get("memory_slope"), False)
    return verdicts
