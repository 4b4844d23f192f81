"""Errors of Lightning, PyTorch's loader and the disk become errors of the kit."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from multiprocessing import connection, resource_sharer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.training.reporting import translate_errors
from perceiver_kit.training.saving import Saving

DEAD = "DataLoader worker (pid(s) 7, 8) exited unexpectedly\nmore of it"


def translated(
    error: BaseException,
    folder: Path,
    *,
    step: int | None = None,
    started: bool = True,
    ignoring: bool = False,
    **current: list[str],
) -> Any:
    """The translation of an error raised by a run in ``folder``, whose last checkpoint is of ``step``.

    ``ignoring`` sets ctrl-c to be ignored, as Lightning does; ``current`` holds samples in progress by data set.
    """
    saving = Saving(folder / "checkpoints" / "last.ckpt", 1)
    saving.started = started
    if step is not None:
        saving.saved_step = step
        saving.last.parent.mkdir(exist_ok=True)
        saving.last.touch()
    parts = {name: SimpleNamespace(samples_in_progress=lambda found=found: found) for name, found in current.items()}
    data: Any = SimpleNamespace(train=SimpleNamespace(samples_in_progress=list), held_out=None)
    vars(data).update(parts)
    try:
        with translate_errors(saving, data, folder):
            if ignoring:
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise error
    except BaseException as raised:
        return raised


def last(folder: Path) -> str:
    return f"the checkpoint of step 3 is intact: {folder / 'checkpoints' / 'last.ckpt'}"


def test_a_dead_data_worker_names_its_sample(tmp_path: Path) -> None:
    raised = translated(RuntimeError(DEAD), tmp_path)
    assert str(raised) == (
        "a data worker died between two samples (RuntimeError: DataLoader worker (pid(s) 7, 8) exited unexpectedly); "
        "no checkpoint was written yet. Resume, with fewer workers if memory ran out"
    )
    raised = translated(
        RuntimeError(DEAD), tmp_path, step=3, train=["sample 1 of train"], held_out=["sample 2 of held_out"]
    )
    assert type(raised) is kit.TrainingError
    assert "died while it made sample 1 of train or sample 2 of held_out (RuntimeError" in str(raised)
    assert last(tmp_path) in str(raised)


@pytest.mark.parametrize("listening", [False, True])
def test_a_data_worker_that_dies_before_its_sample_is_fetched_is_named(listening: bool, tmp_path: Path) -> None:
    """Its tensors are file descriptors, which it sends on request."""
    descriptor = object.__new__(resource_sharer.DupFd)
    descriptor._id = (str(tmp_path / "socket"), 1)
    with contextlib.ExitStack() as stack:
        if listening:  # it dies while it sends them
            listener = stack.enter_context(connection.Listener(descriptor._id[0]))
            dying = threading.Thread(target=lambda: listener._listener.accept().close())
            dying.start()
            stack.callback(dying.join)
        try:
            descriptor.detach()
        except (OSError, EOFError) as error:
            raised = translated(error, tmp_path, train=["sample 1 of train"])
    assert type(raised) is kit.TrainingError
    assert "a data worker died while it made sample 1 of train" in str(raised)
    assert "fewer workers" not in str(translated(FileNotFoundError("gone"), tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_gives_a_hint(error: Exception, tmp_path: Path) -> None:
    raised = translated(error, tmp_path, step=3)
    assert type(raised) is kit.TrainingError
    assert raised.__cause__ is error
    reason = traceback.format_exception_only(error)[0].strip()
    assert str(raised) == (
        f"there is not enough memory ({reason}); {last(tmp_path)}. Take a smaller batch and accumulate more, or "
        "checkpoint_activations=True"
    )


def test_a_full_disk_names_the_last_checkpoint(tmp_path: Path) -> None:
    error = OSError(28, "No space left on device")
    for started, hint in ((True, f"; {last(tmp_path)}"), (False, "")):
        raised = translated(error, tmp_path, step=3, started=started)
        assert type(raised) is kit.CheckpointError
        assert str(raised) == f"cannot write to {tmp_path} (OSError: [Errno 28] No space left on device){hint}"


def test_errors_before_a_resumed_run_starts_name_its_checkpoint(tmp_path: Path) -> None:
    raised = translated(KeyError("optimizer_states"), tmp_path, step=3, started=False)
    assert type(raised) is kit.CheckpointError
    assert str(raised) == f"{tmp_path}/checkpoints/last.ckpt cannot be resumed: KeyError: 'optimizer_states'"


@pytest.mark.parametrize(
    ("error", "started", "step"),
    [
        (ValueError("a bug, before anything was saved"), True, None),
        (ValueError("a bug, after the first step"), True, 3),
        (ConnectionResetError("the other process is gone"), True, 3),
        (ValueError("a bug before a new run has started"), False, None),
    ],
)
def test_unknown_errors_propagate(error: Exception, started: bool, step: int | None, tmp_path: Path) -> None:
    assert translated(error, tmp_path, started=started, step=step) is error


def test_ctrl_c_propagates_and_works_again(tmp_path: Path) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    stop = SystemExit(1)
    stop.__context__ = KeyboardInterrupt()
    try:
        for error, kind in ((stop, KeyboardInterrupt), (SystemExit(5), SystemExit)):
            raised = translated(error, tmp_path, ignoring=True)
            assert type(raised) is kind
            assert kind is KeyboardInterrupt or raised is error
            assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGINT, interrupt)


def test_ctrl_c_in_a_thread_propagates(tmp_path: Path) -> None:
    """Only the main thread may set a signal handler: Python raises ValueError in others."""
    raised: list[BaseException] = []
    stop = SystemExit(1)
    stop.__context__ = KeyboardInterrupt()
    thread = threading.Thread(target=lambda: raised.append(translated(stop, tmp_path)))
    thread.start()
    thread.join()
    assert type(raised[0]) is KeyboardInterrupt
