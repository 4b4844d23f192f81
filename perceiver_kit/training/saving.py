"""Checkpoints of a run: written so that the last one is whole wherever a process ends, and read again."""

from __future__ import annotations

import csv
import io
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor, nn

from ..errors import CheckpointError, InputError, TrainingError
from ..hub.files import write_atomically
from .module import Training

UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError)
UNREADABLE += (zipfile.BadZipFile, AttributeError, AssertionError, LookupError)


class Saving(Checkpoint):
    """Keeps the last checkpoint, whole wherever a process is killed: written beside, then renamed.

    Weights that are NaN or infinite are never saved: what was saved before them is what one wants back.
    """

    def __init__(self, last: Path, every: int) -> None:
        self.last, self.every = last, every
        self.new, self.old = last.with_name("new.ckpt"), last.with_name("old.ckpt")
        self.saved, self.started = 0, False

    def found(self) -> Path | None:
        """The last one that is whole."""
        return next((path for path in (self.last, self.old) if path.exists()), None)

    def last_checkpoint(self) -> str:
        """What a run that ends now leaves, for errors."""
        found = self.found()
        return f"the checkpoint of step {self.saved} is whole: {found}" if found else "no checkpoint was written yet"

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = Files()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.saved, self.started = trainer.global_step, True

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self.saved or (step % self.every and step != trainer.max_steps):
            return
        if not _finite(pl_module):
            raise TrainingError(
                f"weights are NaN or infinite at step {step} and are not saved; {self.last_checkpoint()}. Resume from "
                "it with a lower rate or more warmup, or look for what is extreme in the data"
            )
        for logger in trainer.loggers:
            logger.save()  # so that a run resumed from here knows its past
        trainer.save_checkpoint(self.new)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            if self.last.is_dir():  # sharded: a directory with files cannot be replaced in one step
                shutil.rmtree(self.old, ignore_errors=True)
                self.last.rename(self.old)
            self.new.replace(self.last)
            shutil.rmtree(self.old, ignore_errors=True)
        trainer.strategy.barrier()
        self.saved = step


class Files(TorchCheckpointIO):
    """Checkpoints written beside their place and flushed to the disk.

    Lightning's own stages a copy in the system's temporary folder, which a kill leaves there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically({path: buffer.getbuffer()})
        except OSError as error:
            raise CheckpointError(f"cannot save to {path.parent}: {error.strerror or error}") from error


def _finite(module: nn.Module) -> bool:
    """Whether all weights are, on all processes."""
    bad = torch.zeros((), dtype=torch.int64)
    for tensor in [*module.parameters(), *module.buffers()]:
        local: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[operator]
        bad = bad.to(local.device) + (~local.detach().isfinite()).any()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(bad)
    return not int(bad)


def step_of(checkpoint: Path, training: Training) -> int:
    """The step of a checkpoint that this training can go on from; else a CheckpointError that says why not."""
    content, state = opened(checkpoint)
    if content["perceiver_kit"]["model"] != training.spec["model"]:
        raise CheckpointError(f"{state} is of another model than the one to train: build that one, or begin a new run")
    return content["global_step"]


def opened(checkpoint: Path) -> tuple[dict[str, Any], Path]:
    """What a training's checkpoint holds, and in which file it says so; CheckpointError for one that is damaged."""
    state = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that torch.save did not write, which are refused
            content = torch.load(state, map_location="cpu", weights_only=True, mmap=True)
        if isinstance(content["perceiver_kit"]["model"], dict) and isinstance(content["global_step"], int):
            return content, state
        why = "it does not say of which model and step"
    except UNREADABLE as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no more is said'}"
    raise CheckpointError(f"{state} is damaged or not a checkpoint of a training ({why})")


def rows_before(metrics: Path, step: int) -> list[dict[str, str]]:
    """What ``metrics.csv`` says of the steps before; a last line that was cut off is left out."""
    text = metrics.read_text(encoding="utf-8", errors="replace")
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = [{name: value for name, value in row.items() if name and value} for row in csv.DictReader(lines)]
    try:
        return [row for row in rows if "step" in row and int(row["step"]) < step]
    except ValueError:
        raise InputError(f"{metrics} is damaged: a step in it is no number; remove the file to resume") from None
