"""Files of folders: links, suffixes, hidden files, splits; pictures."""

from __future__ import annotations

import os
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perceiver_kit.data.files import Pictures, find_files, read_picture, split_files, top_level_files
from perceiver_kit.errors import InputError, MissingPackage

from .making import picture, touch

pytestmark = pytest.mark.usefixtures("checked")


def test_links_are_followed_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    here, there = touch(tmp_path, "root/deep/a.png", "elsewhere/b.png")
    (root / "one").symlink_to(elsewhere, target_is_directory=True)
    (root / "two").symlink_to(elsewhere, target_is_directory=True)
    assert sorted(path.resolve() for path in find_files(root, (".png",))) == sorted([here.resolve(), there.resolve()])


def test_cyclic_links_terminate(tmp_path: Path) -> None:
    paths = touch(tmp_path, "deep/a.png", "other/b.png")
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


def test_other_files_are_skipped_with_a_warning_and_hidden_ones_without(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.png", "a/notes.md", "a/.0.png", "a/._0.png", ".trash/1.png", "a/.b/2.png", ".index")
    with pytest.warns(UserWarning, match=r"skipped files that do not end in \.png: a/notes\.md$"):
        assert find_files(tmp_path, (".png",)) == [tmp_path / "a" / "0.png"]


def test_read_picture_returns_the_pixels_of_the_file(tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png", size=(30, 30))
    assert read_picture(path, (30, 30)).permute(1, 2, 0).numpy().tolist() == np.asarray(Image.open(path)).tolist()
    turned = Image.open(path)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    assert read_picture(tmp_path / "turned.png", (30, 30)).equal(read_picture(path, (30, 30)).rot90(-1, (1, 2)))
    wide = picture(tmp_path / "wide.png", size=(20, 60))
    assert read_picture(wide, (10, 10), cover=2.0).shape == (3, 20, 60)
    centre = np.asarray(Image.open(wide))[:, 20:40]  # cropped, not stretched
    assert read_picture(wide, (20, 20)).permute(1, 2, 0).numpy().tolist() == centre.tolist()
    deep = np.linspace(0, 60_000, 64).reshape(8, 8).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (
        read_picture(tmp_path / "deep.png", (8, 8))[0].flatten().tolist()
        == np.rint(deep.flatten() / 60_000 * 255).tolist()
    )


def test_huge_pictures_are_refused_before_decoding(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 9000, 8000, 8, 2, 0, 0, 0)
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(InputError, match=r"huge\.png has 9000 × 8000 pixels; at most 67,108,864 are read"):
        read_picture(path, (8, 8))


def test_without_pillow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "x.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingPackage, match="reading pictures needs Pillow: pip install Pillow"):
        read_picture(path, (8, 8))


def test_picture_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [picture(tmp_path / f"{number}.png", number) for number in range(4)]
    monkeypatch.setattr("perceiver_kit.data.files.CACHE_BYTES", 2 * 3 * 8 * 8)
    data = Pictures(paths, (8, 8))
    first = [data[index].clone() for index in range(4)]
    assert len(data.cache) == 2
    assert all(data[index].equal(first[index]) for index in range(4))


def test_a_growing_folder_keeps_its_split(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.txt" for number in range(300)))
    before = split_files(tmp_path, (".txt",), lambda path: None)
    assert 15 <= len(before.held_out) <= 45
    assert {*before.train} | {*before.held_out} == {*tmp_path.iterdir()}
    touch(tmp_path, *(f"{number}.txt" for number in range(300, 400)))
    after = split_files(tmp_path, (".txt",), lambda path: None)
    assert {*before.held_out} <= {*after.held_out} and {*before.train} <= {*after.train}
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    same = split_files(moved, (".txt",), lambda path: None)
    assert [path.name for path in same.held_out] == [path.name for path in after.held_out]


def test_one_file_is_always_left_for_training(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{number}.txt" for number in range(300)))
    chosen = split_files(tmp_path, (".txt",), lambda path: None).held_out[:5]
    assert len(chosen) == 5
    for path in {*tmp_path.iterdir()} - {*chosen}:
        path.unlink()
    few = split_files(tmp_path, (".txt",), lambda path: None)
    assert (len(few.train), len(few.held_out)) == (1, 4)


def test_suffixes_are_case_insensitive(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.PNG", "a/1.Jpg", "b/2.png", "3.PNG")
    names = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path, (".png", ".jpg"))]
    assert names == ["3.PNG", "a/0.PNG", "a/1.Jpg", "b/2.png"]
    assert top_level_files(tmp_path, (".png", ".jpg")) == [tmp_path / "3.PNG"]
