"""`make seeds`: every tutorial with other random numbers, since what a tutorial asserts must not depend on one seed.

Machines round differently, and training amplifies a rounding: a claim that holds by a hair for one seed fails on
another machine. Each run adds a number to every seed that torch is given.

    python -m qa.seeds tutorials/05*.ipynb    # these alone; nothing is written

`SEEDS=3` is the number of runs of each tutorial.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from qa.report import ROOT, write

JOBS = 2
# A kernel runs the startup files of its profile before the first cell.
STARTUP = """
import torch
seeded = torch.manual_seed
torch.manual_seed = torch.random.manual_seed = lambda seed: seeded(int(seed) + {added})
torch.manual_seed({added})
"""
NBVAL = ["-q", "-o", "addopts=", "-o", "filterwarnings=", "--nbval-lax", "--nbval-current-env", "--color=no"]


def passes(notebook: Path, added: int, profiles: Path) -> bool:
    """Whether every cell of the notebook runs with `added` to each seed; what failed is printed."""
    startup = profiles / str(added) / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "seeds.py").write_text(STARTUP.format(added=added), encoding="utf-8")
    environment = os.environ | {"IPYTHONDIR": str(profiles / str(added)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *NBVAL, str(notebook)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(notebook.stem, f"+{added}", "passed" if ran.returncode == 0 else f"failed\n{ran.stdout}", flush=True)
    return ran.returncode == 0


def main() -> None:
    """Run the tutorials, two at a time, and write the count when all are run and all pass."""
    notebooks = [Path(name).resolve() for name in sys.argv[1:]] or sorted((ROOT / "tutorials").glob("*.ipynb"))
    seeds = range(1, 1 + int(os.environ.get("SEEDS", "3")))
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(JOBS) as pool:
        run = partial(passes, profiles=Path(scratch))
        cases = [(notebook, seed) for seed in seeds for notebook in notebooks]
        failed = [
            case for case, passed in zip(cases, pool.map(lambda case: run(*case), cases), strict=True) if not passed
        ]
    for notebook, seed in failed:
        print(f"{notebook.stem} fails with {seed} added to its seeds")
    if failed:
        raise SystemExit(f"{len(failed)} of {len(cases)} runs failed. Nothing was written.")
    if not sys.argv[1:]:
        write("other seeds", f"{len(notebooks)} tutorials × {len(seeds)}", [notebook.stem for notebook in notebooks])


if __name__ == "__main__":
    main()
