"""Whatever happens in a training: the error says what, and its last checkpoint goes on to the same weights."""

from __future__ import annotations

import errno
import functools
import math
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger
from safetensors.torch import load_file

import perceiver_kit as kit
from perceiver_kit.recipe import objective_for
from perceiver_kit.training import Data, Training, fit

from ..fuzz.harness import damaged
from ..training.toys import QUIET, Toys, small
from .injecting import failing, injected

FORK = "ignore:.*multi-threaded, use of fork:DeprecationWarning"
RESUMED = "ignore:You're resuming from a checkpoint that ended before"
pytestmark = [
    *QUIET,
    pytest.mark.filterwarnings(RESUMED),
    pytest.mark.filterwarnings(FORK),
    pytest.mark.filterwarnings("ignore:resource_tracker"),
    # PyTorch tells of a dead worker by raising in a signal's handler, wherever the process is: in a callback of the
    # garbage collector too, which cannot raise. The next batch that is asked for then raises it again.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
RECIPE, STEPS, BATCH = "image_classification_fourier", 5, 3
DYING: dict[str, Any] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segmentation fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "left": lambda: os._exit(3),
    "stopped": lambda: sys.exit(1),
}
RAISING: dict[str, Any] = {
    "an exception": lambda: 1 // 0,
    "no memory": lambda: bytearray(2**60),
    "a file that is gone": lambda: Path("/nowhere/at/all").read_bytes(),
    "an error of the kit": lambda: kit.build("nothing"),
}
SPOILING: dict[str, Any] = {
    "NaN": lambda sample: sample["inputs"]["image"][0, 0, :1].fill_(float("nan")),
    "infinity": lambda sample: sample["inputs"]["image"][0, 0, :1].fill_(float("-inf")),
    "another size": lambda sample: sample["inputs"].update(image=torch.zeros(3, 12, 16)),
    "another part": lambda sample: sample["inputs"].update(sound=torch.zeros(3)),
    "no targets": lambda sample: sample.pop("targets"),
    "a class too many": lambda sample: sample["targets"].update(label=torch.tensor(4)),
}


class Failing(Toys):
    """One of its samples cannot be had."""

    def __init__(self, bad: int, how: str) -> None:
        super().__init__(RECIPE, 12)
        self.bad, self.how = bad, how

    def sample(self, index: int, random: torch.Generator, training: bool) -> Any:
        if index != self.bad:
            return super().sample(index, random, training)
        if self.how in SPOILING:
            sample = super().sample(index, random, training)
            SPOILING[self.how](sample)
            return sample
        (DYING | RAISING)[self.how]()


class Early(Training):
    """Ctrl-c before the first step, when Lightning has not yet written down whose signals are."""

    def setup(self, stage: str) -> None:
        raise KeyboardInterrupt


class Spoiled(Training):
    """One of its weights is this after its third step."""

    value = math.inf

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.global_step == 2:  # it is counted afterwards
            self.model.encoder.latents.detach()[0, 0] = self.value


class Interrupted(Training):
    """Ctrl-c at a step."""

    at = 0

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        if self.global_step == self.at:
            raise KeyboardInterrupt


def train(directory: Path, data: Toys | None = None, *, workers: int = 0, kind: type = Training, **options: Any) -> Any:
    given = dict(rate=options.pop("rate", 1e-3))
    training = kind(small(RECIPE), objective_for(RECIPE), steps=STEPS, **given)
    batches = Data(data or Toys(RECIPE, 12), None, batch=BATCH, steps=STEPS, workers=workers)
    if kind is Interrupted:
        training.at = options.pop("at")
    return fit(training, batches, directory, save_every=1, progress=False, **options)


def weights(directory: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(directory / "model.safetensors").items()}


@functools.cache
def unbroken() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder))
        return weights(Path(folder))


def goes_on(directory: Path) -> None:
    """The checkpoint loads, the run goes on from it to what it would have been, and nothing is left over."""
    checkpoints = directory / "checkpoints"
    last = checkpoints / "last.ckpt"
    if last.exists():
        content = torch.load(last, weights_only=True)
        assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())
    train(directory, resume=last.exists())
    assert weights(directory) == unbroken()
    assert os.listdir(checkpoints) == ["last.ckpt"]


@injected(share=0.4)
def test_data_workers_that_die(rng: Random, folder: Path) -> None:
    bad, how = rng.randrange(12), rng.choice([*DYING])
    with pytest.raises(kit.TrainingError, match=f"a data worker died while it made .*sample {bad} of train") as raised:
        train(folder / "run", Failing(bad, how), workers=rng.choice([1, 2]))
    last = (folder / "run" / "checkpoints" / "last.ckpt").exists()
    assert ("is whole" if last else "no checkpoint was written yet") in str(raised.value)
    goes_on(folder / "run")


