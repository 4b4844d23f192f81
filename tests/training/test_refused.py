"""Wrong arguments of training, data and fit are refused before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

import perceiver_kit as kit
from perceiver_kit.declarations import objective_for
from perceiver_kit.training import Data, Training, fit

from .toys import QUIET, Toys, prepared, run, small

pytestmark = QUIET


def test_wrong_arguments_of_training_and_data_are_refused() -> None:
    for wrong, message in (
        (dict(queries=dict(imgae=3)), "did you mean 'image'"),
        (dict(queries=dict(image=0)), "image must be an int of at least 1"),
        (dict(steps=0), "steps must be"),
        (dict(warmup=-1), "warmup must be"),
        (dict(optimizer="adam"), "did you mean 'adamw'"),
        (dict(schedule="cosin"), "did you mean 'cosine'"),
    ):
        with pytest.raises(kit.errors.PerceiverKitError, match=message):
            Training(
                small("multimodal_autoencoding"),
                objective_for("multimodal_autoencoding"),
                **(dict(steps=1) | wrong),
            )
    for wrong in (dict(batch=0), dict(steps=0), dict(workers=-1)):
        with pytest.raises(kit.AssemblyError, match=next(iter(wrong))):
            Data(Toys("masked_lm"), None, **(dict(batch=1, steps=1) | wrong))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(resume=True), "has no run to resume"),
        (dict(accumulate=0), "accumulate must be"),
        (dict(save_every=0), "save_every must be"),
        (dict(ema=1.5), "ema must be"),
    ],
)
def test_wrong_arguments_of_fit_are_refused_before_anything_is_written(
    given: dict, message: str, tmp_path: Path
) -> None:
    training, data = prepared("masked_lm", steps=1)
    with pytest.raises(kit.errors.PerceiverKitError, match=message):
        fit(training, data, tmp_path / "run", progress=False, **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "given", [dict(strategy="ddpp"), dict(precision="7-bit"), dict(devices=0), dict(devices=9, nodes=0)]
)
def test_arguments_that_lightning_refuses_are_errors_of_the_kit(given: dict, tmp_path: Path) -> None:
    training, data = prepared("masked_lm", steps=1)
    with pytest.raises(
        kit.InputError, match=r"^fit: Lightning refuses precision, strategy, devices, nodes or callbacks: \S"
    ):
        fit(training, data, tmp_path / "run", progress=False, **given)
    assert not [*(tmp_path / "run").rglob("*.ckpt")]
    fit(training, data, tmp_path / "run", progress=False)  # the directory is still usable


def test_data_of_another_length_is_refused(tmp_path: Path) -> None:
    """Training would wait forever for data that end early."""
    training, _ = prepared("masked_lm", steps=3)
    with pytest.raises(kit.InputError, match=r"data\.steps must be equal to training\.steps, 3; got 2"):
        fit(training, Data(Toys("masked_lm"), None, batch=2, steps=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_average_of_sharded_weights_is_refused(tmp_path: Path) -> None:
    config = dict(recipe="masked_lm", directory=tmp_path / "run", strategy="fsdp", devices=2, ema=0.9)
    with pytest.raises(kit.InputError, match="ema needs all weights in each process"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_directory_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    config = dict(recipe="masked_lm", directory=tmp_path / "run", steps=1, held_out=False)
    run(config)
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(kit.InputError, match="already holds a run: resume it, or choose another"):
        run(config | dict(model=dict(num_latents=4)))
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
