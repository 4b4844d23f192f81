"""The tutorials, run: every cell of every notebook must pass. A part of `make test`.

    python -m qa.tutorials tutorials/05*.ipynb    # these alone
    python -m qa.tutorials --seeds 3              # `make seeds`: each with three other seeds

Cells assert what must hold; outputs may differ from the committed ones, since machines round differently. `--seeds`
adds a number to every seed that torch is given: training amplifies a rounding, and a claim that holds by a hair for one
seed fails on another machine.

A notebook runs in IPython's shell, in a process of its own that is forked from one which has imported what notebooks
import. Importing it in each would take a third of the time.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from qa.report import ROOT, write

JOBS = 2
LIMIT = 300  # seconds of a notebook
PASSED = 64  # a cell that ends the process gives another exit status
IMPORTS = (
    "IPython.core.interactiveshell", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "pandas", "PIL.Image",
    "sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.pipeline", "sklearn.preprocessing",
    "torch._dynamo", "torch.utils.tensorboard", "torchmetrics", "perceiver_kit.public", "perceiver_kit.training",
)  # fmt: skip


def passes(notebook: Path, added: int) -> bool:
    """Whether every cell runs, with a number added to each seed. For a process that ends thereafter."""
    import torch
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    seeded = torch.manual_seed
    torch.manual_seed = torch.random.manual_seed = lambda seed: seeded(int(seed) + added)
    torch.manual_seed(0 if added else torch.initial_seed())
    os.chdir(notebook.parent)
    signal.alarm(LIMIT)

    class Shell(InteractiveShell):
        def enable_gui(self, gui: str | None = None) -> None:
            """Do nothing: figures are drawn inline."""

    settings = Config(HistoryManager=dict(enabled=False), InteractiveShell=dict(colors="nocolor"))
    shell = Shell.instance(config=settings)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    codes = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return all(shell.run_cell(code, store_history=True).success for code in codes)


def start(notebook: Path, added: int, log: Path) -> int:
    """The process id of a notebook that runs and writes what it prints to ``log``."""
    sys.stdout.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = PASSED if passes(notebook, added) else 1
        sys.stdout.flush()
    finally:
        os._exit(status)


def run(cases: list[tuple[Path, int]]) -> list[str]:
    """Run notebooks, two at a time, the last pages first: they train the longest. Returns those that failed."""
    waiting, running, failed, total = sorted(cases), {}, [], 0.0
    with tempfile.TemporaryDirectory() as scratch:
        while waiting or running:
            while waiting and len(running) < JOBS:
                notebook, added = waiting.pop()
                name = f"{notebook.stem} +{added}" if added else notebook.stem
                log = Path(scratch) / str(len(waiting))
                running[start(notebook, added, log)] = name, log
            pid, status, usage = os.wait4(-1, 0)
            name, log = running.pop(pid)
            passed = os.waitstatus_to_exitcode(status) == PASSED
            seconds = usage.ru_utime + usage.ru_stime
            total += seconds
            print(f"{name:36}{'passed' if passed else 'failed'}{seconds:6.0f} s of a processor", flush=True)
            if not passed:
                failed.append(name)
                print(log.read_text(encoding="utf-8", errors="replace"), flush=True)
    print(f"{len(cases)} notebooks, {len(failed)} failed, {total / 60:.1f} processor minutes")
    return failed


def main() -> None:
    """Run the tutorials; with other seeds, write the count when all are run and all pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="all without")
    parser.add_argument("--seeds", type=int, default=0, help="numbers to add to each seed, from 1")
    options = parser.parse_args()
    notebooks = [path.resolve() for path in options.notebooks] or sorted((ROOT / "tutorials").glob("*.ipynb"))
    for package in IMPORTS:
        importlib.import_module(package)
    gc.collect()
    gc.freeze()  # what the processes share is not copied
    seeds = range(1, 1 + options.seeds) if options.seeds else [0]
    if failed := run([(notebook, seed) for notebook in notebooks for seed in seeds]):
        raise SystemExit(f"failed: {', '.join(failed)}")
    if options.seeds and not options.notebooks:
        write("other seeds", f"{len(notebooks)} tutorials × {len(seeds)}", [notebook.stem for notebook in notebooks])


if __name__ == "__main__":
    main()
