"""`make fuzz`: the properties, bad inputs and faults of `make test`, with many more cases.

`CASES=1000` is the number of bad inputs for each test; each property gets a tenth of it, each fault a twentieth.
A case is a function of its number, so a failure can be repeated; only the moment of a kill depends on the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from qa.report import ROOT, write

MINUTES = 60
# Folder of tests: its row in docs/quality.md, the variable that sets its number of cases, the divisor of CASES.
PARTS = {
    "models": ("properties of drawn models", "MODELS", 10),
    "fuzz": ("bad input", "FUZZ", 1),
    "faults": ("faults", "FAULTS", 20),
}


def main() -> None:
    """Run the three folders, and the properties on new blocks; write the counts when all pass."""
    cases = int(os.environ.get("CASES", "1000"))
    numbers = {variable: str(max(1, cases // divisor)) for _, variable, divisor in PARTS.values()}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "counts.json"
        command = [sys.executable, "-m", "pytest", "-q", *(f"tests/{part}" for part in PARTS), "qa/test_new_blocks.py"]
        environment = os.environ | numbers | {"COUNTS": str(path)}
        if subprocess.run(command, cwd=ROOT, env=environment, timeout=60 * MINUTES, check=False).returncode:
            raise SystemExit("a case failed; its number is in the traceback. Nothing was written.")
        counts = json.loads(path.read_text(encoding="utf-8"))
    for part, (row, _, _) in PARTS.items():
        found = {name.partition("/")[2]: count for name, count in counts.items() if name.startswith(f"{part}/")}
        table = [f"| {name.replace('_', ' ')} | {count:,} |" for name, count in found.items()]
        write(row, f"{sum(found.values()):,} cases of {len(found)} kinds", ["| test | cases |", "|---|---|", *table])


if __name__ == "__main__":
    main()
