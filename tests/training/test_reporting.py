"""What goes wrong in Lightning, in PyTorch's loader and on the disk leaves a run as an error of the kit."""

from __future__ import annotations

import contextlib
import signal
import threading
from multiprocessing import connection, resource_sharer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.training.reporting import translate_errors
from perceiver_kit.training.saving import Saving

pytestmark = pytest.mark.usefixtures("unchecked")  # data are stood in for
DEAD = "DataLoader worker (pid(s) 7, 8) exited unexpectedly\nmore of it"


def left(
    error: BaseException,
    folder: Path,
    *,
    step: int | None = None,
    started: bool = True,
    ignoring: bool = False,
    **making: list[str],
) -> Any:
    """What leaves a run in ``folder`` that was saved at a step, or never, where something raises this error.

    ``ignoring``: ctrl-c is without effect by then, as Lightning leaves it.
    """
    saving = Saving(folder / "checkpoints" / "last.ckpt", 1)
    saving.started = started
    if step is not None:
        saving.saved = step
        saving.last.parent.mkdir(exist_ok=True)
        saving.last.touch()
    parts = {name: SimpleNamespace(samples_in_progress=lambda found=found: found) for name, found in making.items()}
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
    return f"the checkpoint of step 3 is whole: {folder / 'checkpoints' / 'last.ckpt'}"


def test_a_dead_data_worker_is_told_of_with_what_it_was_making(tmp_path: Path) -> None:
    raised = left(RuntimeError(DEAD), tmp_path)
    assert str(raised) == (
        "a data worker died between two samples (DataLoader worker (pid(s) 7, 8) exited unexpectedly); no checkpoint "
        "was written yet. Where memory ran out, take fewer workers; then resume"
    )
    raised = left(RuntimeError(DEAD), tmp_path, step=3, train=["sample 1 of train"], held_out=["sample 2 of held_out"])
    assert type(raised) is kit.TrainingError
    assert "died while it made sample 1 of train or sample 2 of held_out (DataLoader" in str(raised)
    assert last(tmp_path) in str(raised)


@pytest.mark.parametrize("listening", [False, True])
def test_a_data_worker_that_died_before_its_sample_was_fetched_is_told_of_too(listening: bool, tmp_path: Path) -> None:
    """Its tensors are file descriptors, which it still had to hand over."""
    promised = object.__new__(resource_sharer.DupFd)
    promised._id = (str(tmp_path / "socket"), 1)
    with contextlib.ExitStack() as stack:
        if listening:  # it dies in the middle of it
            listener = stack.enter_context(connection.Listener(promised._id[0]))
            dying = threading.Thread(target=lambda: listener._listener.accept().close())
            dying.start()
            stack.callback(dying.join)
        try:
            promised.detach()
        except (OSError, EOFError) as error:
            raised = left(error, tmp_path, train=["sample 1 of train"])
    assert type(raised) is kit.TrainingError
    assert "a data worker died while it made sample 1 of train" in str(raised)
    assert "take fewer workers" not in str(left(FileNotFoundError("gone"), tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_says_what_takes_less(error: Exception, tmp_path: Path) -> None:
    raised = left(error, tmp_path, step=3)
    assert type(raised) is kit.TrainingError
    assert raised.__cause__ is error
    said = str(error) or "MemoryError"
    assert str(raised) == (
        f"there is not enough memory ({said}); {last(tmp_path)}. Take a smaller batch and accumulate more, or "
        "checkpoint_activations=True"
    )


def test_a_disk_that_refuses_says_what_is_left(tmp_path: Path) -> None:
    error = OSError(28, "No space left on device")
    for started, after in ((True, f"; {last(tmp_path)}"), (False, "")):
        raised = left(error, tmp_path, step=3, started=started)
        assert type(raised) is kit.CheckpointError
        assert str(raised) == f"cannot write to {tmp_path} ([Errno 28] No space left on device){after}"


def test_what_fails_before_a_resumed_run_has_started_is_the_fault_of_its_checkpoint(tmp_path: Path) -> None:
    raised = left(KeyError("optimizer_states"), tmp_path, step=3, started=False)
    assert type(raised) is kit.CheckpointError
    assert str(raised) == f"{tmp_path}/checkpoints/last.ckpt cannot be resumed: KeyError: 'optimizer_states'"


@pytest.mark.parametrize(
    ("error", "started", "step"),
    [
        (ValueError("a bug, before anything was saved"), True, None),
        (ValueError("a bug, long after the last checkpoint was read"), True, 3),
        (ConnectionResetError("the other process is gone"), True, 3),
        (ValueError("a bug before a new run has started"), False, None),
    ],
)
def test_what_is_nobody_s_fault_that_is_known_stays_what_it_is(
    error: Exception, started: bool, step: int | None, tmp_path: Path
) -> None:
    assert left(error, tmp_path, started=started, step=step) is error


def test_lightnings_way_out_after_ctrl_c_is_ctrl_c_and_any_other_stays(tmp_path: Path) -> None:
    interrupt = signal.getsignal(signal.SIGINT)
    stop = SystemExit(1)
    stop.__context__ = KeyboardInterrupt()
    try:
        for error, kind in ((stop, KeyboardInterrupt), (SystemExit(5), SystemExit)):
            raised = left(error, tmp_path, ignoring=True)
            assert type(raised) is kind
            assert kind is KeyboardInterrupt or raised is error
            assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGINT, interrupt)


def test_a_training_in_a_thread_is_stopped_in_the_same_way(tmp_path: Path) -> None:
    """Only the main thread may say what ctrl-c does: another one would raise a ValueError instead."""
    raised: list[BaseException] = []
    stop = SystemExit(1)
    stop.__context__ = KeyboardInterrupt()
    thread = threading.Thread(target=lambda: raised.append(left(stop, tmp_path)))
    thread.start()
    thread.join()
    assert type(raised[0]) is KeyboardInterrupt
