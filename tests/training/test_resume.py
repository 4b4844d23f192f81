"""A killed and resumed run has the losses and weights of an uninterrupted one, bit for bit."""

from __future__ import annotations

import csv
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import perceiver_kit as kit
from perceiver_kit.training import fit

from .conftest import Train
from .toys import QUIET, RecordingTraining, losses, prepared, run

pytestmark = QUIET
KILLED, STEPS = -9, 9
QUERIES = dict(image=9, audio=3)
RUNS: dict[str, dict[str, Any]] = {
    "random queries and hidden labels": dict(recipe="multimodal_autoencoding", queries=QUERIES, validate_every=4),
    "workers and accumulation": dict(recipe="masked_lm", workers=2, accumulate=2, batch=2, warmup=3),
    "EMA, batch norm and LAMB": dict(recipe="image_classification_conv", ema=0.8, optimizer="lamb"),
    "Muon, masks and bfloat16": dict(recipe="sequence_classification", precision="bf16-true", optimizer="muon"),
}


def weights(directory: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(directory / "model.safetensors").items()}


@pytest.mark.parametrize("case", RUNS)
def test_a_killed_run_resumes_exactly(case: str, train: Train, tmp_path: Path) -> None:
    config = dict(steps=STEPS, save_every=3) | RUNS[case]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(unbroken, **config)
    expected = losses(unbroken)
    assert sorted(expected) == [*range(STEPS * config.get("accumulate", 1))]
    assert len({*expected.values()}) >= STEPS

    rng = random.Random(case)
    first, second = sorted(rng.sample(range(3, STEPS), 2))
    train(broken, **config, kill_at=first, code=KILLED)
    assert not (broken / "model.safetensors").exists()
    train(broken, **config, kill_at=second, resume=True, code=KILLED)
    before = len(broken.with_suffix(".losses").read_text().splitlines())
    train(broken, **config, resume=True)
    resumed = broken.with_suffix(".losses").read_text().splitlines()[before:]
    assert len(resumed) == (STEPS - second // 3 * 3) * config.get("accumulate", 1), "from the last checkpoint"
    assert losses(broken) == expected
    assert weights(broken) == weights(unbroken)
    assert metrics(broken) == metrics(unbroken)


def metrics(directory: Path) -> dict[str, list[tuple[str, str]]]:
    """The steps and values of every metric, without the last validation."""
    with open(directory / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) < STEPS]
    return {name: [(row["step"], row[name]) for row in rows if row[name]] for name in rows[0] if name != "epoch"}


def test_runs_resume_after_kills_at_random_moments(train: Train, tmp_path: Path) -> None:
    """Each step saves, so that many kills interrupt a save, and some the export."""
    config = dict(recipe="sequence_classification", steps=20, save_every=1, held_out=False)
    start = time.monotonic()
    train(tmp_path / "unbroken", **config)
    duration = time.monotonic() - start
    directory, rng = tmp_path / "broken", random.Random(0)
    last = directory / "checkpoints" / "last.ckpt"
    codes = []
    for _ in range(5):
        after = rng.uniform(0.02, 0.8) * duration
        codes.append(train(directory, **config, resume=last.exists(), kill_after=after, code=None))
        if last.exists():
            torch.load(last, weights_only=True)
        if (directory / "model.safetensors").exists():
            kit.load(directory)
        if codes[-1] != KILLED:  # the machine is faster than it was: again, with earlier kills
            shutil.rmtree(directory, ignore_errors=True)
            duration /= 2
    assert KILLED in codes
    train(directory, **config, resume=last.exists())
    assert losses(directory) == losses(tmp_path / "unbroken")
    assert weights(directory) == weights(tmp_path / "unbroken")
    assert sorted(path.name for path in last.parent.iterdir() if path.suffix == ".ckpt") in (
        ["last.ckpt"],
        ["last.ckpt", "new.ckpt"],
    )


def test_checkpoints_are_replaced_by_a_rename(tmp_path: Path) -> None:
    """A hard link to the old checkpoint keeps its content."""
    links: list[tuple[Path, bytes]] = []

    class Linking(RecordingTraining):
        def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
            last = tmp_path / "run" / "checkpoints" / "last.ckpt"
            if last.exists():
                link = tmp_path / f"{batch_index}.ckpt"
                os.link(last, link)
                links.append((link, last.read_bytes()))

    training, data = prepared("masked_lm", steps=3)
    training.__class__ = Linking
    fit(training, data, tmp_path / "run", save_every=1, progress=False)
    assert len(links) == 2
    for link, content in links:
        assert link.read_bytes() == content
    assert len({content for _, content in links}) == 2


def test_the_old_checkpoint_is_read_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    """Replacing a sharded checkpoint, a directory, takes two renames."""
    config = dict(recipe="masked_lm", directory=tmp_path / "run", steps=4, save_every=2)
    run(config)
    model, last = tmp_path / "run" / "model.safetensors", tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = weights(tmp_path / "run")
    model.unlink()
    last.rename(last.with_name("old.ckpt"))
    with pytest.raises(kit.InputError, match="already holds a run"):
        run(config)
    run(config | dict(resume=True))
    assert weights(tmp_path / "run") == before


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_finished_run_is_exported_on_resume(ema: float | None, tmp_path: Path) -> None:
    """Killed after its last step, before the model was written."""
    config = dict(recipe="masked_lm", directory=tmp_path / "run", ema=ema, rate=0.01)
    results = run(config)
    model = tmp_path / "run" / "model.safetensors"
    before = weights(tmp_path / "run")
    model.unlink()
    assert run(config | dict(resume=True)) == results
    assert weights(tmp_path / "run") == before
