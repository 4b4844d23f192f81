"""Frames and sound out of a video file, as PyAV decodes them; what the file claims is bounded before it is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from perceiver_kit.errors import InputError, MissingPackage

MOST_PIXELS = 2**26
"""Pixels of the largest frame that is decoded."""
MOST_VALUES = 2**32
"""Values of the longest clip that is read: 16 GiB as float32."""
HIGHEST_RATE = 2**22
"""Samples a second of the highest rate that sound is read at, and frames a second."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A container that PyAV has open; whatever it raises while it reads is an InputError that names the file."""
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise MissingPackage("reading video needs PyAV: pip install av") from None
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            yield container
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except MemoryError as error:
        raise InputError(f"{path} does not fit into memory; lower seconds, fps or size") from error
    except (FFmpegError, EOFError, ValueError, ArithmeticError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read as video ({why}); it may be damaged or cut off") from error


def check_memory(path: Path, values: int) -> None:
    """No clip has more values than ``MOST_VALUES``, whatever times its file claims."""
    if values > MOST_VALUES:
        raise InputError(f"{path} would have {values:,} values, at most {MOST_VALUES:,}; lower seconds, fps or size")


def read_frames(
    path: Path,
    size: Sequence[int],
    fps: int | float | None,
    seconds: int | float,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
) -> tuple[list[np.ndarray], float, float]:
    """Small frames (h, w, 3) uint8, one for each slot of 1 / fps seconds; fps; and when the first began, in seconds."""
    with opened(path) as container:
        if not container.streams.video:
            raise InputError(f"{path} has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise InputError(f"{path} has a video stream of a kind that cannot be decoded here")
        if stream.width * stream.height > MOST_PIXELS:  # as its header says, before anything is decoded
            raise InputError(f"{path} has frames of {stream.height} × {stream.width}; at most {MOST_PIXELS:,} pixels")
        stream.thread_type = "AUTO"
        fps = float((stream.average_rate or stream.guessed_rate or 25) if fps is None else fps)
        if not 0 < fps <= HIGHEST_RATE:
            raise InputError(f"{path} says that it has {fps:g} frames a second; give fps")
        frames, began = _frames(path, progress(container.decode(stream)), size, fps, seconds)
        promised = min(float((stream.duration or 0) * (stream.time_base or 0)), seconds)
    if not frames or len(frames) + 1 < 0.9 * promised * fps:
        raise InputError(f"{path} is cut off: {len(frames) / fps:.2f} s can be read, {promised:.2f} s are promised")
    return frames, fps, began


def _frames(
    path: Path, decoded: Iterable[Any], size: Sequence[int], fps: float, seconds: int | float
) -> tuple[list[np.ndarray], float]:
    times: list[float] = []
    small: list[np.ndarray] = []
    end = 0.0
    for index, frame in enumerate(decoded):
        time = index / fps if frame.time is None else frame.time
        if times and time - times[0] >= seconds:
            break
        times.append(time)
        small.append(_small(frame, *size))
        check_memory(path, len(small) * small[0].size)
        lasts = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / fps
        end = time - times[0] + lasts
    if not times:
        return [], 0.0
    slots = max(1, round(min(end, seconds) * fps))
    check_memory(path, slots * small[0].size)
    shown = np.searchsorted(np.array(times), times[0] + (np.arange(slots) + 0.5) / fps, side="right") - 1
    return [small[index] for index in shown], times[0]


def _small(frame: Any, height: int, width: int) -> np.ndarray:
    """Scaled until it covers (height, width), the centre cut out, upright: uint8 (height, width, 3)."""
    turns = round(frame.rotation / 90) % 4
    tall, wide = (height, width) if turns % 2 == 0 else (width, height)
    scale = max(tall / frame.height, wide / frame.width)
    to_tall, to_wide = max(tall, round(frame.height * scale)), max(wide, round(frame.width * scale))
    if max(frame.height * frame.width, to_tall * to_wide) > MOST_PIXELS:  # of which only the centre would stay
        raise InputError(
            f"a frame of {frame.height} × {frame.width} pixels is too large, or too narrow, for {(height, width)}"
        )
    how = "AREA" if scale < 1 else "BICUBIC"
    scaled = frame.reformat(to_wide, to_tall, "rgb24", interpolation=how).to_ndarray()
    top, left = (to_tall - tall) // 2, (to_wide - wide) // 2
    return np.ascontiguousarray(np.rot90(scaled[top : top + tall, left : left + wide], turns))


def read_audio(path: Path, began: float, rate: int, samples: int) -> Float[Tensor, "samples"]:
    """Mono sound from ``began`` seconds on, cut or padded with zeros to ``samples``."""
    parts: list[np.ndarray] = []
    late, missing = 0, samples
    with opened(path) as container:
        import av

        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)  # mixes without clipping
        decoded = container.decode(audio=0) if container.streams.audio else ()
        for index, frame in enumerate(chain(decoded, [None])):
            if index == 0 and frame is not None:
                late = min(samples, round(((frame.time or 0.0) - began) * rate))
                missing -= late
            for part in resampler.resample(frame):
                parts.append(part.to_ndarray()[0])
                missing -= part.samples
            if missing <= 0:
                break
    mono = np.concatenate([np.zeros(max(0, late), np.int16), *parts])[max(0, -late) :][:samples]
    return torch.from_numpy(np.pad(mono, (0, samples - len(mono))).astype(np.float32) / 32768)
