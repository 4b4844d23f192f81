"""`make coverage`: the whole suite with lines and branches counted, subprocesses included.

It fails when a test does, or below `fail_under` of pyproject.toml; nothing is written then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from qa.report import ROOT, write

MINUTES = 60


def summary(counts: dict[str, int]) -> str:
    """Lines and branches run, of all. The share is rounded down, so that only all of them are 100 %."""
    done = counts["covered_lines"] + counts["covered_branches"]
    share = int(1000 * done / max(1, counts["num_statements"] + counts["num_branches"])) / 10
    return f"{share:g} % of {counts['num_statements']:,} lines and {counts['num_branches']:,} branches"


def details(files: dict[str, Any]) -> list[str]:
    """A table of the modules that were not run whole, with the lines and branches that were missed."""
    rows = ["| module | missed |", "|---|---|"]
    for path, file in files.items():
        branches = [f"{start} → {end if end > 0 else 'exit'}" for start, end in file["missing_branches"]]
        if missed := [*map(str, file["missing_lines"]), *branches]:
            rows.append(f"| `{path}` | {', '.join(missed)} |")
    return rows


def main() -> None:
    """Run the suite; write the counts when it passes."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "pytest", *sys.argv[1:], "--cov", f"--cov-report=json:{report}"]
        environment = os.environ | {"COVERAGE_FILE": str(Path(folder) / "coverage")}
        if subprocess.run(command, cwd=ROOT, env=environment, timeout=60 * MINUTES, check=False).returncode:
            raise SystemExit("a test failed, or coverage is too low. Nothing was written.")
        measured = json.loads(report.read_text())
    write("coverage", summary(measured["totals"]), details(measured["files"]))


if __name__ == "__main__":
    main()
