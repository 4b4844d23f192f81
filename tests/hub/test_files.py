"""Saving replaces files atomically: an interrupted save leaves a complete model, old or new."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

import perceiver_kit as kit
from perceiver_kit.hub import files

from .. import fresh
from .test_checkpoint import same, small


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("nth", [0, 1])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt("stop")], ids=["full", "ctrl-c"]
)
def test_an_interrupted_save_leaves_a_complete_model(
    call: str, nth: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = small(latents=4, seed=1), small(latents=5, seed=2)
    kit.save(old, tmp_path)
    calls, real = [], getattr(os, call)

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) > nth:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, failing)
    expected = kit.CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=r"No space left on device|stop"):
        kit.save(new, tmp_path)
    monkeypatch.undo()
    assert same(kit.load(tmp_path), new if (call, nth) == ("replace", 1) else old)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]  # no partial files
    kit.save(new, tmp_path)
    assert same(kit.load(tmp_path), new)


KILLED = """
    import os, shutil, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)  # threads do not survive a fork
    import perceiver_kit as kit

    new, root, moments = kit.load(sys.argv[2]), Path(sys.argv[1]), sys.argv[3:]
    for moment in moments:
        child = os.fork()
        if child == 0:
            call, when, nth = moment.split("-")
            real, left = getattr(os, call), [int(nth)]

            def killed(*arguments, **options):
                left[0] -= 1
                if left[0] == 0 and when == "after":
                    real(*arguments, **options)
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            setattr(os, call, killed)
            kit.save(new, root / moment)
            os._exit(0)
        print(moment, os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
# In temporal order. The second rename is of config.json, which loading does not need.
MOMENTS = {
    "fdopen-before-1": "old",  # an empty temporary file
    "fsync-before-1": "old",  # written, perhaps not to disk
    "fsync-after-1": "old",
    "fsync-before-2": "old",  # both temporary files complete
    "replace-before-1": "old",
    "replace-after-1": "new",
    "replace-before-2": "new",
    "replace-after-2": "new",
    "fsync-before-3": "new",
}


def test_a_killed_save_leaves_a_complete_model(tmp_path: Path) -> None:
    old, new = small(latents=4, seed=1), small(latents=5, seed=2)
    kit.save(new, tmp_path / "new")
    for moment in MOMENTS:
        kit.save(old, tmp_path / moment)
    status, out, errors = fresh.run(KILLED, str(tmp_path), str(tmp_path / "new"), *MOMENTS)
    assert status == 0, errors
    assert out.splitlines() == [f"{moment} 9" for moment in MOMENTS]
    for moment, expected in MOMENTS.items():
        assert same(kit.load(tmp_path / moment), {"old": old, "new": new}[expected]), moment
        kit.save(new, tmp_path / moment)
        assert same(kit.load(tmp_path / moment), new), moment
        assert sorted(os.listdir(tmp_path / moment)) == ["config.json", "model.safetensors"], moment


def test_a_disk_full_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.FileIO):
        def write(self, content: bytes) -> int:
            super().write(content[: len(content) // 2])
            raise OSError(28, "No space left on device")

    old = small(seed=1)
    kit.save(old, tmp_path)
    monkeypatch.setattr(files.os, "fdopen", Full)
    with pytest.raises(kit.CheckpointError, match=r"cannot save to .*: No space left on device"):
        kit.save(small(seed=2), tmp_path)
    monkeypatch.undo()
    assert same(kit.load(tmp_path), old)
    assert len([*tmp_path.iterdir()]) == 2


WITHOUT_LOCKS = """
    import sys
    from pathlib import Path

    import safetensors.torch, torch

    sys.modules["fcntl"] = None  # as on Windows
    import perceiver_kit as kit
    from perceiver_kit.hub import files

    assert files.fcntl is None
    folder = Path(sys.argv[1])
    (folder / f".model.safetensors.abcd1234{files.SUFFIX}").write_bytes(b"half")
    for seed in range(2):
        torch.manual_seed(seed)
        model = kit.build("sequence_classification", preset="tiny")
        kit.save(model, folder)
        loaded = kit.load(folder)
        assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))
    print(*sorted(path.name for path in folder.iterdir()))
"""


def test_without_file_locks_saving_works_and_keeps_partial_files(tmp_path: Path) -> None:
    """A partial file may belong to another process that is still writing."""
    status, out, errors = fresh.run(WITHOUT_LOCKS, str(tmp_path))
    assert status == 0, errors
    assert out.split() == [".model.safetensors.abcd1234.saving", "config.json", "model.safetensors"]
