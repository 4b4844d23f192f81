"""docs/results.md is generated from docs/results.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning")

from benchmarks import results

ROOT = Path(__file__).resolve().parent.parent


def test_page_matches_its_rows() -> None:
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    assert results.page(rows) == (ROOT / "docs" / "results.md").read_text(), "make results RUNS=--page"
    assert rows == results.merged(rows, [])


def test_new_rows_replace_those_of_their_run_only() -> None:
    earlier = [{"run": run, "task": task} for run, task in (("flow", "a"), ("flow", "b"), ("clip", "c"), ("gone", "d"))]
    new = [{"run": "flow", "task": "e"}, {"run": next(iter(results.RUNS)), "task": "f"}]
    assert [row["task"] for row in results.merged(earlier, new)] == ["f", "e", "c"]
