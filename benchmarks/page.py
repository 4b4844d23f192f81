"""docs/benchmarks.md, its plot and the terminal's table."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .tasks import HUGGING_FACE, KIT, PERCEIVER_PYTORCH, TRANSFORMER, Task

# Reasons for missed targets: pattern of task names → text. Those of ``EARLIER`` are lines of a section.
NOTES: dict[str, str] = json.loads(
    (Path(__file__).resolve().parent.parent / "docs" / "benchmark_notes.json").read_text(encoding="utf-8")
)

EARLIER = "earlier table: "

INTRODUCTION = """\
The kit beside Hugging Face's `transformers`: the same weights, inputs, threads and dtype, batch 1, published sizes.
Figures are medians over several processes, in which the two take turns; ranges are those of the processes' ratios.
*MiB* is peak memory above the loaded model and its inputs, after a warm-up call, in a separate process whose allocator
returns freed memory at once. `make bench` writes this page; [benchmarks.json](benchmarks.json) has all figures."""

FORWARD = """\
Of a recipe with several outputs all rows are decoded (804,737 of a video with sound). The kit encodes once. Hugging
Face decodes at given points only, and runs its encoder for each of 128 equal parts: calls for one part are timed and
multiplied by 128. Outputs are compared first.

TFLOP counts matrix products, convolutions and attention (`torch.utils.flop_counter`). The kit needs fewer where it
projects only the short side of an attention; *of the peak* and the floor refer to the kit's FLOPs."""

TRAIN = """\
Forward, mean square loss, backward, a step of AdamW. Memory includes gradients and the optimizer's state, equal on
both sides. Of several outputs one of the 128 parts is decoded: Hugging Face cannot train on more."""

GROWTH = """\
The kit alone: rows of 64 channels, 64 latents × 128, two layers, queries of 65 channels; 1,024 rows or queries where
the other grows. `grouped_rows` is the hierarchical Perceiver: 16 groups, each with 64 latents of the same width for
its share of the rows, and 64 between them. *context*: a training step of the `causal_lm` of the next section, in
processor seconds. Slopes are of logarithms: 1 is proportional growth."""

GENERIC = """\
It has a generic Perceiver IO on given rows, without position features, modalities or published weights.
Compared: 50,176 rows × 261 into 512 latents × 1,024, six layers of eight heads, one query, 1,000 logits. Its
MLPs are gated, so weights differ; the kit's MLPs are widened to the same number of multiply-adds."""

GENERATION = """\
`causal_lm` (Perceiver AR) with 256 latents beside GPT-2 of `transformers`: 64 channels, two heads, batch 1, random
weights; a cross-attention and two layers of latents, three layers of GPT-2. One thread, the least processor seconds
of several calls. A token follows a full context, and its MiB are a cache with what a token needs beside it.

Of the kit's policies, `recompute` is a pass without a cache, `refill` a pass in 128 tokens, `roll` none; GPT-2 has a
pass or its cache, which it also fills by a pass over the prompt."""

CAUSAL_TRAIN = """\
A training step is forward, backward and AdamW. The kit's predicts the last 256 tokens of a window, GPT-2's all: a token
that is predicted costs the kit more, a window less. On 65,536 tokens GPT-2's takes minutes and is not measured; the
table of growth has the kit's."""

NO_BFLOAT16 = """\
Not measured: this CPU has no instructions for bfloat16, and a product takes fifty times as long as in float32.
[On a GPU](gpu.md) it is measured."""

NAMES = {KIT: "kit", HUGGING_FACE: "Hugging Face", PERCEIVER_PYTORCH: "perceiver-pytorch", TRANSFORMER: "GPT-2"}
OTHERS = (HUGGING_FACE, PERCEIVER_PYTORCH, TRANSFORMER)


def short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def verdict(entry: dict[str, Any]) -> str:
    verdicts = [
        (each["target"], "met" if each["met"] else f"**not met** ({each['found']})") for each in entry["targets"]
    ]
    return "; ".join(f"{target}: {found}" for target, found in verdicts) or "–"


def label(entry: dict[str, Any], point: dict[str, Any]) -> str:
    size = ", ".join(f"{key} {value:,}" for key, value in point["size"].items())
    name = entry["task"].split("/", 1)[1]
    return f"`{name}`" + (f", {size}" if size else "")


