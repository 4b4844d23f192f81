"""Checkpoints and metrics that are not what a training wrote are refused before anything is made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.training.saving import opened, rows_before


@pytest.mark.parametrize(("model", "step"), [(3, 2), ({}, "2")])
def test_a_checkpoint_that_does_not_say_of_what_it_is_is_refused(model: Any, step: Any, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"perceiver_kit": {"model": model}, "global_step": step}, path)
    with pytest.raises(kit.CheckpointError, match=r"last\.ckpt is damaged .*\(it does not say of which model and"):
        opened(path)


def test_metrics_of_the_steps_before_are_read_and_a_line_that_was_cut_off_is_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,held_out/loss\n0,1.5,\n1,1.25,2\n2,1,\n1,0.")
    assert rows_before(path, 2) == [
        {"step": "0", "loss": "1.5"},
        {"step": "1", "loss": "1.25", "held_out/loss": "2"},
    ]


def test_metrics_whose_steps_are_no_numbers_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n0,1.5\none,1.25\n")
    with pytest.raises(kit.InputError, match=r"metrics\.csv is damaged: a step in it is no number; remove the file"):
        rows_before(path, 2)
