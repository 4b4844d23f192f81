"""A run that is killed and resumed is the run that was not: loss by loss and weight by weight, to the last bit."""

from __future__ import annotations

import csv
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import perceiver_kit as kit
from perceiver_kit.training import fit

from .conftest import Train
from .toys import QUIET, Told, losses, prepared, run

pytestmark = QUIET
KILLED = -9
QUERIES = dict(image=9, audio=3)
RUNS: dict[str, dict[str, Any]] = {
    "random queries and hidden labels": dict(recipe="multimodal_autoencoding", queries=QUERIES, validate_every=4),
    "workers and accumulation": dict(recipe="masked_lm", workers=2, accumulate=2, batch=2, warmup=3),
    "an average, batch norm and LAMB": dict(recipe="image_classification_conv", ema=0.8, optimizer="lamb"),
    "masks and half the bits": dict(recipe="sequence_classification", precision="bf16-true"),
}


def weights(directory: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(directory / "model.safetensors").items()}


@pytest.mark.parametrize("what", RUNS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(what: str, train: Train, tmp_path: Path) -> None:
    config = dict(steps=12, save_every=3) | RUNS[what]
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    train(unbroken, **config)
    wanted = losses(unbroken)
    assert sorted(wanted) == [*range(12 * config.get("accumulate", 1))]
    assert len({*wanted.values()}) > 10

    dice = random.Random(what)
    first, second = sorted(dice.sample(range(3, 12), 2))
    train(broken, **config, kill_at=first, ends=KILLED)
    assert not (broken / "model.safetensors").exists()
    train(broken, **config, kill_at=second, resume=True, ends=KILLED)
    before = len(broken.with_suffix(".losses").read_text().splitlines())
    train(broken, **config, resume=True)
    again = broken.with_suffix(".losses").read_text().splitlines()[before:]
    assert len(again) == (12 - second // 3 * 3) * config.get("accumulate", 1), "from the last one saved, no further"
    assert losses(broken) == wanted
    assert weights(broken) == weights(unbroken)
    assert metrics(broken) == metrics(unbroken)


def metrics(directory: Path) -> dict[str, list[tuple[str, str]]]:
    """Every metric by name, at which step and how much; what is validated once more at the end left out."""
    with open(directory / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) < 12]
    return {name: [(row["step"], row[name]) for row in rows if row[name]] for name in rows[0] if name != "epoch"}


def test_kills_at_any_moment_leave_what_loads_and_goes_on(train: Train, tmp_path: Path) -> None:
    """Saving at every step, so that many kills fall into a save; and into the export, after the last of them."""
    config = dict(recipe="sequence_classification", steps=30, save_every=1, held_out=False)
    start = time.monotonic()
    train(tmp_path / "unbroken", **config)
    whole = time.monotonic() - start
    directory, dice = tmp_path / "broken", random.Random(0)
    last = directory / "checkpoints" / "last.ckpt"
    ends = []
    for _ in range(8):
        after = dice.uniform(0.02, 0.8) * whole
        ends.append(train(directory, **config, resume=last.exists(), kill_after=after, ends=None))
        if last.exists():
            torch.load(last, weights_only=True)
        if (directory / "model.safetensors").exists():
            kit.load(directory)
    assert KILLED in ends
    train(directory, **config, resume=last.exists())
    assert losses(directory) == losses(tmp_path / "unbroken")
    assert weights(directory) == weights(tmp_path / "unbroken")
    assert sorted(path.name for path in last.parent.iterdir() if path.suffix == ".ckpt") in (
        ["last.ckpt"],
        ["last.ckpt", "new.ckpt"],
    )


def test_a_checkpoint_is_never_written_over(tmp_path: Path) -> None:
    """Another name for the file keeps the old content: the new one has come by a rename, whole."""
    kept: list[tuple[Path, bytes]] = []

    class Linking(Told):
        def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
            last = tmp_path / "run" / "checkpoints" / "last.ckpt"
            if last.exists():
                link = tmp_path / f"{batch_index}.ckpt"
                os.link(last, link)
                kept.append((link, last.read_bytes()))

    told, data = prepared("masked_lm", steps=3)
    told.__class__ = Linking
    fit(told, data, tmp_path / "run", save_every=1, progress=False)
    assert len(kept) == 2
    for link, content in kept:
        assert link.read_bytes() == content
    assert len({content for _, content in kept}) == 2


def test_the_one_before_is_taken_where_a_kill_fell_between_two_renames(tmp_path: Path) -> None:
    """Sharded checkpoints are directories, which take two renames to replace."""
    config = dict(recipe="masked_lm", directory=tmp_path / "run", steps=4, save_every=2)
    run(config)
    model, last = tmp_path / "run" / "model.safetensors", tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = weights(tmp_path / "run")
    model.unlink()
    last.rename(last.with_name("old.ckpt"))
    with pytest.raises(kit.InputError, match="holds a run already"):
        run(config)
    run(config | dict(resume=True))
    assert weights(tmp_path / "run") == before


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_that_had_ended_is_exported_again(ema: float | None, tmp_path: Path) -> None:
    """Killed after its last step and before its model was written."""
    config = dict(recipe="masked_lm", directory=tmp_path / "run", ema=ema, rate=0.01)
    found = run(config)
    model = tmp_path / "run" / "model.safetensors"
    before = weights(tmp_path / "run")
    model.unlink()
    assert run(config | dict(resume=True)) == found
    assert weights(tmp_path / "run") == before
