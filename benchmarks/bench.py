"""`make bench`: the seven recipes at published size beside Hugging Face, forward, on the same weights and inputs.

Every measurement is a fresh process; the two take turns, so that a machine whose speed drifts is unfair to neither.
Prints, and writes to docs/benchmarks.md, the median ratio with its range and each one's peak memory above the weights.
`TASKS="optical_flow" ROUNDS=3` picks some and says how often.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
CLASSES = {
    "masked_lm": "PerceiverForMaskedLM",
    "sequence_classification": "PerceiverForSequenceClassification",
    "image_classification_learned": "PerceiverForImageClassificationLearned",
    "image_classification_fourier": "PerceiverForImageClassificationFourier",
    "image_classification_conv": "PerceiverForImageClassificationConvProcessing",
    "optical_flow": "PerceiverForOpticalFlow",
    "multimodal_autoencoding": "PerceiverForMultimodalAutoencoding",
}
# One of the 128 parts in which the reference decodes a video: it encodes again for each of them.
PART = {"image": 6272, "audio": 15}


def inputs(task: str) -> Any:
    """What both read, as the kit takes it."""
    torch.manual_seed(0)
    if task in ("masked_lm", "sequence_classification"):
        return {"text": torch.randint(6, 262, (1, 2048))}
    if task == "optical_flow":
        return {"frames": torch.rand(1, 2, 3, 368, 496) * 2 - 1}
    if task == "multimodal_autoencoding":
        image, audio = torch.rand(1, 16, 3, 224, 224) * 2 - 1, torch.rand(1, 30720) * 2 - 1
        return {"image": image, "audio": audio, "label": torch.zeros(1, 700)}
    return {"image": torch.randn(1, 3, 224, 224)}


def kit_forward(task: str, directory: str) -> Any:
    """The kit's forward, ready to be called."""
    import perceiver_kit as kit

    model, x = kit.load(directory), inputs(task)
    at = {name: torch.arange(rows) for name, rows in PART.items()} | {"label": None}
    return lambda: model(x, at=at if task == "multimodal_autoencoding" else None)


def huggingface_forward(task: str, directory: str) -> Any:
    """The reference's forward, ready to be called."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    model = getattr(transformers, CLASSES[task]).from_pretrained(directory).eval()
    x = inputs(task)
    if task == "optical_flow":
        # It takes 3 × 3 neighbourhoods, made beforehand.
        frames = x["frames"]
        around = torch.nn.functional.unfold(frames.flatten(0, 1), 3, padding=1).view(1, 2, 3, 9, *frames.shape[-2:])
        neighbourhoods = around.transpose(2, 3).flatten(2, 3)
        return lambda: model(neighbourhoods)
    if task == "multimodal_autoencoding":
        at = {name: torch.arange(rows) for name, rows in PART.items()} | {"label": None}
        x["audio"] = x["audio"][..., None]
        return lambda: model(x, subsampled_output_points=at)
    return lambda: model(next(iter(x.values())))


def measure(who: str, task: str, directory: str, repeats: int) -> dict[str, float]:
    """Median seconds of a forward, and MiB of peak memory above what the loaded model takes."""
    forward = (kit_forward if who == "kit" else huggingface_forward)(task, directory)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    loaded = memory("VmRSS")
    times = []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            start = time.perf_counter()
            forward()
            times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times[1:]), "mebibytes": memory("VmHWM") - loaded}


def memory(field: str) -> float:
    """MiB of this process, now (VmRSS) or at most (VmHWM), as Linux counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def compare(task: str, rounds: int, repeats: int) -> str:
    """One line of the table."""
    import perceiver_kit as kit

    results: dict[str, list[dict[str, float]]] = {"kit": [], "huggingface": []}
    with tempfile.TemporaryDirectory() as directory:
        kit.to_huggingface(kit.build(task), directory)
        for _ in range(rounds):
            for who, found in results.items():
                command = [sys.executable, __file__, "--measure", who, task, directory, str(repeats)]
                output = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ).stdout
                found.append(json.loads(output.splitlines()[-1]))
    pairs = zip(results["kit"], results["huggingface"], strict=True)
    ratios = sorted(theirs["seconds"] / ours["seconds"] for ours, theirs in pairs)
    columns = [f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"]
    for key, form in (("seconds", "{:.2f}"), ("mebibytes", "{:.0f}")):
        columns += [form.format(statistics.median(each[key] for each in results[who])) for who in results]
    name = f"`{task}`" + (", one of 128 parts" if task == "multimodal_autoencoding" else "")
    return f"| {name} | {' | '.join(columns)} |"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        who, task, directory, repeats = arguments.measure
        print(json.dumps(measure(who, task, directory, int(repeats))))
        return
    tasks = os.environ.get("TASKS", "").split() or [*CLASSES]
    rounds = int(os.environ.get("ROUNDS", "3"))
    lines = [
        "# Speed and memory",
        "",
        f"Forward in float32, batch 1, published sizes, the same weights, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, Python {platform.python_version()}; medians of {rounds} rounds.",
        "Peak memory is above what the loaded model takes. `make bench` makes this page again.",
        "",
        "| recipe | times faster than Hugging Face (range) | seconds | theirs | MiB | theirs |",
        "|---|---|---|---|---|---|",
    ]
    for task in tasks:
        print(f"measuring {task}", file=sys.stderr, flush=True)
        lines.append(compare(task, rounds, repeats=2 if task in ("optical_flow", "multimodal_autoencoding") else 3))
        print(lines[-1], flush=True)
    if not os.environ.get("TASKS"):
        PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
