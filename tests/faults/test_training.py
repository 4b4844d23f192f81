"""After any fault in training, the error names it and the last checkpoint resumes to the same weights."""

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
from perceiver_kit.declarations import objective_for
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
    # PyTorch reports a dead worker by raising in a signal handler. In a callback of the garbage collector the error is
    # ignored; the next batch then raises it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
RECIPE, STEPS, BATCH = "image_classification_fourier", 5, 3
DYING: dict[str, Any] = {
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segmentation fault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "_exit": lambda: os._exit(3),
    "sys.exit": lambda: sys.exit(1),
}
RAISING: dict[str, Any] = {
    "an exception": lambda: 1 // 0,
    "no memory": lambda: bytearray(2**60),
    "a missing file": lambda: Path("/nowhere/at/all").read_bytes(),
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
    """Data with one bad sample."""

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


class InterruptedSetup(Training):
    """Ctrl-c before the first step, when Lightning has not yet saved the signal handlers."""

    def setup(self, stage: str) -> None:
        raise KeyboardInterrupt


class Spoiled(Training):
    """Sets a weight to ``value`` after the third step."""

    value = math.inf

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.global_step == 2:  # counted after this call
            self.model.encoder.latents.detach()[0, 0] = self.value


class Interrupted(Training):
    """Ctrl-c at a step."""

    at = 0

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        if self.global_step == self.at:
            raise KeyboardInterrupt


def train(directory: Path, data: Toys | None = None, *, workers: int = 0, kind: type = Training, **options: Any) -> Any:
    training = kind(small(RECIPE), objective_for(RECIPE), steps=STEPS, rate=options.pop("rate", 1e-3))
    batches = Data(data or Toys(RECIPE, 12), None, batch=BATCH, steps=STEPS, workers=workers)
    if kind is Interrupted:
        training.at = options.pop("at")
    return fit(training, batches, directory, save_every=1, progress=False, **options)


def weights(directory: Path) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in load_file(directory / "model.safetensors").items()}


@functools.cache
def uninterrupted() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder))
        return weights(Path(folder))


def check_resume(directory: Path) -> None:
    """The checkpoint loads, the run resumes to the weights of an uninterrupted one, and leaves no other files."""
    checkpoints = directory / "checkpoints"
    last = checkpoints / "last.ckpt"
    if last.exists():
        content = torch.load(last, weights_only=True)
        assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())
    train(directory, resume=last.exists())
    assert weights(directory) == uninterrupted()
    assert os.listdir(checkpoints) == ["last.ckpt"]


@injected(share=0.4)
def test_dead_data_workers(rng: Random, folder: Path) -> None:
    bad, how = rng.randrange(12), rng.choice([*DYING])
    with pytest.raises(kit.TrainingError, match=f"a data worker died while it made .*sample {bad} of train") as raised:
        train(folder / "run", Failing(bad, how), workers=rng.choice([1, 2]))
    last = (folder / "run" / "checkpoints" / "last.ckpt").exists()
    assert ("is intact" if last else "no checkpoint was written yet") in str(raised.value)
    check_resume(folder / "run")


@injected(share=0.4)
def test_samples_that_raise(rng: Random, folder: Path) -> None:
    bad, how = rng.randrange(12), rng.choice([*RAISING])
    with pytest.raises(kit.PerceiverKitError, match=rf"^sample {bad} of train at step \d") as raised:
        train(folder / "run", Failing(bad, how), workers=rng.choice([0, 0, 2]))
    assert "Traceback" not in str(raised.value)
    check_resume(folder / "run")


@injected(share=0.4)
def test_samples_that_differ_from_others(rng: Random, folder: Path) -> None:
    bad, how = rng.randrange(12), rng.choice([*SPOILING])
    with pytest.raises(kit.InputError, match=r"must be|must have") as raised:
        train(folder / "run", Failing(bad, how), workers=rng.choice([0, 0, 2]))
    named = {"a class too many": "'label'"}.get(how, f"sample {bad}|samples of a batch must have the same parts")
    assert any(part in str(raised.value) for part in named.split("|"))
    assert "Traceback" not in str(raised.value)
    check_resume(folder / "run")


