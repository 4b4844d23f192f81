"""`make results`: train on real data for about five minutes a run, beside a baseline, and write docs/results.md.

Each run and seed is a process of its own with a fixed number of steps. `results/` holds finished runs, which are
skipped, and interrupted ones, which are resumed. `RUNS="flow clip"` picks some. docs/results.json keeps the rows of
all runs, earlier ones included; `RUNS=--page` only rewrites the page from it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import warnings
from pathlib import Path

import torch

from .rows import RUNS
from .training import RESULTS, ROOT, Row

PAGE, ROWS = ROOT / "docs" / "results.md", ROOT / "docs" / "results.json"

INTRODUCTION = """\
# Results

What the presets `tiny` and, where a row says so, `quick` learn from real data in a few minutes on a CPU, measured on
held-out data beside baselines.
`make results` trains them with the seeds, steps and batches below, and writes this page. Accuracy and PSNR (dB): higher
is better. Nats and pixels: lower is better. Bold: our model; of several seeds the mean and, after ±, the standard
deviation. In brackets: the 95 % interval that the size of the held-out set allows, for shares of samples. Minutes are
wall-clock minutes of training and evaluation, with the number of threads in brackets, on a machine shared with other
work; processor minutes, where measured, are summed over threads. Byte counts (unigram, bigram, neighbours) see the true
bytes beside a hidden one; the model sees them only where they are not hidden too.

| task | metric | ours | baselines | seeds | steps × batch | minutes (threads) | processor minutes |
|---|---|---|---|---|---|---|---|
"""


def merged(earlier: list[Row], new: list[Row]) -> list[Row]:
    """All rows in the order of RUNS; the new rows of a run and seed replace the earlier ones."""
    rerun = {(entry["run"], entry["seed"]) for entry in new}
    rows = [row for row in earlier if row["run"] in RUNS and (row["run"], row["seed"]) not in rerun] + new
    # A stable sort: the rows of a run keep the order of its function.
    return sorted(rows, key=lambda entry: ([*RUNS].index(entry["run"]), entry["seed"]))


def page(rows: list[Row]) -> str:
    """The text of docs/results.md: one line for all seeds of a task."""
    lines: dict[tuple[str, str, str], list[Row]] = {}
    for entry in rows:
        lines.setdefault((entry["run"], entry["task"], entry["metric"]), []).append(entry)
    return INTRODUCTION + "\n".join(_line(seeds) for seeds in lines.values()) + "\n"


def _line(seeds: list[Row]) -> str:
    first, several = seeds[0], len(seeds) > 1
    ours = [entry["ours"] for entry in seeds]
    mean = statistics.mean(ours)
    shown = f"**{mean:.3f}**" + (f" ± {statistics.stdev(ours):.3f}" if several else "")
    if "samples" in first:
        shown += f" [{', '.join(f'{bound:.3f}' for bound in wilson(mean, first['samples']))}]"
    baselines = ", ".join(
        f"{name} {statistics.mean(entry['baselines'][name] for entry in seeds):.3f}" for name in first["baselines"]
    )
    minutes = statistics.mean(entry["seconds"] for entry in seeds) / 60
    used = [entry["processor_seconds"] for entry in seeds if "processor_seconds" in entry]
    processor = f"{statistics.mean(used) / 60:.1f}" if used else "–"
    return (
        f"| {first['task']} | {first['metric']} | {shown} | {baselines} | {len(seeds)} "
        f"| {first['steps']} × {first['batch']} | {minutes:.1f} ({first['threads']}) | {processor} |"
    )


def wilson(share: float, samples: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson interval of a share of so many samples.

    >>> tuple(round(bound, 3) for bound in wilson(0.9, 1000))
    (0.88, 0.917)
    """
    centre, scale = share + z * z / (2 * samples), 1 + z * z / samples
    half = z * math.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return (centre - half) / scale, (centre + half) / scale


def run(name: str, seed: int) -> None:
    """One run in this process; its rows go to a file of ``results/``."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(seed)
    rows = [{"run": name, "seed": seed} | row for row in RUNS[name].rows(seed)]
    saved(name, seed).write_text(json.dumps(rows, indent=1))


def saved(name: str, seed: int) -> Path:
    return RESULTS / f"{name}_{seed}.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", help=f"some of: {', '.join(RUNS)}")
    parser.add_argument("--page", action="store_true", help="run nothing, only rewrite the page")
    parser.add_argument("--seeds", type=int, nargs="*", help="only these seeds")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if unknown := {*arguments.runs} - RUNS.keys():
        parser.error(f"no run {', '.join(unknown)}; there are: {', '.join(RUNS)}")
    if arguments.only:
        name, _, seed = arguments.only.partition(":")
        run(name, int(seed))
        return
    RESULTS.mkdir(exist_ok=True)
    for name in () if arguments.page else arguments.runs or RUNS:
        for seed in RUNS[name].seeds if arguments.seeds is None else arguments.seeds:
            if not saved(name, seed).exists():
                print(f"\n{name}, seed {seed}", flush=True)
                command = [sys.executable, "-m", "benchmarks.results", "--only", f"{name}:{seed}"]
                subprocess.run(command, check=True, cwd=ROOT)
    finished = [saved(name, seed) for name in RUNS for seed in RUNS[name].seeds]
    new = [row for file in finished if file.exists() for row in json.loads(file.read_text())]
    rows = merged(json.loads(ROWS.read_text()), new)
    ROWS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
