"""Links in folders, and paths that are not picture files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from perceiver_kit.data.files import find_files, read_picture
from perceiver_kit.errors import InputError

Image = pytest.importorskip("PIL.Image")


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_links_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    here, there = touched(root / "deep" / "a.png"), touched(elsewhere / "b.png")
    (root / "one").symlink_to(elsewhere, target_is_directory=True)
    (root / "two").symlink_to(elsewhere, target_is_directory=True)
    assert sorted(path.resolve() for path in find_files(root, (".png",))) == sorted([here.resolve(), there.resolve()])


def test_cyclic_links_terminate(tmp_path: Path) -> None:
    paths = [touched(tmp_path / "deep" / "a.png"), touched(tmp_path / "other" / "b.png")]
    (tmp_path / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert find_files(tmp_path, (".png",)) == paths


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.png", tmp_path):
        with pytest.raises(InputError, match=f"^no such file: {path}$"):
            read_picture(path, (8, 8))


def test_pipes_are_refused_without_blocking(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    writing = threading.Timer(5, os.close, [os.open(pipe, os.O_RDWR)])  # ends a blocked read
    writing.start()
    with pytest.raises(InputError, match=f"^no such file: {pipe}$"):
        read_picture(pipe, (8, 8))
    assert writing.is_alive()
    writing.cancel()
    os.close(*writing.args)


@pytest.mark.parametrize("cover", [1.0, 2.5])
def test_pictures_too_narrow_to_cover_the_size_are_refused(cover: float, tmp_path: Path) -> None:
    """A row of 20,000 pixels resized to height 64 would be more than a million wide."""
    path = tmp_path / "line.png"
    Image.fromarray(np.zeros((1, 20_000, 3), np.uint8)).save(path)
    high = round(64 * cover)
    with pytest.raises(InputError, match=rf"line\.png has 20000 × 1 pixels: too narrow to be resized to height {high}"):
        read_picture(path, (64, 64), cover=cover)
    assert read_picture(path, (64, 64)).shape == (3, 64, 64)  # the centre crop
