"""Write checkpoints so that the last one stays intact wherever a process ends, and read them safely."""

from __future__ import annotations

import io
import shutil
import traceback
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import nn
from torch.distributed.tensor import DTensor

from ..errors import CheckpointError, TrainingError
from ..hub.files import write_atomically
from .module import Training


class Saving(Checkpoint):
    """Keeps the last checkpoint: written under another name, then renamed, so that a kill never damages it.

    Weights that are NaN or infinite are never saved, so that a run can resume from before. Lightning's
    ``ModelCheckpoint`` can do neither.
    """

    def __init__(self, last: Path, every: int) -> None:
        self.last, self.every = last, every
        self.new, self.old = last.with_name("new.ckpt"), last.with_name("old.ckpt")
        self.saved_step, self.started = 0, False

    def found(self) -> Path | None:
        """The last intact checkpoint."""
        return next((path for path in (self.last, self.old) if path.exists()), None)

    def last_checkpoint(self) -> str:
        """The part of an error that says where to resume."""
        found = self.found()
        if found is None:
            return "no checkpoint was written yet"
        return f"the checkpoint of step {self.saved_step} is intact: {found}"

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.saved_step, self.started = trainer.global_step, True

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        step = trainer.global_step
        if step == self.saved_step or (step % self.every and step != trainer.max_steps):
            return
        if not trainer.strategy.reduce_boolean_decision(_finite(pl_module)):
            raise TrainingError(
                f"weights are NaN or infinite at step {step} and are not saved; {self.last_checkpoint()}. Resume from "
                "it with a lower rate or more warmup, or look for extreme values in the data"
            )
        for logger in trainer.loggers:
            logger.save()  # a run that resumes from here reads the metrics so far
        trainer.save_checkpoint(self.new, weights_only=False)  # with the optimizer
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            if self.last.is_dir():  # sharded: a directory with files cannot be replaced in one step
                shutil.rmtree(self.old, ignore_errors=True)
                self.last.rename(self.old)
            self.new.replace(self.last)
            shutil.rmtree(self.old, ignore_errors=True)
        trainer.strategy.barrier()
        self.saved_step = step


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a temporary file beside the checkpoint, flushes it to the disk, then renames it.

    Lightning's own stages a copy in the system's temporary folder, where a killed process leaves it.
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
    """Whether all weights and buffers of this process are finite."""
    tensors = (tensor.detach() for tensor in [*module.parameters(), *module.buffers()])
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors)
    return all(bool(tensor.isfinite().all()) for tensor in local)


def step_of(checkpoint: Path, training: Training) -> int:
    """The step of a checkpoint; CheckpointError unless this training can resume from it."""
    content = open_checkpoint(checkpoint)
    if content["perceiver_kit"]["model"] != training.spec["model"]:
        raise CheckpointError(f"{checkpoint} is of another model: build that one, or start a new run")
    return content["global_step"]


def open_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """The content of a training's checkpoint, read without unpickling; CheckpointError for a damaged one."""
    path = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files that torch.save did not write: they are refused
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if isinstance(content["perceiver_kit"]["model"], dict) and isinstance(content["global_step"], int):
            return content
        reason = "it lacks its model or step"
    except Exception as error:  # a damaged file may raise anything
        reason = summary(error)
    raise CheckpointError(f"{path} is damaged or not a checkpoint of a training ({reason})")


def summary(error: BaseException) -> str:
    """The type and the first line of an error.

    >>> summary(KeyError("x"))
    "KeyError: 'x'"
    """
    return traceback.format_exception_only(error)[0].splitlines()[0]
