"""`make bench`: the kit beside Hugging Face and perceiver-pytorch, on the same weights, inputs, threads and dtype.

Every measurement is a process of its own, and the sides take turns, so that drifts of the machine's speed affect both.
Finished measurements stay in `results/bench/`, by the CPU's instructions, so that an interrupted run can continue. Once
all exist, docs/benchmarks.md, docs/benchmarks.json and docs/assets/benchmarks.svg are written.

    make bench                            # all, about half an hour on two idle cores with AVX-512, 80 minutes without
    make bench TASKS="train length"       # tasks whose names contain one of these words
    make bench TASKS=flow AGAIN=1         # measure again what has been measured
    make bench QUICK=1                    # check that all tasks run: small sizes, writes nothing
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from . import figures, measure, page
from .models import parameters
from .tasks import HUGGING_FACE, KIT, Task, all_tasks, chosen, quick

ROOT = Path(__file__).resolve().parent.parent
# What one CPU measured is not mixed with another kind's.
RESULTS = ROOT / "results" / "bench" / torch.backends.cpu.get_cpu_capability()
DOCS = ROOT / "docs"
# The allocator returns freed memory at once, so that a peak is memory in use. This slows calls down (Hugging Face's
# image models by a quarter), so these processes measure no time.
RETURN_MEMORY = dict(MALLOC_MMAP_THRESHOLD_="65536", MALLOC_TRIM_THRESHOLD_="65536")
# Largest relative difference between the sides' outputs.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}


def write_weights(recipe: str, directory: str, small: bool) -> None:
    """Save a model with noise on every parameter, which both sides load."""
    import perceiver_kit as kit

    torch.manual_seed(0)
    model = kit.build(recipe, **parameters(recipe, small))
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.02 * torch.randn_like(weights))
    kit.to_huggingface(model, directory)


def names(task: Task) -> list[str]:
    """Processes of each side: one for memory, FLOPs and outputs, then the rounds."""
    rounds = [str(number) for number in range(task.rounds)]
    return ["memory", *rounds] if task.memory or not rounds else rounds


def measured(task: Task, side: str, directory: str, *, small: bool, name: str) -> list[dict]:
    """The entries of one process."""
    memory = name == "memory"
    order = {
        "kind": task.kind,
        "recipe": task.recipe,
        "dtype": task.dtype,
        "points": task.points,
        "repeats": 1 if memory else task.repeats,
        # The first training step allocates the optimizer's state, which is measured.
        "warm": task.warm and not (memory and "train" in task.kind),
        "processor": task.processor,
        "side": side,
        "directory": directory,
        "count": name == names(task)[0],
        "small": small,
    }
    if small:  # forked, since imports take longer
        with get_context("fork").Pool(1) as pool:
            return pool.apply(measure.run, (order,))
    environment = dict(os.environ) | (RETURN_MEMORY if memory else {})
    command = [sys.executable, "-m", "benchmarks.measure", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit(f"{task.name} of {side} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(task: Task, results: Path, small: bool) -> None:
    """Measure the missing rounds of a task into ``results``."""
    jobs = [(side, name) for name in names(task) for side in task.sides]
    missing = [(side, name) for side, name in jobs if not (results / f"{side}-{name}.json").exists()]
    if not missing:
        return
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        if task.recipe:
            write_weights(task.recipe, directory, small)

        def one(job: tuple[str, str]) -> None:
            side, name = job
            entries = measured(task, side, directory, small=small, name=name)
            (results / f"{side}-{name}.json").write_text(json.dumps({"commit": commit(), "entries": entries}))
            summary = "  ".join(brief(entry, memory=name == names(task)[0]) for entry in entries)
            print(f"    {side:<20}{summary}", flush=True)

        # Both sides run at once only with --quick.
        with ThreadPoolExecutor(2 if small else 1) as workers:
            [*workers.map(one, missing)]


def brief(entry: dict[str, float], *, memory: bool) -> str:
    if "per_second" in entry:
        return f"{entry['per_second'] / 1e9:.0f} GFLOP/s"
    return f"{entry['seconds']:.3g} s" + (f" {entry['mebibytes']:.0f} MiB" if memory else "")


def gathered(task: Task, results: Path) -> dict[str, list[list[dict]]]:
    """Side → rounds → an entry for each point: the round's time with the memory and counts measured once."""
    found: dict[str, list[list[dict]]] = {}
    for side in task.sides:
        files = [results / f"{side}-{name}.json" for name in names(task)]
        if not all(file.exists() for file in files):
            found[side] = []
            continue
        entries = [json.loads(file.read_text())["entries"] for file in files]
        rounds = entries[-task.rounds :]  # --quick has no rounds: all entries
        found[side] = [
            [once | {key: timed[key] for key in ("seconds", "per_second") if key in timed} for once, timed in pairs]
            for pairs in (zip(entries[0], each, strict=True) for each in rounds)
        ]
    return found


