"""Every recipe compiles as one graph and exports with dynamic sizes, also to ONNX (``tests/graphs.py``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .graphs import checks
from .strategies import RECIPES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def failures() -> dict[tuple[str, str], str]:
    """Tracebacks by recipe and check, from two processes with half of the recipes each."""
    command = [sys.executable, "-m", f"{__package__}.graphs"]
    started = [
        subprocess.Popen([*command, *half], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for half in (RECIPES[::2], RECIPES[1::2])
    ]
    found = {}
    for process in started:
        out, error = process.communicate()
        assert process.returncode == 0, error[-3000:]
        for line in out.splitlines():
            if line.startswith("["):
                recipe, check, failure = json.loads(line)
                found[recipe, check] = failure
    return found


@pytest.mark.parametrize(("recipe", "check"), [(recipe, check) for recipe in RECIPES for check in checks(recipe)])
def test_graphs(recipe: str, check: str, failures: dict[tuple[str, str], str]) -> None:
    assert not failures[recipe, check], failures[recipe, check]
