"""What goes wrong in Lightning, in PyTorch's loader and on the disk, as the kit's errors."""

from __future__ import annotations

import re
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import CheckpointError, PerceiverKitError, TrainingError
from .data import Data
from .saving import Saving

_DEAD = re.compile(r"DataLoader worker \(pid.*?\) (exited unexpectedly|is killed by signal)")
_MEMORY = re.compile(r"not enough memory|can't allocate memory|out of memory|Cannot allocate memory", re.IGNORECASE)


def _fetching(error: BaseException) -> bool:
    """Whether a worker that had promised a sample was gone when its tensors were fetched."""
    calls = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ConnectionError | EOFError | FileNotFoundError) and any(
        frame.f_globals.get("__name__") == "multiprocessing.resource_sharer" for frame, _ in calls
    )


@contextmanager
def translate_errors(saving: Saving, data: Data, directory: Path) -> Iterator[None]:
    """Errors that a user can cause, or a machine, leave here as one of the family and say what is left of the run."""
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        yield
    except PerceiverKitError as error:
        marked = f"{type(error).__module__}.{type(error).__qualname__}: "
        if marked not in str(error):
            raise
        # A data worker sent it as the text of a traceback; what it said stands at the end.
        raise type(error)(str(error).rpartition(marked)[2].strip()) from error
    except SystemExit as stop:  # Lightning's, which also leaves ctrl-c without effect
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if _DEAD.search(str(error)) or _fetching(error):
            sets = [data.train] if data.held_out is None else [data.train, data.held_out]
            making = [what for part in sets for what in part.samples_in_progress()]
            while_ = f"while it made {' or '.join(making)}" if making else "between two samples"
            raise TrainingError(
                f"a data worker died {while_} ({first.strip()}); {saving.last_checkpoint()}. Where memory ran out, "
                "take fewer workers; then resume"
            ) from error
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or _MEMORY.search(str(error)):
            raise TrainingError(
                f"there is not enough memory ({first}); {saving.last_checkpoint()}. Take a smaller batch and "
                "accumulate more, or checkpoint_activations=True"
            ) from error
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            left = f"; {saving.last_checkpoint()}" if saving.started else ""
            raise CheckpointError(f"cannot write to {directory} ({first}){left}") from error
        if not saving.started and saving.found():
            raise CheckpointError(f"{saving.found()} cannot be resumed: {type(error).__name__}: {first}") from error
        raise
