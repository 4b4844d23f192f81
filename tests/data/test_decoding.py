"""Sizes and rates in a video header are checked before decoding, on files with false headers."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from perceiver_kit.data import decoding, video
from perceiver_kit.data.video import load_clip
from perceiver_kit.errors import InputError

from .making import grey
from .making import video as write_video

pytestmark = pytest.mark.usefixtures("checked")


def raw(path: Path, *, size: tuple[int, int] = (8, 8), rate: str = "25:1", frames: int = 3) -> Path:
    """An uncompressed video (YUV4MPEG2) of grey frames; a huge one has less data than its header claims."""
    pixels = min(size[0] * size[1], 2**16)
    head = f"YUV4MPEG2 W{size[1]} H{size[0]} F{rate} C420jpeg\n".encode()
    path.write_bytes(head + b"".join(b"FRAME\n" + bytes([5 * i]) * pixels + bytes(pixels // 2) for i in range(frames)))
    return path


@contextmanager
def memory(mebibytes: int) -> Iterator[None]:
    """Limit the process to this much more memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + mebibytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def counting(decoded: list[Any]) -> Callable[[Any], Iterator[Any]]:
    """A ``progress`` for ``load_clip`` that records the time of every decoded frame."""

    def watched(frames: Any) -> Iterator[Any]:
        for frame in frames:
            decoded.append(frame.time)
            yield frame

    return watched


def test_huge_frames_are_refused_before_decoding(tmp_path: Path) -> None:
    path, decoded = raw(tmp_path / "huge.y4m", size=(8000, 9000)), []
    with pytest.raises(InputError, match=r"huge\.y4m has frames of 8000 × 9000; at most 67,108,864 pixels"):
        load_clip(path, size=8, progress=counting(decoded))
    assert not decoded


def test_an_absurd_frame_rate_is_refused_and_can_be_overridden(tmp_path: Path) -> None:
    path = raw(tmp_path / "fast.y4m", rate="90000000:1")
    with pytest.raises(InputError, match=r"fast\.y4m declares 9e\+07 frames per second; pass fps"):
        load_clip(path, size=8)
    assert load_clip(path, size=8, fps=25).fps == 25


def test_frames_too_narrow_to_cover_the_size_are_refused(tmp_path: Path) -> None:
    """Resized to height 4096 the frame would be 131,072 wide."""
    path = raw(tmp_path / "narrow.y4m", size=(2, 64))
    with pytest.raises(InputError, match=r"narrow\.y4m: a frame of 2 × 64 pixels is .* too narrow for \(4096, 1\)"):
        load_clip(path, size=(4096, 1))


def test_unsupported_codecs_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.avi", grey(1))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    with pytest.raises(InputError, match=r"odd\.avi has a video stream with an unsupported codec"):
        load_clip(path, size=8)


@pytest.mark.parametrize(
    ("frames", "values", "options"),
    [
        (40, "19,660,800,000", dict(size=32, fps=4e6)),
        (3, "8,388,608,000", dict(size=8, fps=5e-4, rate=decoding.MAX_RATE)),
    ],
    ids=["frames", "sound"],
)
def test_too_many_values_are_refused_before_allocation(tmp_path: Path, frames: int, values: str, options: dict) -> None:
    path = raw(tmp_path / "long.y4m", frames=frames)
    with memory(1024), pytest.raises(InputError, match=rf"long\.y4m would have {values} values, at most 4,294,967,296"):
        load_clip(path, **options)


def test_decoding_stops_at_the_limit_of_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if few of the decoded frames are used."""
    path, decoded = raw(tmp_path / "long.y4m", frames=40), []
    monkeypatch.setattr(decoding, "MAX_VALUES", 10 * 3 * 8 * 8)
    with pytest.raises(InputError, match=r"long\.y4m would have 2,112 values, at most 1,920; lower seconds"):
        load_clip(path, size=8, fps=1, progress=counting(decoded))
    assert len(decoded) == 11
    assert len(load_clip(path, size=8, fps=1, seconds=0.4, rate=1000).frames) == 1


@pytest.mark.parametrize(
    ("mebibytes", "options", "lower"),
    [(100, dict(size=8000), "fps or size"), (400, dict(size=8, fps=0.05, rate=decoding.MAX_RATE), "fps, rate or size")],
    ids=["frames", "sound"],
)
def test_clips_that_do_not_fit_into_memory_are_refused(
    tmp_path: Path, mebibytes: int, options: dict, lower: str
) -> None:
    path = raw(tmp_path / "large.y4m")
    message = rf"large\.y4m does not fit into memory; lower seconds, {lower}"
    with memory(mebibytes), pytest.raises(InputError, match=message):
        load_clip(path, **options)


def test_other_runtime_errors_propagate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("unrelated")

    monkeypatch.setattr(video, "read_audio", broken)
    with pytest.raises(RuntimeError, match="unrelated"):
        load_clip(raw(tmp_path / "fine.y4m"), size=8)
