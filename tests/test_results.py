"""The page of results is what its script makes of the rows that were measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning, which trains")
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_its_rows(results: ModuleType) -> None:
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    assert results.page(rows) == (ROOT / "docs" / "results.md").read_text(), "make results RUNS=--page"
    assert rows == results.merged(rows, [])


def test_a_run_made_again_replaces_its_own_rows_and_no_others(results: ModuleType) -> None:
    earlier = [{"run": run, "task": task} for run, task in (("flow", "a"), ("flow", "b"), ("clip", "c"), ("gone", "d"))]
    new = [{"run": "flow", "task": "e"}, {"run": "mnist_conv", "task": "f"}]
    assert [row["task"] for row in results.merged(earlier, new)] == ["f", "e", "c"]
