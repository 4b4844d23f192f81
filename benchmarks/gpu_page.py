"""docs/gpu.md and docs/gpu.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .page import NAMES, short

Entry = dict[str, Any]

INTRODUCTION = """\
# On a GPU

`make bench DEVICE=cuda` runs the kit and each reference in turns in one process, with the same weights, inputs and
dtype. Outputs are compared first: *apart* is ‖ours − theirs‖ / ‖theirs‖. Milliseconds are medians by CUDA events. *MiB*
is the allocator's peak above the model and its inputs. *Replayed* is the same call as a CUDA graph, which excludes the
time of Python and of kernel launches. *TFLOP* is the work of the kit's call, *of the peak* its rate (replayed, if
given) relative to the peak of matrix products. At batch 1 most published models are small for a GPU, and eager calls
are bound by Python."""

# What the figures say, and what is not measured.
NOTES = Path(__file__).resolve().with_name("gpu_notes.md")

SECTIONS = {
    "forward": "Published sizes, batch 1, eager. For a video with sound the kit decodes all rows, encoded once. For "
    "Hugging Face one of 128 equal parts is timed, and its time is multiplied by 128.",
    "batch": "Larger batches, bfloat16.",
    "train": "A training step: forward, mean square loss, backward, fused AdamW; autocast to bfloat16, weights in "
    "float32.",
    "compiled": "Both under `torch.compile`, bfloat16, batch 1.",
    "generation": "One token with a full context: `causal_lm` with policy `roll`, compared with GPT-2 and its cache "
    "(sizes as on the [CPU page](benchmarks.md#generation)).",
    "perceiver-pytorch": "The generic model of the [CPU page](benchmarks.md#perceiver-pytorch), autocast to bfloat16.",
}


def write(docs: Path, data: dict[str, Any]) -> str:
    """Writes both files; returns the page."""
    page = markdown(data)
    (docs / "gpu.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    (docs / "gpu.md").write_text(page)
    return page


def markdown(data: dict[str, Any]) -> str:
    entries: list[Entry] = data["entries"]
    machine, peaks = data["machine"], next((entry for entry in entries if entry["name"] == "peak"), {})
    parts = [INTRODUCTION]
    if peaks:
        parts.append(
            f"Measured on: {machine['device']}, torch {machine['torch']}, Python {machine['python']}. Products of "
            f"8192 × 8192 matrices reach {peaks['float32'] / 1e12:.0f} TFLOP/s in float32 and "
            f"{peaks['bfloat16'] / 1e12:.0f} in bfloat16; copies reach {peaks['bytes_per_second'] / 1e12:.2f} TB/s."
        )
    for group, said in SECTIONS.items():
        own = [entry for entry in entries if entry["name"].startswith(f"{group}/") and "sides" in entry]
        if own:
            parts += [f"## {group.capitalize()}", said, table(own, peaks)]
    growing = [entry for entry in entries if "points" in entry]
    if growing:
        parts += [
            "## Growth",
            "The kit alone, float32; sizes as on the [CPU page](benchmarks.md#growth).",
            grown(growing),
        ]
    asked = [(entry, shape, kernel) for entry in entries for shape, kernel in entry.get("kernels", {}).items()]
    kernels = {(shape, dtype_of(entry), kernel) for entry, shape, kernel in asked}
    if kernels:
        lines = ["| attention | dtype | torch's backend |", "| --- | --- | --- |"]
        lines += [f"| {' | '.join(line)} |" for line in sorted(kernels)]
        parts += ["## Which kernel ran", "Where the kit calls torch's fused attention.", "\n".join(lines)]
    refused = [entry for entry in entries if "refused" in entry]
    if refused:
        parts += ["## Failed", "\n".join(f"- `{entry['name']}`: {entry['refused']}" for entry in refused)]
    return "\n\n".join([*parts, NOTES.read_text(encoding="utf-8").strip()]) + "\n"


def dtype_of(entry: Entry) -> str:
    return "float32" if "float32" in entry["name"] else "bfloat16"


def table(entries: list[Entry], peaks: Entry) -> str:
    other = NAMES[[*entries[0]["sides"]][-1]]
    titles = ["task", "times faster (range)", "replayed", "ms", other, "replayed ms", other, "MiB", other]
    titles += ["TFLOP", "of the peak", "apart"]
    lines = [f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
    for entry in entries:
        ours, theirs = entry["sides"].values()
        least, most = entry["range"]
        cells = [
            ", ".join(entry["name"].split("/")[1:]),
            f"**{entry['ratio']:.2f}** ({least:.2f} to {most:.2f})",
            f"{entry['replayed_ratio']:.2f}" if "replayed_ratio" in entry else "–",
            *(short(side["milliseconds"]) for side in (ours, theirs)),
            *(short(side["replayed"]) if "replayed" in side else "–" for side in (ours, theirs)),
            *(f"{side['mebibytes']:,.0f}" for side in (ours, theirs)),
            short(ours["flops"] / 1e12) if "flops" in ours else "–",
            share(ours, peaks.get(dtype_of(entry))),
            f"{entry['difference']:.0e}" if "difference" in entry else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def share(side: Entry, peak: float | None) -> str:
    if peak is None or "flops" not in side:
        return "–"
    return f"{side['flops'] / (side.get('replayed', side['milliseconds']) / 1e3) / peak:.0%}"


def grown(entries: list[Entry]) -> str:
    lines = ["| what grows | size | ms | MiB |", "| --- | --- | --- | --- |"]
    for entry in entries:
        for point in entry["points"]:
            cells = (
                entry["name"].split("/")[1],
                f"{point['size']:,}",
                short(point["milliseconds"]),
                f"{point['mebibytes']:,.0f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
