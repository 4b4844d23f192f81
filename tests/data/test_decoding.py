"""What a video file claims is bounded before it is believed: on files whose first line says whatever a test wants."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perceiver_kit.data import decoding, video
from perceiver_kit.data.video import load_clip
from perceiver_kit.errors import InputError

av = pytest.importorskip("av")


def raw(path: Path, *, size: tuple[int, int] = (8, 8), rate: str = "25:1", frames: int = 3) -> Path:
    """An uncompressed video (YUV4MPEG2), of grey frames that are as large as its header says unless that is huge."""
    pixels = min(size[0] * size[1], 2**16)
    head = f"YUV4MPEG2 W{size[1]} H{size[0]} F{rate} C420jpeg\n".encode()
    path.write_bytes(head + b"".join(b"FRAME\n" + bytes([5 * i]) * pixels + bytes(pixels // 2) for i in range(frames)))
    return path


@contextmanager
def memory(mebibytes: int) -> Iterator[None]:
    """At most so much above what the process has."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + mebibytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def counting(decoded: list[Any]) -> Callable[[Any], Iterator[Any]]:
    """What ``load_clip`` takes for ``progress``: keeps the time of every frame that is decoded."""

    def watched(frames: Any) -> Iterator[Any]:
        for frame in frames:
            decoded.append(frame.time)
            yield frame

    return watched


def test_frames_that_a_header_says_are_huge_are_refused_before_any_is_decoded(tmp_path: Path) -> None:
    path, decoded = raw(tmp_path / "huge.y4m", size=(8000, 9000)), []
    with pytest.raises(InputError, match=r"huge\.y4m has frames of 8000 × 9000; at most 67,108,864 pixels"):
        load_clip(path, size=8, progress=counting(decoded))
    assert not decoded


def test_a_rate_of_frames_that_no_camera_has_is_refused_and_another_can_be_given(tmp_path: Path) -> None:
    path = raw(tmp_path / "fast.y4m", rate="90000000:1")
    with pytest.raises(InputError, match=r"fast\.y4m says that it has 9e\+07 frames a second; give fps"):
        load_clip(path, size=8)
    assert load_clip(path, size=8, fps=25).fps == 25


def test_a_frame_too_narrow_to_cover_the_size_is_refused_with_its_file(tmp_path: Path) -> None:
    """Scaled until it is 4096 high it would be 131,072 wide, of which one column would stay."""
    path = raw(tmp_path / "narrow.y4m", size=(2, 64))
    with pytest.raises(InputError, match=r"narrow\.y4m: a frame of 2 × 64 pixels is .* too narrow, for \(4096, 1\)"):
        load_clip(path, size=(4096, 1))


def test_a_codec_that_is_not_known_is_named_as_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "odd.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    with pytest.raises(InputError, match=r"odd\.avi has a video stream of a kind that cannot be decoded here"):
        load_clip(path, size=8)


def test_more_frames_than_memory_has_room_for_are_refused_before_they_are_made(tmp_path: Path) -> None:
    path = raw(tmp_path / "long.y4m", frames=40)
    with memory(1024), pytest.raises(InputError, match=r"long\.y4m would have 19,660,800,000 values, at most 4,294,9"):
        load_clip(path, size=32, fps=4e6)


def test_so_is_more_sound(tmp_path: Path) -> None:
    path = raw(tmp_path / "slow.y4m")
    with memory(1024), pytest.raises(InputError, match=r"slow\.y4m would have 8,388,608,000 values, at most 4,294,967"):
        load_clip(path, size=8, fps=5e-4, rate=decoding.HIGHEST_RATE)


def test_a_file_with_too_many_frames_is_not_decoded_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few of them would be shown."""
    path, decoded = raw(tmp_path / "long.y4m", frames=40), []
    monkeypatch.setattr(decoding, "MOST_VALUES", 10 * 3 * 8 * 8)
    with pytest.raises(InputError, match=r"long\.y4m would have 2,112 values, at most 1,920; lower seconds"):
        load_clip(path, size=8, fps=1, progress=counting(decoded))
    assert len(decoded) == 11
    assert len(load_clip(path, size=8, fps=1, seconds=0.4, rate=1000).frames) == 1


def test_frames_that_do_not_fit_into_memory_are_refused_with_what_to_lower(tmp_path: Path) -> None:
    path = raw(tmp_path / "large.y4m")
    with memory(100), pytest.raises(InputError, match=r"large\.y4m does not fit into memory; lower seconds, fps or si"):
        load_clip(path, size=8000)


def test_so_is_sound(tmp_path: Path) -> None:
    path = raw(tmp_path / "slow.y4m")
    with memory(400), pytest.raises(InputError, match=r"slow\.y4m does not fit into memory; lower seconds, fps, rate "):
        load_clip(path, size=8, fps=0.05, rate=decoding.HIGHEST_RATE)


def test_what_is_no_lack_of_memory_is_not_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("this should not have happened")

    monkeypatch.setattr(video, "read_audio", broken)
    with pytest.raises(RuntimeError, match="this should not have happened"):
        load_clip(raw(tmp_path / "fine.y4m"), size=8)
