"""`make fuzz`: tens of thousands of cases of bad input, counted in docs/robustness.md.

Runs tests/fuzz with many more cases than `make test` has; `CASES=500` says how many for each test.
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


def page(cases: dict[str, int], minutes: float) -> str:
    """The table of docs/robustness.md."""
    lines = [f"| {name.partition(': ')[2].replace('_', ' ')} | {count:,} |" for name, count in cases.items()]
    return "\n".join(
        [
            "# Robustness",
            "",
            "Bad input ends in one of the kit's documented errors, never in another exception, within 20 seconds and",
            "2 GiB. This is tried with files that are cut, flipped, moved and made up, specs with anything anywhere,",
            "and calls that are wrong. Every case below ended in a result or in such an error.",
            "",
            "| what was fuzzed | cases |",
            "|---|---|",
            *lines,
            f"| **all** | **{sum(cases.values()):,}** |",
            "",
            f"`make fuzz` makes this page again ({minutes:.0f} minutes on one thread); a case depends on its number",
            "alone, so one that fails can be run again. Plugins, kills during a save and full disks have tests",
            "of their own (`tests/test_plugins.py`, `tests/hub/test_checkpoint.py`, `tests/training/test_resume.py`).",
            f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}.",
            "",
        ]
    )


def main() -> None:
    """Run, and write the page where everything passed."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts.json"
        environment = os.environ | {"FUZZ": os.environ.get("CASES", "1000"), "FUZZ_COUNTS": str(counts)}
        command = [sys.executable, "-m", "pytest", "tests/fuzz", "-q"]
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            raise SystemExit("a case failed: its number is in the traceback; docs/robustness.md is as it was")
        cases = json.loads(counts.read_text())["cases"]
    PAGE.write_text(page(cases, (time.monotonic() - start) / 60), encoding="utf-8")
    print(f"wrote {PAGE}: {sum(cases.values()):,} cases")


if __name__ == "__main__":
    main()
