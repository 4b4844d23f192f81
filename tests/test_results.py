"""docs/results.md is generated from docs/results.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pytorch_lightning", reason="needs pytorch-lightning")

from benchmarks import results
from benchmarks.rows import ablations
from perceiver_kit.registry import find

ROOT = Path(__file__).resolve().parent.parent


def test_page_matches_its_rows() -> None:
    rows = json.loads((ROOT / "docs" / "results.json").read_text())
    assert results.page(rows) == (ROOT / "docs" / "results.md").read_text(), "make results RUNS=--page"
    assert rows == results.merged(rows, [])


def test_new_rows_replace_those_of_their_run_and_seed_only() -> None:
    def rows(*entries: tuple[str, int, str]) -> list[dict]:
        return [{"run": run, "seed": seed, "task": task} for run, seed, task in entries]

    earlier = rows(("flow", 0, "a"), ("flow", 0, "b"), ("flow", 1, "c"), ("clip", 0, "d"), ("gone", 0, "e"))
    new = rows(("flow", 0, "f"), (next(iter(results.RUNS)), 0, "g"))
    assert [row["task"] for row in results.merged(earlier, new)] == ["g", "f", "c", "d"]


def test_seeds_share_a_line() -> None:
    cost = {"seconds": 60, "steps": 10, "batch": 2, "threads": 1}
    rows = [
        {
            "run": "a",
            "seed": seed,
            "task": "t",
            "metric": "accuracy",
            "ours": ours,
            "samples": 100,
            "baselines": {"b": 0.5},
        }
        | cost
        for seed, ours in enumerate((0.8, 0.9))
    ]
    (line,) = results.page(rows).removeprefix(results.INTRODUCTION).splitlines()
    assert "**0.850** ± 0.071 [0.767, 0.907]" in line and "| b 0.500 | 2 |" in line


@pytest.mark.parametrize(
    ("recipe", "lines", "preset"),
    [
        ("sequence_classification", ablations.SENTIMENT, "tiny"),
        ("optical_flow", ablations.FLOW, "tiny"),
        ("multimodal_autoencoding", ablations.CLIP, "quick"),
    ],
)
def test_all_additions_together_are_the_preset_quick(recipe: str, lines: tuple, preset: str) -> None:
    entry = find("recipes", recipe)
    name, parameters, settings, data = ablations.added(lines, len(lines) - 1)
    assert name.startswith("+ ")
    assert entry.parameters(preset, parameters) == entry.parameters("quick", {})
    for changes in (settings, data):
        assert {*changes} <= {"steps", "batch", "rate", "optimizer", "weight_decay", "train_reach", "augment"}
    assert ablations.added(lines, 0)[1:] == lines[0][1:]
