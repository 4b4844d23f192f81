"""After any fault while saving, exactly one of the saved states loads."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from pathlib import Path
from random import Random

import pytest

import perceiver_kit as kit
from perceiver_kit.hub.files import SUFFIX

from .injecting import Saver, failing, injected, tidy, which
from .states import state

SYSTEM = [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.ENOENT]
CALLS = ["mkdir", "open", "fdopen", "fsync", "chmod", "replace", "unlink"]


@injected(share=4)
def test_failing_system_calls(rng: Random, folder: Path) -> None:
    """Full, read-only and broken disks, quotas and ctrl-c, at any call of a save."""
    before, after = rng.sample(range(4), 2)
    directory = folder / "model"
    kit.save(state(before), directory)
    number = rng.choice(SYSTEM)
    error = rng.choice([OSError(number, os.strerror(number))] * 3 + [KeyboardInterrupt()])
    refused: BaseException | None = None
    with failing(rng.choice(CALLS), rng.randint(1, 4), error):
        try:
            kit.save(state(after), directory)
        except (kit.CheckpointError, KeyboardInterrupt) as raised:
            refused = raised
    if isinstance(refused, kit.CheckpointError):
        assert str(refused) == f"cannot save to {directory}: {os.strerror(number)}"
    assert refused is None or isinstance(refused, KeyboardInterrupt) == isinstance(error, KeyboardInterrupt)
    assert which(directory) in (before, after)
    kit.save(state(after), directory)
    assert which(directory) == after
    assert tidy(directory)


@injected(share=2)
def test_full_disks(rng: Random, folder: Path) -> None:
    """Writing fails in the middle of a file."""
    before, after = rng.sample(range(4), 2)
    kit.save(state(before), folder)
    size = max(file.stat().st_size for file in folder.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(size // 2), hard))  # Python ignores the signal
    try:
        with pytest.raises(kit.CheckpointError, match=f"cannot save to {folder}: File too large"):
            kit.save(state(after), folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert which(folder) == before
    assert tidy(folder)


@injected(share=2)
def test_unwritable_folders(rng: Random, folder: Path, saver: Saver) -> None:
    """A read-only folder, or a file in its place."""
    number = rng.randrange(4)
    directory = folder / "model"
    kit.save(state(number), directory)
    folder.chmod(0o755)
    directory.chmod(0o555)
    if rng.random() < 0.3:
        told = directory / "model.safetensors" / "inside"
    else:
        told = rng.choice([directory, directory / "deeper"])
    [answer] = saver(seed=rng.random(), directory=str(told), states=4, saves=1, nobody=os.getuid() == 0)
    assert answer["ended"] == 0, answer
    [error] = answer["errors"]
    assert error.startswith(f"CheckpointError: cannot save to {told}: ")
    assert error.endswith(("Permission denied", "Not a directory"))
    assert which(directory) == number
    assert tidy(directory)


@injected(share=4)
def test_kills_while_saving(rng: Random, folder: Path, saver: Saver) -> None:
    """SIGKILL at any moment of repeated saves."""
    kit.save(state(0), folder)
    [answer] = saver(
        seed=rng.random(), directory=str(folder), states=4, saves=9999, kill_after=rng.uniform(0.002, 0.06)
    )
    assert answer["ended"] == -9
    assert which(folder) in range(4)
    # Only the unfinished files are left over; the next save removes them.
    assert len([*folder.glob(f"*{SUFFIX}")]) <= 2
    kit.save(state(1), folder)
    assert which(folder) == 1
    assert tidy(folder)


@injected(share=2)
def test_processes_saving_to_one_folder(rng: Random, folder: Path, saver: Saver) -> None:
    """Two or three processes save and load; sometimes one is killed."""
    kit.save(state(0), folder)
    children = rng.choice([2, 2, 3])
    killed = dict(kill_after=rng.uniform(0.005, 0.05), killed=1) if rng.random() < 0.4 else {}
    told = dict(seed=rng.random(), directory=str(folder), states=4, children=children, saves=rng.randint(3, 8))
    answers = saver(**told, loads=True, **killed)
    for number, answer in enumerate(answers):
        assert answer["errors"] == []
        assert answer["ended"] in ((0, -9) if killed and number == 0 else (0,))
    assert which(folder) in range(4)
    kit.save(state(2), folder)
    assert which(folder) == 2
    assert tidy(folder)


@injected(share=2)
def test_files_after_a_power_cut(rng: Random, folder: Path) -> None:
    """Left-over temporary files, a truncated or missing config.json: the saved state loads, the next save tidies up."""
    number = rng.randrange(4)
    kit.save(state(number), folder)
    content = (kit.save(state(rng.randrange(4)), folder / "other") / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "other")
    for _ in range(rng.randint(1, 5)):
        name = f".{rng.choice(['config.json', 'model.safetensors'])}.{rng.randbytes(4).hex()}{SUFFIX}"
        (folder / name).write_bytes(content[: rng.randrange(len(content))])
    config = folder / "config.json"
    match rng.choice(["cut", "empty", "zeros", "gone", "whole"]):
        case "cut":
            config.write_text(config.read_text()[: rng.randrange(99)])
        case "empty":
            config.write_bytes(b"")
        case "zeros":
            config.write_bytes(bytes(config.stat().st_size))
        case "gone":
            config.unlink()
    assert which(folder) == number
    kit.save(state(number), folder)
    assert tidy(folder)
    assert which(folder) == number


def test_files_of_other_processes_are_kept(tmp_path: Path) -> None:
    """A locked file has a living writer; a file with another naming scheme is not the kit's."""
    fcntl = pytest.importorskip("fcntl")
    kit.save(state(0), tmp_path)
    being_written = tmp_path / f".model.safetensors.abcd1234{SUFFIX}"
    foreign = tmp_path / ".model.safetensors.Xy12Zt"  # as rsync names partial files
    foreign.write_bytes(b"half")
    with open(being_written, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        kit.save(state(1), tmp_path)
        assert being_written.exists()
    kit.save(state(2), tmp_path)
    assert not being_written.exists()
    assert foreign.read_bytes() == b"half"
    assert which(tmp_path) == 2


def test_a_save_survives_the_removal_of_its_unlocked_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may remove the file between its creation and its lock."""
    from perceiver_kit.hub import files

    real, removed = files.tempfile.mkstemp, []

    def made(**options: str) -> tuple[int, str]:
        descriptor, name = real(**options)
        if len(removed) < 2:
            os.unlink(name)
            removed.append(name)
        return descriptor, name

    monkeypatch.setattr(files.tempfile, "mkstemp", made)
    kit.save(state(1), tmp_path)
    assert len(removed) == 2
    assert which(tmp_path) == 1
    assert tidy(tmp_path)