@injected(share=0.4)
def test_disks_that_fail_to_write_a_checkpoint(rng: Random, folder: Path) -> None:
    number = rng.choice([errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
    fault = failing(
        rng.choice(["fdopen", "replace", "chmod"]), rng.randint(1, STEPS), OSError(number, os.strerror(number))
    )
    with fault, pytest.raises(kit.CheckpointError, match=f"cannot (save|write) to .*{os.strerror(number)}"):
        train(folder / "run")
    check_resume(folder / "run")


# TensorBoard's writer thread fails too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@injected(share=0.2, least=1)
def test_full_disks(rng: Random, folder: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (rng.choice([0, 100, 20_000]), hard))
    try:
        with pytest.raises(kit.CheckpointError, match=r"cannot (save|write) to .*File too large"):
            train(folder / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_resume(folder / "run")


def test_disks_that_fail_to_write_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = CSVLogger.save

    def save(logger: CSVLogger) -> None:
        if (tmp_path / "checkpoints" / "last.ckpt").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(logger)

    with monkeypatch.context() as patched:
        patched.setattr(CSVLogger, "save", save)
        with pytest.raises(kit.CheckpointError, match=r"cannot write .*No space left.*; the checkpoint of step 1 is"):
            train(tmp_path)
    check_resume(tmp_path)


@injected(share=0.2, least=1)
def test_nan_weights_are_not_saved(rng: Random, folder: Path) -> None:
    with pytest.raises(kit.TrainingError, match=r"weights are NaN or infinite at step \d and are not saved; the check"):
        train(folder / "run", rate=rng.choice([1e30, 1e25]), clip=None)
    content = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in content["state_dict"].values())
    assert not (folder / "run" / "model.safetensors").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_nonfinite_weight_is_not_saved(value: float, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Spoiled, "value", value)
    with pytest.raises(kit.TrainingError, match=r"weights are .* at step 3 and .* checkpoint of step 2 is"):
        train(tmp_path, kind=Spoiled)
    check_resume(tmp_path)


@injected(share=0.2, least=1)
def test_ctrl_c(rng: Random, folder: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(folder / "run", kind=Interrupted, at=rng.randrange(1, STEPS))
    assert signal.getsignal(signal.SIGINT) is before
    check_resume(folder / "run")


def test_ctrl_c_before_the_first_step(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, kind=InterruptedSetup)
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


@functools.cache
def _interrupted_checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with pytest.raises(KeyboardInterrupt):
            train(Path(folder), kind=Interrupted, at=2)
        return (Path(folder) / "checkpoints" / "last.ckpt").read_bytes()


@injected(share=0.5)
def test_damaged_checkpoints(rng: Random, folder: Path) -> None:
    """An error names the file; or the damage is harmless and the run resumes."""
    last = folder / "run" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(damaged(rng, _interrupted_checkpoint()))
    (last.parent / "new.ckpt").write_bytes(b"half")
    (last.parent / ".new.ckpt.abcd1234.saving").write_bytes(b"of it")
    try:
        train(folder / "run", resume=True)
    except kit.CheckpointError as error:
        if str(last) not in str(error):
            raise AssertionError("the error does not name the file") from error
    except kit.TrainingError as error:
        if "NaN" not in str(error):  # a flipped bit of a weight
            raise


def test_the_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(_interrupted_checkpoint())
    other = Training(small(RECIPE, num_latents=3), objective_for(RECIPE), steps=STEPS)
    with pytest.raises(kit.CheckpointError, match=r"last\.ckpt is of another model: build that one"):
        fit(other, Data(Toys(RECIPE, 12), None, batch=BATCH, steps=STEPS), tmp_path, resume=True, progress=False)
