"""`make fuzz`: models drawn, tens of thousands of bad inputs, and hundreds of faults, counted in docs/robustness.md.

Runs tests/models, tests/fuzz and tests/faults with many more cases than `make test` has; `CASES=500` says how many for
each test of bad input; of models there are a tenth of that for each property, of faults a twentieth for each kind.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "robustness.md"


def page(models: dict[str, int], fuzzed: dict[str, int], faults: dict[str, int], minutes: float) -> str:
    """The text of docs/robustness.md."""
    versions = f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}."
    return "\n".join(
        [
            "# Robustness",
            "",
            *models_drawn(models),
            *bad_input(fuzzed),
            *faults_injected(faults),
            f"`make fuzz` makes this page again ({minutes:.0f} minutes on one thread); a case depends on its number",
            "alone, so one that fails can be run again; but when a kill comes, the machine has a part in.",
            "Plugins, and runs that are killed and resumed, have tests of their own (`tests/test_plugins.py`,",
            f"`tests/training/test_resume.py`). {versions}",
            "",
        ]
    )


def table(head: str, counts: dict[str, int]) -> list[str]:
    """Counts by name, and all of them."""
    lines = [f"| {name.partition(': ')[2].replace('_', ' ')} | {count:,} |" for name, count in counts.items()]
    return [f"| {head} | cases |", "|---|---|", *lines, f"| **all** | **{sum(counts.values()):,}** |", ""]


def models_drawn(counts: dict[str, int]) -> list[str]:
    """The section about tests/models."""
    return [
        "## Models drawn",
        "",
        "Models are drawn from the blocks that are registered: one to three inputs and outputs under any names, any",
        "blocks, positions, sizes, dropout and hiding, blocks that are shared. Each property below was held of as many",
        "models as the table says; a model that it does not apply to is not counted. The same number draws the same",
        "models.",
        "",
        *table("property", counts),
    ]


def bad_input(counts: dict[str, int]) -> list[str]:
    """The section about tests/fuzz."""
    return [
        "## Bad input",
        "",
        "Bad input ends in one of the kit's [documented errors](errors.md), never in another exception, within 20",
        "seconds and 2 GiB. This is tried with files that are cut, flipped, moved and made up, specs with anything",
        "anywhere, and calls that are wrong. Every case below ended in a result or in such an error.",
        "",
        *table("what was fuzzed", counts),
    ]


def faults_injected(counts: dict[str, int]) -> list[str]:
    """The section about tests/faults."""
    return [
        "## Faults injected",
        "",
        "Calls that the system refuses, disks that fill up, folders that are read-only, kills at any moment, processes",
        "that save to one folder together, data workers that die, samples that cannot be had. After each of these the",
        "last good model or checkpoint loaded, its content one of the saved states to the last bit, and went on; what",
        "was raised was one of the kit's errors.",
        "",
        *table("fault", counts),
    ]


def count(folder: str, cases: int, *, number: str, counts: str) -> dict[str, int]:
    """Run the tests of a folder with so many cases each; how many there were, by test."""
    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "counts.json"
        environment = os.environ | {number: str(cases), counts: str(written)}
        if subprocess.run([sys.executable, "-m", "pytest", folder, "-q"], cwd=ROOT, env=environment).returncode:
            raise SystemExit("a case failed: its number is in the traceback; docs/robustness.md is as it was")
        return json.loads(written.read_text())["cases"]


def main() -> None:
    """Run, and write the page where everything passed."""
    start, cases = time.monotonic(), int(os.environ.get("CASES", "1000"))
    models = count("tests/models", max(1, cases // 10), number="MODELS", counts="MODELS_COUNTS")
    fuzzed = count("tests/fuzz", cases, number="FUZZ", counts="FUZZ_COUNTS")
    faults = count("tests/faults", max(1, cases // 20), number="FAULTS", counts="FAULT_COUNTS")
    PAGE.write_text(page(models, fuzzed, faults, (time.monotonic() - start) / 60), encoding="utf-8")
    drawn, bad, injected = (sum(counts.values()) for counts in (models, fuzzed, faults))
    print(f"wrote {PAGE}: {drawn:,} models drawn, {bad:,} cases of bad input, {injected:,} faults")


if __name__ == "__main__":
    main()
