"""`make mutations`: put errors into the core files and count those that a test notices.

The operators are cosmic-ray's (installed in .venv-qa, on the path of this script only). SAMPLE places are drawn with a
seed, each with one operator. Every job has a copy of the repository; there the examples in the mutated file run first,
then the tests named after it, then COMMON, up to the first failure, in a fork of a process that has imported torch.
A failure, a broken import or CPU_SECONDS kill the mutant. Results stay in results/mutants/, by commit: an interrupted
run goes on.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import shutil
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple

from qa.report import ROOT, write
from tests import fresh

CORE = "attention attention_backends block declarations decoding folding layers masks modalities model padding"
CORE += " positions registry request specs tiled_attention tiling tokens"
CORE += " encoders/* decoders/* inputs/* queries/* outputs/* objectives/*"
COMMON = ["tests/models/test_made.py", "tests/models/test_rows.py"]
SLOW = "multimodal_autoencoding"  # its cases take half the time; drawn models have the same blocks
SAMPLE, SEED, MINUTES, CPU_SECONDS = 300, 0, 60, 90
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
    if missing := [name for name in CORE.split() if "*" not in name and f"{name}.py" not in {p.name for p in found}]:
        raise FileNotFoundError(f"CORE names files that are not there: {', '.join(missing)}")
    return sorted(str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py")


def matching_tests(file: str) -> list[str]:
    """The examples in a file, tests named after it or its folder, then COMMON."""
    path = Path(file).relative_to("perceiver_kit")
    folder, tests = path.parent.name, ROOT / "tests"
    named = [*tests.glob(f"{folder or '.'}/test_{path.stem}*.py")]
    named += tests.glob(f"test_{folder.rstrip('s') or path.stem.partition('_')[0]}*.py")
    return list(dict.fromkeys([file, *(str(path.relative_to(ROOT)) for path in sorted(named)), *COMMON]))


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


def passes(copy: Path, tests: list[str], job: int, seconds: int) -> tuple[bool, str]:
    """Whether the tests pass in a copy within so many CPU seconds, and what pytest printed."""
    environment = dict(HYPOTHESIS_PROFILE="first", MODELS="3", PYTHONDONTWRITEBYTECODE="1")
    arguments = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore:Module already imported",
        "-o",
        "addopts=",
        "-k",
        f"not {SLOW}",
    ]
    arguments += ["--doctest-modules", "--import-mode=importlib", *tests]
    code = f"""
        import os, resource, signal, sys
        import pytest
        import perceiver_kit.public  # all modules: one that pytest imports again would register its blocks twice
        os.environ |= {environment}
        resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
        signal.alarm({20 * seconds})  # a test that waits takes no CPU time
        sys.exit(pytest.main({arguments}))
    """
    status, out, errors = fresh.run(code, cwd=copy, path=[copy], server=job)
    if status in (4, 5):  # pytest's usage errors, and no tests found
        raise RuntimeError((out + errors)[-2000:])
    return status == 0, out + errors


def survives(mutant: Mutant, copy: Path, job: int) -> bool:
    """Whether no test fails for a mutant."""
    from cosmic_ray.mutating import use_mutation
    from cosmic_ray.plugins import get_operator

    with use_mutation(copy / mutant.file, get_operator(f"core/{mutant.operator}")(), mutant.occurrence):
        survived, _ = passes(copy, matching_tests(mutant.file), job, CPU_SECONDS)
    print("survived" if survived else "killed", f"{mutant.file}:{mutant.line}", mutant.operator, flush=True)
    return survived


def drawn(sample: int) -> tuple[list[Mutant], int]:
    """The mutants of a sample, and the number of places in all."""
    dice, everywhere = random.Random(SEED), [place for file in core_files() for place in places(file)]
    return [dice.choice(place) for place in dice.sample(everywhere, min(sample, len(everywhere)))], len(everywhere)


def main() -> None:
    """Run the tests without a mutant, then with each; write the score and the survivors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, default=SAMPLE)
    options = parser.parse_args()
    mutants, everywhere = drawn(options.sample)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    record = ROOT / "results" / "mutants" / f"{commit.strip() or 'no-commit'}.jsonl"
    record.parent.mkdir(parents=True, exist_ok=True)
    lines = record.read_text().splitlines() if record.exists() else []
    known = {Mutant(*mutant): survived for mutant, survived in map(json.loads, lines)}
    until, waiting = time.monotonic() + 60 * MINUTES, SimpleQueue()
    for mutant in mutants:
        if mutant not in known:
            waiting.put(mutant)

    def work(job: int) -> None:
        copy = Path(scratch) / str(job)
        for name in COPIED:
            source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=ignored)
            else:
                shutil.copy(source, copy / name)
        tests = dict.fromkeys(test for mutant in mutants[job :: options.jobs] for test in matching_tests(mutant.file))
        if not lines and not (passed := passes(copy, [*tests], job, 20 * CPU_SECONDS))[0]:
            raise SystemExit(f"the tests fail without a mutant\n{passed[1][-4000:]}")
        while time.monotonic() < until:
            try:
                mutant = waiting.get_nowait()
            except Empty:
                return
            known[mutant] = survives(mutant, copy, job)
            with record.open("a") as file:
                file.write(json.dumps([mutant, known[mutant]]) + "\n")

    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        [*pool.map(work, range(options.jobs))]
    tried = [mutant for mutant in mutants if mutant in known]
    survivors = sorted(mutant for mutant in tried if known[mutant])
    if options.sample == SAMPLE:
        table = [f"| {mutant.file}:{mutant.line} | {mutant.operator} |" for mutant in survivors]
        score = f"{100 * (1 - len(survivors) / len(tried)):.0f} % of {len(tried)} of {everywhere:,} places"
        write("mutants", score, ["| survivor | operator |", "|---|---|", *table])
    print(f"{len(tried) - len(survivors)} of {len(tried)} mutants killed")


if __name__ == "__main__":
    main()