def compared(entries: Sequence[dict[str, Any]], *, targets: bool = True) -> str:
    """A table with a line per point of each task."""
    other_name = NAMES[next(side for side in OTHERS if all(side in entry["points"][0] for entry in entries))]
    titles = ["task", "times faster (range)", "seconds", "theirs", "MiB", "theirs", "TFLOP", "theirs", "of the peak"]
    titles = [title.replace("theirs", other_name) for title in titles]
    titles += ["targets"] if targets else []
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for entry in entries:
        for point in entry["points"]:
            other = next(side for side in OTHERS if side in point)
            sides = point[KIT], point[other]
            cells = [label(entry, point), f"**{point['ratio']:.2f}** ({point['least']:.2f} to {point['most']:.2f})"]
            cells += [short(side["seconds"]) for side in sides]
            cells += [f"{side['mebibytes']:,.0f}" for side in sides]
            cells += ["–" if side["flops"] is None else short(side["flops"] / 1e12) for side in sides]
            cells.append("–" if "share_of_peak" not in point else f"{point['share_of_peak']:.0%}")
            cells += [verdict(entry)] if targets else []
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def tokens(entries: Sequence[dict[str, Any]]) -> str:
    """A table with a line per context and policy."""
    titles = ["context", "policy", "tokens a second", "GPT-2", "MiB", "GPT-2"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for point in (point for entry in entries for point in entry["points"]):
        sides = point[KIT], point[TRANSFORMER]
        cells = [f"{point['size']['context']:,}", f"`{point['size']['policy']}`"]
        cells += [short(1 / side["seconds"]) for side in sides]
        cells += [f"{side['mebibytes']:,.0f}" for side in sides]
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
    """The terminal's table of the given tasks."""
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
    speeds = [f"{peak / 1e9:.0f} GFLOP/s in {dtype}" for dtype, peak in peaks.items()]
    parts = [
        "# Speed and memory",
        INTRODUCTION,
        f"Geometric mean over the {len(of(data, 'forward'))} forwards: **{mean:.2f}** times faster "
        f"(target ≥ 1.5: {'met' if mean >= 1.5 else '**not met**'}).",
        f"Machine: {machine['cpu']} with {machine['instructions']}, {machine['threads']} threads. Products of "
        f"4096 × 4096 matrices reach {' and '.join(speeds)}: the *peak* of the tables. A task's *floor* is the time "
        "that its FLOPs would take at it.",
        "![Times faster than Hugging Face, by task](assets/benchmarks.svg)",
        "## Forward",
        compared(of(data, "forward")),
        FORWARD,
        "## Training step",
        TRAIN,
        compared(of(data, "train")),
        *(bfloat16(data) if of(data, "bfloat16") else ["## bfloat16", NO_BFLOAT16]),
        "## Batches, lengths, sizes",
        "Hugging Face decodes 2,048 rows for every text; the kit decodes as many as the text has.",
        compared(of(data, "batch", "length", "size"), targets=False),
        "## Growth",
        GROWTH,
        growth(of(data, "growth")),
        "## Generation",
        GENERATION,
        tokens([entry for entry in of(data, "generation") if entry["task"].endswith("token")]),
        CAUSAL_TRAIN,
        compared([entry for entry in of(data, "generation") if entry["task"].endswith("train")], targets=False),
        "## perceiver-pytorch",
        GENERIC,
        compared(of(data, "perceiver-pytorch")),
    ]
    missed = [entry for entry in data["tasks"] if not all(v["met"] for v in entry["targets"])]
    if missed:
        parts += ["## Not met", "\n".join(explained(entry) for entry in missed)]
    if earlier := [f"- {key.removeprefix(EARLIER)}: {text}" for key, text in NOTES.items() if key.startswith(EARLIER)]:
        parts += ["## Beside the earlier table", "\n".join(earlier)]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "perceiver-pytorch"))
    parts.append(f"Measured at commit {', '.join(data['commits'])}; {versions}, Python {machine['python']}.")
    return "\n\n".join(parts) + "\n"


def explained(entry: dict[str, Any]) -> str:
    notes = [text for pattern, text in NOTES.items() if fnmatch.fnmatch(entry["task"], pattern)]
    missed = "; ".join(f"{v['target']}, found {v['found']}" for v in entry["targets"] if not v["met"])
    return f"- `{entry['task']}`: {missed}. {' '.join(notes)}".rstrip()


def bfloat16(data: dict[str, Any]) -> list[str]:
    """Both sides in bfloat16, and the kit in bfloat16 beside the reference in float32, the dtype of the checkpoint."""
    every = {entry["task"]: entry for entry in data["tasks"]}
    ratios = []
    for entry in of(data, "bfloat16"):
        recipe = entry["task"].split("/")[1]
        reference = every[f"forward/{recipe}"]["points"][0][HUGGING_FACE]["seconds"]
        ratios.append(f"`{recipe}` {reference / entry['points'][0][KIT]['seconds']:.1f}")
    beside = f"The kit in bfloat16 beside Hugging Face in float32, times faster: {', '.join(ratios)}."
    return ["## bfloat16", "Both in bfloat16.", compared(of(data, "bfloat16")), beside]


def plot(data: dict[str, Any], path: Path) -> None:
    """Bars of speed-ups of forward and training, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"  # reproducible output
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    every = [entry["task"].split("/")[1] for entry in of(data, "forward")]
    groups = [("forward", "forward", "#3949ab", 0.2), ("train", "training step", "#c5cae9", -0.2)]
    for group, title, colour, offset in groups:
        entries = {entry["task"].split("/")[1]: entry["points"][0] for entry in of(data, group)}
        places = [len(every) - 1 - every.index(name) + offset for name in entries]
        values = [point["ratio"] for point in entries.values()]
        below = [point["ratio"] - point["least"] for point in entries.values()]
        above = [point["most"] - point["ratio"] for point in entries.values()]
        widths, style = [value - 1 for value in values], dict(left=1, color=colour, label=title, ecolor="#555")
        axes.barh(places, widths, 0.38, xerr=[below, above], **style)
        for place, value, more in zip(places, values, above, strict=True):
            style = dict(textcoords="offset points", va="center", size=8)
            axes.annotate(f"{value:.1f}", (value + more, place), (3, 0), **style)
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
