"""Two processes on one machine give the results of one: data parallel, and with sharded weights (FSDP2)."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, nn

import perceiver_kit as kit
from perceiver_kit.training import load_sharded

from .conftest import Train
from .toys import QUIET, losses

pytestmark = [*QUIET, pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo")]

# Half of the texts have 2 % of their bytes masked and half 70 %, so the mean over both processes differs from the mean
# of their means.
CASES: dict[str, dict[str, Any]] = {
    "multimodal": dict(recipe="multimodal_autoencoding", queries=dict(image=9, audio=3), validate_every=2),
    "text": dict(recipe="masked_lm", weight_decay=0.3, shared=True, optimizer="muon"),
}
STEPS = dict(steps=4, save_every=2, rate=1e-3, batch=6)


@pytest.fixture(scope="module")
def runs(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each case in one process, data parallel, and sharded; and a sharded run that is killed and resumed."""
    root = tmp_path_factory.mktemp("runs")
    for case, config in CASES.items():
        train(root / f"{case}-auto", **config, **STEPS)
        for strategy in ("ddp", "fsdp"):
            train(root / f"{case}-{strategy}", **config, **STEPS, strategy=strategy, devices=2)
    sharded = dict(**CASES["text"], **STEPS, strategy="fsdp", devices=2)
    assert train(root / "text-broken", **sharded, kill_at=3, code=None) != 0
    train(root / "text-broken", **sharded, resume=True)
    return root


def steps(directory: Path) -> list[float]:
    return [loss for _, loss in sorted(losses(directory).items())]


def held_out(directory: Path) -> list[float]:
    with open(directory / "metrics.csv", newline="") as file:
        return [float(row["held_out/loss"]) for row in csv.DictReader(file) if row["held_out/loss"]]


def max_difference(one: nn.Module, other: nn.Module, *, without: str = " ") -> float:
    state = {name: value for name, value in other.state_dict().items() if without not in name}
    return max(
        (value.double() - state[name].double()).abs().max().item()
        for name, value in one.state_dict().items()
        if name in state
    )


@pytest.mark.parametrize("case", [f"{case}-{strategy}" for case in CASES for strategy in ("ddp", "fsdp")])
def test_two_processes_have_the_losses_and_weights_of_one(case: str, runs: Path) -> None:
    one = runs / f"{case.split('-')[0]}-auto"
    muon = case.startswith("text")  # it scales rounding errors of small singular values up
    assert len(steps(one)) == 4
    assert steps(runs / case) == pytest.approx(steps(one), rel=2e-5 if muon else 2e-6)
    expected = held_out(one)
    assert len(expected) >= 2
    assert held_out(runs / case) == pytest.approx(expected, rel=1e-5), "over the samples of both processes"
    # Softmax is invariant to the keys' bias: its gradient is rounding error, which AdamW scales up.
    limit = 0.02 * 2**-6 if muon else 1e-4
    assert max_difference(kit.load(runs / case), kit.load(one), without="key.bias") < limit
    before, _ = kit.load(one), torch.manual_seed(0)
    assert max_difference(before, kit.build(kit.spec(before))) > 1e-3, "training changes the weights"
    assert (runs / case / "curves.png").is_file()


@pytest.mark.parametrize("case", CASES)
def test_a_sharded_checkpoint_loads_into_one_process(case: str, runs: Path) -> None:
    directory = runs / f"{case}-fsdp"
    checkpoint = directory / "checkpoints" / "last.ckpt"
    assert checkpoint.is_dir()
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt"]
    model, exported = load_sharded(checkpoint), kit.load(directory)
    assert not model.training
    assert kit.spec(model) == kit.spec(exported)
    assert max_difference(model, exported) == 0
    kit.save(model, directory / "whole")
    assert (
        load_file(directory / "whole" / "model.safetensors").keys() == load_file(directory / "model.safetensors").keys()
    )
    assert max_difference(kit.load(directory / "whole"), exported) == 0


def test_a_killed_sharded_run_resumes_exactly(runs: Path) -> None:
    whole, broken = runs / "text-fsdp", runs / "text-broken"
    steps_run = [int(line.split()[0]) for line in broken.with_suffix(".losses").read_text().splitlines()]
    assert steps_run in ([0, 1, 2, 3, 2, 3], [0, 1, 2, 2, 3]), "from step 2, the last checkpoint"
    assert losses(broken) == losses(whole)
    assert max_difference(kit.load(broken), kit.load(whole)) == 0


def test_other_checkpoints_are_not_sharded(tmp_path: Path) -> None:
    with pytest.raises(kit.InputError, match=r"has no meta\.pt"):
        load_sharded(tmp_path)
    torch.save({}, tmp_path / "last.ckpt")
    with pytest.raises(kit.InputError, match=r"has no meta\.pt"):
        load_sharded(tmp_path / "last.ckpt")
