"""What a run says: errors of Lightning, PyTorch's loader and the disk as the kit's; fewer messages and warnings."""

from __future__ import annotations

import logging
import re
import signal
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_utilities.core import rank_zero

from ..errors import CheckpointError, PerceiverKitError, TrainingError
from .data import Data
from .saving import Saving, summary

DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*?\) (exited unexpectedly|is killed by signal)")
OUT_OF_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory|Cannot allocate memory", re.I)

NOISE = (
    "You're using the WeightAveraging",  # sharding is refused
    "Experiment logs directory",  # metrics.csv keeps earlier rows
    ".isinstance.treespec, LeafSpec",  # of Lightning with torch 2.13
    ".*does not have many workers",
    "The number of training batches",
)
# Of messages.
ADVICE = "💡 Tip"


@contextmanager
def translate_errors(saving: Saving, data: Data, directory: Path) -> Iterator[None]:
    """Raise errors of the user or the machine as the kit's errors, which name the last checkpoint."""
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    except PerceiverKitError as error:
        name = f"{type(error).__module__}.{type(error).__qualname__}: "
        if name not in str(error):
            raise
        # A data worker sent it as the text of a traceback, whose last lines are the message.
        raise type(error)(str(error).rpartition(name)[2].strip()) from error
    except SystemExit as stop:  # on ctrl-c Lightning ignores further ones and exits
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        last, reason = saving.last_checkpoint(), summary(error)
        if DEAD_WORKER.search(str(error)) or _worker_is_gone(error):
            sets = [data.train] if data.held_out is None else [data.train, data.held_out]
            current = " or ".join(sample for part in sets for sample in part.samples_in_progress())
            when = f"while it made {current}" if current else "between two samples"
            raise TrainingError(
                f"a data worker died {when} ({reason}); {last}. Resume, with fewer workers if memory ran out"
            ) from error
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise TrainingError(
                f"there is not enough memory ({reason}); {last}. Take a smaller batch and accumulate more, or "
                "checkpoint_activations=True"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            where = f"; {last}" if saving.started else ""
            raise CheckpointError(f"cannot write to {directory} ({reason}){where}") from error
        if not saving.started and saving.found():
            raise CheckpointError(f"{saving.found()} cannot be resumed: {reason}") from error
        raise


def _worker_is_gone(error: BaseException) -> bool:
    """Whether a worker died after it had sent a sample and before this process had fetched its tensors."""
    calls = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ConnectionError | EOFError | FileNotFoundError) and any(
        frame.f_globals.get("__name__") == "multiprocessing.resource_sharer" for frame, _ in calls
    )


@contextmanager
def without_noise(progress: bool) -> Iterator[None]:
    """Without Lightning's warnings about what is right here, and its advice to install other packages.

    Without its messages too if there is no progress bar.
    """
    loggers = [] if progress else [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    try:
        rank_zero.log.addFilter(_is_no_advice)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        rank_zero.log.removeFilter(_is_no_advice)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _is_no_advice(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(ADVICE)


@contextmanager
def with_gradients() -> Iterator[None]:
    """Gradients also if the caller has disabled them."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