def check_agreement(task: Task, found: dict[str, list[list[dict]]]) -> None:
    """Exit where outputs of the sides differ."""
    if task.kind != "forward":
        return
    for ours, theirs in zip(found[KIT][0], found[HUGGING_FACE][0], strict=True):
        a, b = ours["signature"], theirs["signature"]
        if not math.isclose(a, b, rel_tol=TOLERANCE[task.dtype]) or a == 0:
            raise SystemExit(f"{task.name}: outputs differ: root mean square {a} (kit), {b} (reference)")


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() or "unknown"


def cpu(word: str) -> str:
    """What Linux says of the first CPU under a word."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith(word)), ": unknown").split(":", 1)[1].strip()


def machine() -> dict[str, Any]:
    """The machine and the versions of libraries."""
    from importlib.metadata import version

    return {
        "cpu": cpu("model name"),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
        "transformers": version("transformers"),
        "perceiver-pytorch": version("perceiver-pytorch"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="parts of task names; default: all tasks")
    parser.add_argument("--quick", action="store_true", help="small sizes, write nothing")
    parser.add_argument("--again", action="store_true", help="repeat finished measurements")
    arguments = parser.parse_args()
    # Without instructions for it, a product in bfloat16 takes fifty times as long as in float32: minutes a call.
    flags = {*cpu("flags").split(), *cpu("Features").split()}
    bfloat16 = arguments.quick or not flags.isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))
    every = [quick(task) if arguments.quick else task for task in all_tasks(bfloat16)]
    if arguments.quick:
        torch.set_num_threads(1)  # threads do not survive a fork
        for package in ("perceiver_pytorch", "transformers.models.perceiver.modeling_perceiver"):
            import_module(package)
    try:
        tasks = chosen(arguments.tasks, every)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as scratch:
        results = Path(scratch) if arguments.quick else RESULTS
        if arguments.again:
            for task in tasks:
                shutil.rmtree(results / task.name, ignore_errors=True)
        for number, task in enumerate(tasks, 1):
            task_results = results / task.name
            print(f"[{number}/{len(tasks)}] {task.name}", flush=True)
            start = time.perf_counter()
            run(task, task_results, arguments.quick)
            check_agreement(task, gathered(task, task_results))
            print(f"    took {time.perf_counter() - start:.0f} s", flush=True)
        report(results, tasks, every, arguments.quick)


def merged(known: dict[str, Any], new: dict[str, Any], order: list[str]) -> dict[str, Any]:
    """The known figures with new ones in their places."""
    tasks = {entry["task"]: entry for part in (known, new) for entry in part["tasks"]}
    forwards = [entry for name, entry in tasks.items() if name.startswith("forward/")]
    return {
        "peak_flops_per_second": known["peak_flops_per_second"] | new["peak_flops_per_second"],
        "geometric_mean": figures.mean_ratio(forwards),
        "tasks": [tasks[name] for name in order if name in tasks],
        "machine": new["machine"],
        "commits": sorted({*known["commits"], *new["commits"]}),
    }


def report(results: Path, tasks: list[Task], every: list[Task], small: bool) -> None:
    """Print all figures; write the page if none is missing here and in docs/benchmarks.json of the same machine."""
    found = {task.name: gathered(task, results / task.name) for task in every}
    complete = [task for task in every if all(found[task.name][side] for side in task.sides)]
    data = figures.summary(complete, found) | {"machine": machine()}
    print("\n" + page.table([task for task in complete if task in tasks], data), flush=True)
    if small:
        return
    data["commits"] = sorted({json.loads(file.read_text())["commit"] for file in results.rglob("*.json")})
    known = json.loads((DOCS / "benchmarks.json").read_text())
    if known["machine"] == data["machine"]:  # what has not been measured again stays
        data = merged(known, data, [task.name for task in every])
    missing = {task.name for task in every if task.kind != "peak"} - {entry["task"] for entry in data["tasks"]}
    if missing:
        print(f"docs/benchmarks.md is not written: {', '.join(sorted(missing))} not measured yet")
        return
    page.write(DOCS, data)
    print("wrote docs/benchmarks.md, docs/benchmarks.json and docs/assets/benchmarks.svg")


if __name__ == "__main__":
    main()
