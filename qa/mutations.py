"""`make mutations`: put errors into the core files and count those that a test notices.

The operators are cosmic-ray's (installed in .venv-qa, on the path of this script only). SAMPLE places are drawn with a
seed, each with one operator. Every job has a copy of the repository; there the tests named after the mutated file run
first, then COMMON and the examples in the file. A failure, a broken import or a timeout kills the mutant.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from qa.report import ROOT, write

CORE = (
    "attention attention_backends block decoding folding modalities model padding positions recipe registry spec tokens"
)
CORE += " encoders/* decoders/* inputs/* queries/* outputs/* objectives/*"
COMMON = ["tests/models/test_made.py", "tests/models/test_rows.py"]
SLOW = "multimodal_autoencoding"  # its cases take half the time; drawn models have the same blocks
SAMPLE, SEED, MINUTES = 300, 0, 60
COPIED = ["perceiver_kit", "tests", "conftest.py", "pyproject.toml"]


class Mutant(NamedTuple):
    """One operator at one place; ``occurrence`` counts the places where it applies in the file."""

    file: str
    line: int
    operator: str
    occurrence: int


def core_files() -> list[str]:
    """The files to mutate, relative to the root."""
    found = [path for pattern in CORE.split() for path in (ROOT / "perceiver_kit").glob(f"{pattern}.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py")


def matching_tests(file: str) -> list[str]:
    """Tests named after a file or its folder, COMMON, then the file's examples (it cannot be imported first)."""
    path = Path(file).relative_to("perceiver_kit")
    folder, tests = path.parent.name, ROOT / "tests"
    named = [*tests.glob(f"{folder or '.'}/test_{path.stem}*.py")]
    named += tests.glob(f"test_{folder.rstrip('s') or path.stem.partition('_')[0]}*.py")
    return list(dict.fromkeys([*(str(path.relative_to(ROOT)) for path in sorted(named)), *COMMON, file]))


def annotations(text: str) -> list[range]:
    """Offsets (1000 · line + column) of annotations, which never run."""
    parts = [
        part
        for node in ast.walk(ast.parse(text))
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if part is not None
    ]
    return [range(1000 * p.lineno + p.col_offset, 1000 * p.end_lineno + p.end_col_offset) for p in parts]


def places(file: str) -> Iterator[list[Mutant]]:
    """The mutants of a file, place by place."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = (ROOT / file).read_text(encoding="utf-8")
    tree, skipped, found = get_ast(text), annotations(text), defaultdict(list)
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        starts = [start for node in ast_nodes(tree) for start, _ in operator().mutation_positions(node)]
        for occurrence, (line, column) in enumerate(starts):
            if not any(1000 * line + column in part for part in skipped):
                found[line, column].append(Mutant(file, line, name.removeprefix("core/"), occurrence))
    yield from (found[place] for place in sorted(found))


def passes(copy: Path, tests: list[str], timeout: float | None) -> bool:
    """Whether the tests pass in a copy; the whole process group is killed after the timeout."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=",
        "-k",
        f"not {SLOW}",
    ]
    command += ["--doctest-modules", "--import-mode=importlib", *tests]
    environment = os.environ | dict(
        PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1", OMP_NUM_THREADS="1", HYPOTHESIS_PROFILE="first", MODELS="3"
    )
    with subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return False
    if process.returncode in (4, 5):  # pytest's usage errors, and no tests found
        raise RuntimeError(output.decode()[-2000:])
    if timeout is None and process.returncode:
        print(output.decode()[-4000:])
    return process.returncode == 0


def survives(mutant: Mutant, copies: SimpleQueue[Path], until: float, timeout: float) -> bool | None:
    """Whether no test fails for a mutant; None when the time is over."""
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator

    if time.monotonic() > until:
        return None
    copy = copies.get()
    try:
        with use_mutation(copy / mutant.file, get_operator(f"core/{mutant.operator}")(), mutant.occurrence):
            survived = passes(copy, matching_tests(mutant.file), timeout)
    finally:
        copies.put(copy)
    print("survived" if survived else "killed", f"{mutant.file}:{mutant.line}", mutant.operator, flush=True)
    return survived


def main() -> None:
    """Run the tests without a mutant, then with each; write the score and the survivors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, default=SAMPLE)
    options = parser.parse_args()
    start, dice = time.monotonic(), random.Random(SEED)
    everywhere = [place for file in core_files() for place in places(file)]
    mutants = [dice.choice(place) for place in dice.sample(everywhere, min(options.sample, len(everywhere)))]
    copies: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        for job in range(options.jobs):
            copy = Path(scratch) / str(job)
            for name in COPIED:
                source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
                if source.is_dir():
                    shutil.copytree(source, copy / name, ignore=ignored)
                else:
                    shutil.copy(source, copy / name)
            copies.put(copy)
        tests = dict.fromkeys(test for mutant in mutants for test in matching_tests(mutant.file))
        if not passes(copy, [*tests], None):
            raise SystemExit("the tests fail without a mutant")
        timeout = 2 * (time.monotonic() - start)  # one core for all of them; a mutant gets some of them
        print(f"without a mutant the tests pass ({timeout / 2:.0f} s)", flush=True)
        until = start + 60 * MINUTES
        results = [*pool.map(lambda mutant: survives(mutant, copies, until, timeout), mutants)]
    tried = [(mutant, result) for mutant, result in zip(mutants, results, strict=True) if result is not None]
    survivors = sorted(mutant for mutant, survived in tried if survived)
    minutes = (time.monotonic() - start) / 60
    if options.sample == SAMPLE:
        table = [f"| {mutant.file}:{mutant.line} | {mutant.operator} |" for mutant in survivors]
        score = f"{100 * (1 - len(survivors) / len(tried)):.0f} % of {len(tried)} of {len(everywhere):,} places"
        write("mutants", score, [f"{minutes:.0f} minutes.", "", "| survivor | operator |", "|---|---|", *table])
    print(f"{len(tried) - len(survivors)} of {len(tried)} mutants killed in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
