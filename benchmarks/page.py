"""docs/benchmarks.md, its plot, and what the terminal shows, from the figures."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .tasks import HUGGING_FACE, KIT, PERCEIVER_PYTORCH, Task

# Why a target is missed, shown only where it is: pattern of the task's name → text.
NOTES: dict[str, str] = json.loads(
    (Path(__file__).resolve().parent.parent / "docs" / "benchmark_notes.json").read_text(encoding="utf-8")
)

INTRODUCTION = """\
The kit beside Hugging Face's `transformers`: the same weights, inputs, threads and dtype, batch 1, published sizes.
Each figure is the median over several processes in which the two take turns; the range is that of the processes'
ratios. *MiB* is the peak beyond the loaded model and its inputs, in a process of its own where freed memory goes back
to the system at once, after a first call, whose buffers the libraries keep.
`make bench` makes this page again; [benchmarks.json](benchmarks.json) has all figures."""

FORWARD = """\
Of a recipe with several outputs all rows are decoded (804,737 of a video with sound). The kit encodes once. Hugging
Face decodes at given points only, and encodes again for each of 128 equal parts: a few calls for one part are timed and
multiplied by 128. Outputs are checked to be equal before times are compared.

TFLOP counts matrix products, convolutions and attention of the calls that were made (`torch.utils.flop_counter`). The
kit makes fewer where it projects only the short side of an attention; *of the peak* and the floor are of its own."""

TRAIN = """\
Forward, mean square as a loss, backward, a step of AdamW. Gradients and the optimizer's state, the same on both sides,
are part of the memory. Of several outputs one of the 128 parts is decoded: Hugging Face cannot train on more."""

GROWTH = """\
The kit alone: rows of 64 channels, 64 latents × 128 of two layers, queries of 65 channels; 1,024 of what does not
grow. Slopes are those of logarithms: 1 is in proportion."""

GENERIC = """\
It has a generic Perceiver IO over ready-made rows, without position features, modalities or published weights.
Compared: 50,176 rows × 261 into 512 latents × 1,024, six layers of eight heads, one query, 1,000 logits. Its
feed-forward layers are gated, so weights cannot be the same; the kit's are made as many multiply-adds wide."""

NAMES = {KIT: "kit", HUGGING_FACE: "Hugging Face", PERCEIVER_PYTORCH: "perceiver-pytorch"}


def short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def verdict(entry: dict[str, Any]) -> str:
    said = []
    for each in entry["targets"]:
        found = "met" if each["met"] else f"**not met** ({each['found']})"
        said.append(f"{each['target']}: {found}")
    return "; ".join(said) or "–"


def label(entry: dict[str, Any], point: dict[str, Any]) -> str:
    size = ", ".join(f"{key} {value:,}" for key, value in point["size"].items())
    name = entry["task"].split("/", 1)[1]
    return f"`{name}`" + (f", {size}" if size else "")


def compared(entries: Sequence[dict[str, Any]], *, targets: bool = True) -> str:
    """A table with a line for each point of each task."""
    them = NAMES[PERCEIVER_PYTORCH if any(PERCEIVER_PYTORCH in e["points"][0] for e in entries) else HUGGING_FACE]
    titles = ["task", "times faster (range)", "seconds", "theirs", "MiB", "theirs", "TFLOP", "theirs", "of the peak"]
    titles = [title.replace("theirs", them) if title == "theirs" else title for title in titles]
    titles += ["targets"] if targets else []
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for entry in entries:
        for point in entry["points"]:
            other = next(side for side in (HUGGING_FACE, PERCEIVER_PYTORCH) if side in point)
            sides = point[KIT], point[other]
            cells = [label(entry, point), f"**{point['ratio']:.2f}** ({point['least']:.2f} to {point['most']:.2f})"]
            cells += [short(side["seconds"]) for side in sides]
            cells += [f"{side['mebibytes']:,.0f}" for side in sides]
            cells += ["–" if side["flops"] is None else short(side["flops"] / 1e12) for side in sides]
            cells.append("–" if "share_of_peak" not in point else f"{point['share_of_peak']:.0%}")
            cells += [verdict(entry)] if targets else []
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def growth(entries: Sequence[dict[str, Any]]) -> str:
    lines = ["| what grows | size | seconds | MiB | slopes and targets |", "| --- | --- | --- | --- | --- |"]
    for entry in entries:
        slopes = f"{entry['time_slope']:.2f} of time, {entry['memory_slope']:.2f} of memory; {verdict(entry)}"
        for place, point in enumerate(entry["points"]):
            name, size = next(iter(point["size"].items()))
            cells = [name, f"{size:,}", short(point[KIT]["seconds"]), f"{point[KIT]['mebibytes']:,.0f}"]
            lines.append(f"| {' | '.join(cells)} | {slopes if place == 0 else ''} |")
    return "\n".join(lines)


def of(data: dict[str, Any], *groups: str) -> list[dict[str, Any]]:
    return [entry for entry in data["tasks"] if entry["task"].split("/")[0] in groups]


