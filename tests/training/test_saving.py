"""Damaged checkpoints and metrics are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.training.fit import rows_before
from perceiver_kit.training.saving import open_checkpoint


@pytest.mark.parametrize(("model", "step"), [(3, 2), ({}, "2")])
def test_a_checkpoint_without_model_or_step_is_refused(model: Any, step: Any, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"perceiver_kit": {"model": model}, "global_step": step}, path)
    with pytest.raises(kit.CheckpointError, match=r"last\.ckpt is damaged .*\(it lacks its model or step\)"):
        open_checkpoint(path)


def test_earlier_metrics_are_read_without_a_truncated_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,held_out/loss\n0,1.5,\n1,1.25,2\n2,1,\n1,0.")
    assert rows_before(path, 2) == [
        {"step": "0", "loss": "1.5"},
        {"step": "1", "loss": "1.25", "held_out/loss": "2"},
    ]


def test_metrics_with_damaged_steps_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n0,1.5\none,1.25\n")
    with pytest.raises(kit.InputError, match=r"metrics\.csv is damaged: a step is not a number; remove the file"):
        rows_before(path, 2)
