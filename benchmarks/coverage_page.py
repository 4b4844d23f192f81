"""`make coverage`: the whole suite with lines and branches counted, and the tables of docs/coverage.md.

Fails where a test does, or where less is run than `fail_under` in pyproject.toml asks for; the page is then left alone.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "coverage.md"
COUNTS = ("covered_lines", "num_statements", "covered_branches", "num_branches")


def share(counts: dict[str, int]) -> str:
    """Lines and branches that were run, of all, in percent: rounded down, so that only all is 100."""
    done = counts["covered_lines"] + counts["covered_branches"]
    return f"{int(1000 * done / max(1, counts['num_statements'] + counts['num_branches'])) / 10:g} %"


def row(name: str, counts: dict[str, int]) -> str:
    """A line of the table of parts."""
    lines = f"{counts['covered_lines']:,} of {counts['num_statements']:,}"
    branches = f"{counts['covered_branches']:,} of {counts['num_branches']:,}"
    return f"| {name} | {lines} | {branches} | {share(counts)} |"


def parts(files: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The counts of each folder of the package, the modules that lie beside the folders first."""
    found: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(COUNTS, 0))
    for path in sorted(files, key=lambda path: (path.count("/"), path)):
        part = f"`{'/'.join(path.split('/')[:-1])}/`"
        for count in COUNTS:
            found[part][count] += files[path]["summary"][count]
    return found


def missed(file: dict[str, Any]) -> str:
    """What of a module was not run: lines, and branches from line to line."""
    branches = [f"{start} → {end if end > 0 else 'exit'}" for start, end in file["missing_branches"]]
    return ", ".join([*map(str, file["missing_lines"]), *branches])


def page(measured: dict[str, Any], *, minutes: float, date: str) -> str:
    """docs/coverage.md of what coverage reports as JSON."""
    files = measured["files"]
    short = {path: file for path, file in files.items() if missed(file)}
    rest = ["Every module is run whole."]
    if short:
        rest = ["| not run whole | covered | lines and branches that were not run |", "|---|---|---|"]
        rest += [f"| `{path}` | {share(file['summary'])} | {missed(file)} |" for path, file in short.items()]
    versions = f"Python {platform.python_version()}, torch {version('torch').partition('+')[0]}"
    return "\n".join(
        [
            "# Coverage",
            "",
            f"The tests and the examples in docstrings run {share(measured['totals'])} of the package's lines and",
            "branches, those in processes that tests start included. Left out are blocks for the type checker alone,",
            "overloads and abstract methods. That a line is run does not say that a test notices when it is wrong.",
            "",
            "| part | lines | branches | covered |",
            "|---|---|---|---|",
            *(row(part, counts) for part, counts in parts(files).items()),
            row("**all**", measured["totals"]),
            "",
            *rest,
            "",
            f"`make coverage` makes this page again, and fails below 95 % ({minutes:.0f} minutes on {date};",
            f"{versions}, coverage {version('coverage')}).",
            "",
        ]
    )


def main() -> None:
    """Run the suite, and write the page where everything passed."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "pytest", "--cov", f"--cov-report=json:{report}", "--cov-report=term"]
        environment = os.environ | {"COVERAGE_FILE": str(Path(folder) / "coverage")}
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            raise SystemExit("a test failed, or too little was run: docs/coverage.md is as it was")
        measured = json.loads(report.read_text())
    minutes, date = (time.monotonic() - start) / 60, datetime.date.today().isoformat()
    PAGE.write_text(page(measured, minutes=minutes, date=date), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
