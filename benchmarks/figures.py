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
    """How many times faster, round by round, in order."""
    return sorted(b[point]["seconds"] / a[point]["seconds"] for a, b in zip(ours, theirs, strict=False))


def median(rounds: Rounds, key: str, point: int = 0) -> float:
    return statistics.median(entries[point][key] for entries in rounds)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the line through the logarithms, by least squares: 1 where a value grows as its size does."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope


def counted(rounds: Rounds, point: int = 0) -> float | None:
    """FLOPs, which one round has."""
    return next((entries[point]["flops"] for entries in rounds if "flops" in entries[point]), None)


# ---- what the page says of each task


def summary(tasks: Sequence[Task], found: dict[str, Found]) -> dict[str, Any]:
    """Everything that docs/benchmarks.json holds about what was measured."""
    peaks: dict[str, float] = {}
    if "peak" in found and found["peak"][KIT]:
        for number, dtype in enumerate(("float32", "bfloat16")):
            peaks[dtype] = max(entries[number]["per_second"] for entries in found["peak"][KIT])
    rows = [row(task, found[task.name], peaks) for task in tasks if task.kind != "peak"]
    forwards = [entry for entry in rows if entry["task"].startswith("forward/")]
    mean = None
    if forwards:
        mean = statistics.geometric_mean(entry["points"][0]["ratio"] for entry in forwards)
    return {"peak_flops_per_second": peaks, "geometric_mean": mean, "tasks": rows}


def row(task: Task, found: Found, peaks: dict[str, float]) -> dict[str, Any]:
    """One task: its points, and its targets with whether each is met."""
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
    if task.kind == "growth":
        sizes = [next(iter(size.values())) for size in task.points]
        # To the two digits that are shown and that timing can tell.
        entry["time_slope"] = round(slope(sizes, [point[KIT]["seconds"] for point in points]), 2)
        entry["memory_slope"] = round(slope(sizes, [point[KIT]["mebibytes"] for point in points]), 2)
    return entry | {"targets": judged(entry, task.target)}


def judged(entry: dict[str, Any], target: Target) -> list[dict[str, Any]]:
    """Each target beside what was found: {"target", "found", "met"}."""
    point, verdicts = entry["points"][0], []

    def judge(what: str, wanted: float | None, found: float | None, at_least: bool, form: str = "{:.2f}") -> None:
        if wanted is None or found is None:
            return
        sign = "≥" if at_least else "≤"
        met = found >= wanted if at_least else found <= wanted
        verdicts.append({"target": f"{what} {sign} {form.format(wanted)}", "found": form.format(found), "met": met})

    judge("times faster", target.faster, point.get("ratio"), True)
    judge("share of the memory", target.memory, point.get("memory"), False)
    share = point.get("share_of_peak")
    judge("times its floor", target.floor, None if share is None else 1 / share, False)
    judge("slope of time", target.time_slope, entry.get("time_slope"), False)
    judge("slope of memory", target.memory_slope, entry.get("memory_slope"), False)
    return verdicts