@injected(share=0.4)
def test_samples_that_raise(rng: Random, folder: Path) -> None:
    bad, how = rng.randrange(12), rng.choice([*RAISING])
    with pytest.raises(kit.PerceiverKitError, match=rf"^sample {bad} of train at step \d") as raised:
        train(folder / "run", Failing(bad, how), workers=rng.choice([0, 0, 2]))
    assert "Traceback" not in str(raised.value)
    goes_on(folder / "run")


@injected(share=0.4)
def test_samples_that_are_not_like_the_others(rng: Random, folder: Path) -> None:
    bad, how = rng.randrange(12), rng.choice([*SPOILING])
    with pytest.raises(kit.InputError, match=r"must be|must have") as raised:
        train(folder / "run", Failing(bad, how), workers=rng.choice([0, 0, 2]))
    named = {"a class too many": "'label'"}.get(how, f"sample {bad}|samples of a batch must have the same parts")
    assert any(part in str(raised.value) for part in named.split("|"))
    assert "Traceback" not in str(raised.value)
    goes_on(folder / "run")


@injected(share=0.4)
def test_disks_that_refuse_a_checkpoint(rng: Random, folder: Path) -> None:
    number = rng.choice([errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
    refused = failing(
        rng.choice(["fdopen", "replace", "chmod"]), rng.randint(1, STEPS), OSError(number, os.strerror(number))
    )
    with refused, pytest.raises(kit.CheckpointError, match=f"cannot (save|write) to .*{os.strerror(number)}"):
        train(folder / "run")
    goes_on(folder / "run")


# TensorBoard writes in a thread of its own, which dies of it too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@injected(share=0.2, least=1)
def test_disks_that_are_full(rng: Random, folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (rng.choice([0, 100, 20_000]), hard))
    try:
        with pytest.raises(kit.CheckpointError, match=r"cannot (save|write) to .*File too large"):
            train(folder / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    goes_on(folder / "run")


def test_disks_that_refuse_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = CSVLogger.save

    def save(logger: CSVLogger) -> None:
        if (tmp_path / "checkpoints" / "last.ckpt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(logger)

    with monkeypatch.context() as patched:
        patched.setattr(CSVLogger, "save", save)
        with pytest.raises(kit.CheckpointError, match=r"cannot write .*No space left.*; the checkpoint of step 1 is"):
            train(tmp_path)
    goes_on(tmp_path)


@injected(share=0.2, least=1)
def test_weights_that_become_nan_are_not_saved(rng: Random, folder: Path) -> None:
    with pytest.raises(kit.TrainingError, match=r"weights are NaN or infinite at step \d and are not saved; the check"):
        train(folder / "run", rate=rng.choice([1e30, 1e25]), clip=None)
    content = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())
    assert not (folder / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_weight_that_is_not_finite_is_not_saved(value: float, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Spoiled, "value", value)
    with pytest.raises(kit.TrainingError, match=r"weights are .* at step 3 and .* checkpoint of step 2 is"):
        train(tmp_path, kind=Spoiled)
    goes_on(tmp_path)


@injected(share=0.2, least=1)
def test_ctrl_c(rng: Random, folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(folder / "run", kind=Interrupted, at=rng.randrange(1, STEPS))
    assert signal.getsignal(signal.SIGINT) is before
    goes_on(folder / "run")


def test_ctrl_c_before_the_first_step(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, kind=Early)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


@functools.cache
def _half_way() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(KeyboardInterrupt):
            train(Path(folder), kind=Interrupted, at=2)
        return (Path(folder) / "checkpoints" / "last.ckpt").read_bytes()


@injected(share=0.5)
def test_checkpoints_that_are_damaged(rng: Random, folder: Path) -> None:
    """An error that names the file; or, where what was hit does not matter, a run that goes on."""
    last = folder / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(damaged(rng, _half_way()))
    (last.parent / "new.ckpt").write_bytes(b"half")
    (last.parent / ".new.ckpt.abcd1234.saving").write_bytes(b"of it")
    try:
        train(folder / "run", resume=True)
    except kit.CheckpointError as error:
        if str(last) not in str(error):
            raise AssertionError("the file is not named") from error
    except kit.TrainingError as error:
        if "NaN" not in str(error):  # a bit of a weight was flipped
            raise


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(_half_way())
    other = Training(small(RECIPE, num_latents=3), objective_for(RECIPE), steps=STEPS)
    with pytest.raises(kit.CheckpointError, match=r"last\.ckpt is of another model than the one to train"):
        fit(other, Data(Toys(RECIPE, 12), None, batch=BATCH, steps=STEPS), tmp_path, resume=True, progress=False)
