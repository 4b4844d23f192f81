"""Generated pictures, texts and videos as files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

RATE = 8000


def touch(root: Path, *names: str) -> list[Path]:
    """Empty files."""
    paths = [root / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    """A file of noise, (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


def pictures(root: Path, *names: str, each: int = 4) -> Path:
    """Pictures in subfolders."""
    for label, name in enumerate(names):
        for number in range(each):
            picture(root / name / f"{number}.png", 10 * label + number)
    return root


def texts(root: Path, *names: str, each: int = 3) -> Path:
    """Texts in subfolders."""
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(each):
            (root / name / f"{number}.txt").write_text(f"{name} is number {number}. " * 30, encoding="utf-8")
    return root


def grey(frames: int, size: tuple[int, int] = (32, 32), light: int = 0, step: int = 3) -> list[np.ndarray]:
    """Frames (h, w, 3) of brightness ``light + step · i``."""
    return [np.full((*size, 3), light + step * i, np.uint8) for i in range(frames)]


def video(
    path: Path,
    frames: Sequence[np.ndarray],
    *,
    fps: Fraction = Fraction(25),
    times: Sequence[int] | None = None,
    sound: np.ndarray | None = None,
    late: float = 0.0,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of frames (h, w, 3), by default at times 0, 1, … / fps, and ``sound`` (samples, 1 or 2) at ``RATE``.

    The sound starts ``late`` seconds after time 0.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("mpeg4", rate=fps)
        (stream.height, stream.width), stream.pix_fmt, stream.bit_rate = frames[0].shape[:2], "yuv420p", 4_000_000
        layout = "mono" if sound is None or sound.shape[1] == 1 else "stereo"
        speaker = None if sound is None else container.add_stream("pcm_s16le", rate=RATE, layout=layout)
        for time, pixels in zip(times or range(len(frames)), frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = time, 1 / fps
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None and speaker is not None:
            packed = (sound * 32767).round().astype(np.int16)
            for first in range(0, len(packed), 500):
                part = packed[first : first + 500].reshape(1, -1)
                speech = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
                speech.sample_rate, speech.time_base = RATE, Fraction(1, RATE)
                speech.pts = round(late * RATE) + first
                container.mux(speaker.encode(speech))
            container.mux(speaker.encode())
    return path