def table(tasks: Sequence[Task], data: dict[str, Any]) -> str:
    """For the terminal: all that was just measured."""
    names = {task.name for task in tasks}
    entries = [entry for entry in data["tasks"] if entry["task"] in names]
    lines = [f"{dtype} products: {peak / 1e9:.0f} GFLOP/s" for dtype, peak in data["peak_flops_per_second"].items()]
    for entry in entries:
        for point in entry["points"]:
            name = entry["task"] + "".join(f" {key} {value}" for key, value in point["size"].items())
            ratio = (
                f"{point['ratio']:5.2f} times faster, {point['memory']:4.0%} of the memory" if "ratio" in point else ""
            )
            lines.append(f"{name:<55} {short(point[KIT]['seconds']):>6} s  {ratio}")
        lines += [f"    {'met    ' if v['met'] else 'NOT MET'} {v['target']} ({v['found']})" for v in entry["targets"]]
    return "\n".join(lines)


def write(docs: Path, data: dict[str, Any]) -> None:
    (docs / "benchmarks.json").write_text(json.dumps(data, indent=1) + "\n")
    (docs / "assets").mkdir(exist_ok=True)
    plot(data, docs / "assets" / "benchmarks.svg")
    (docs / "benchmarks.md").write_text(markdown(data))


def markdown(data: dict[str, Any]) -> str:
    machine, peaks, mean = data["machine"], data["peak_flops_per_second"], data["geometric_mean"]
    parts = [
        "# Speed and memory",
        INTRODUCTION,
        f"Geometric mean over the {len(of(data, 'forward'))} forwards: **{mean:.2f}** times faster "
        f"(target ≥ 1.5: {'met' if mean >= 1.5 else '**not met**'}).",
        f"Machine: {machine['cpu']}, {machine['threads']} threads. Products of 4096 × 4096 matrices reach "
        f"{peaks['float32'] / 1e9:.0f} GFLOP/s in float32 and {peaks['bfloat16'] / 1e9:.0f} in bfloat16: the *peak* "
        "of the tables. A task's *floor* is the time that its FLOPs would take at it.",
        "![Times faster than Hugging Face, by task](assets/benchmarks.svg)",
        "## Forward",
        compared(of(data, "forward")),
        FORWARD,
        "## Training step",
        TRAIN,
        compared(of(data, "train")),
        "## bfloat16",
        "Both in bfloat16, which is what the target is held against.",
        compared(of(data, "bfloat16")),
        against_float32(data),
        "## Batches, lengths, sizes",
        "Hugging Face decodes 2,048 rows of a text of any length; the kit decodes as many as there are.",
        compared(of(data, "batch", "length", "size"), targets=False),
        "## Growth",
        GROWTH,
        growth(of(data, "growth")),
        "## perceiver-pytorch",
        GENERIC,
        compared(of(data, "perceiver-pytorch")),
    ]
    missed = [entry for entry in data["tasks"] if not all(v["met"] for v in entry["targets"])]
    if missed:
        parts += ["## Not met", "\n".join(explained(entry) for entry in missed)]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "perceiver-pytorch"))
    parts.append(f"Measured at commit {', '.join(data['commits'])}; {versions}, Python {machine['python']}.")
    return "\n\n".join(parts) + "\n"


def explained(entry: dict[str, Any]) -> str:
    notes = [text for pattern, text in NOTES.items() if fnmatch.fnmatch(entry["task"], pattern)]
    what = "; ".join(f"{v['target']}, found {v['found']}" for v in entry["targets"] if not v["met"])
    return f"- `{entry['task']}`: {what}. {' '.join(notes)}".rstrip()


def against_float32(data: dict[str, Any]) -> str:
    """The kit in bfloat16 beside the reference in float32, the type that its weights have."""
    every = {entry["task"]: entry for entry in data["tasks"]}
    said = []
    for entry in of(data, "bfloat16"):
        other = every[f"forward/{entry['task'].split('/')[1]}"]
        times = other["points"][0][HUGGING_FACE]["seconds"] / entry["points"][0][KIT]["seconds"]
        said.append(f"`{entry['task'].split('/')[1]}` {times:.1f}")
    return f"The kit in bfloat16 beside Hugging Face in float32, times faster: {', '.join(said)}."


def plot(data: dict[str, Any], path: Path) -> None:
    """Bars of times faster: forward and training, from 1 on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # the same figures make the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    every = [entry["task"].split("/")[1] for entry in of(data, "forward")]
    groups = [("forward", "#3949ab"), ("train", "#c5cae9")]
    for offset, (group, colour) in zip((0.2, -0.2), groups, strict=True):
        entries = {entry["task"].split("/")[1]: entry["points"][0] for entry in of(data, group)}
        names = [name for name in every if name in entries]
        places = [len(every) - 1 - every.index(name) + offset for name in names]
        values = [entries[name]["ratio"] for name in names]
        below = [entries[name]["ratio"] - entries[name]["least"] for name in names]
        above = [entries[name]["most"] - entries[name]["ratio"] for name in names]
        title = {"forward": "forward", "train": "training step"}[group]
        axes.barh(
            places,
            [value - 1 for value in values],
            0.38,
            left=1,
            color=colour,
            label=title,
            xerr=[below, above],
            ecolor="#555",
        )
        for place, value, more in zip(places, values, above, strict=True):
            axes.annotate(
                f"{value:.1f}", (value + more, place), (3, 0), textcoords="offset points", va="center", size=8
            )
    axes.axvline(1, color="#555", linewidth=0.8)
    axes.set_yticks(range(len(every)), [*reversed(every)], size=8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("times faster than Hugging Face")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
