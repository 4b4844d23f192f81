"""Decode frames and sound of a video file with PyAV. Sizes and rates in its header are checked before decoding."""

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

MAX_PIXELS = 2**26
"""The most pixels per frame."""
MAX_VALUES = 2**32
"""The most values per clip: 16 GiB as float32."""
MAX_RATE = 2**22
"""The highest rate of samples or frames per second."""


@contextmanager
def open_video(path: Path) -> Iterator[Any]:
    """Open a container with PyAV; any error while reading becomes an InputError that names the file."""
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
        reason = getattr(error, "strerror", None) or error
        message = f"{path} cannot be read as video or sound ({reason}); it may be damaged or truncated"
        raise InputError(message) from error


def check_memory(path: Path, values: int) -> None:
    """Raise InputError for a clip of more than ``MAX_VALUES`` values."""
    if values > MAX_VALUES:
        raise InputError(f"{path} would have {values:,} values, at most {MAX_VALUES:,}; lower seconds, fps or size")


def read_frames(
    path: Path,
    size: Sequence[int],
    fps: int | float | None,
    seconds: int | float,
    progress: Callable[[Iterable[Any]], Iterable[Any]],
    *,
    channels: int = 3,
) -> tuple[list[np.ndarray], float, float]:
    """Resized uint8 frames, one per 1 / fps seconds; fps; and the time of the first frame in seconds.

    Frames are (h, w, 3), or (h, w) if ``channels`` is 1.
    """
    with open_video(path) as container:
        if not container.streams.video:
            raise InputError(f"{path} has no video stream")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise InputError(f"{path} has a video stream with an unsupported codec")
        if stream.width * stream.height > MAX_PIXELS:  # from the header, before decoding
            raise InputError(f"{path} has frames of {stream.height} × {stream.width}; at most {MAX_PIXELS:,} pixels")
        stream.thread_type = "AUTO"
        fps = float((stream.average_rate or stream.guessed_rate or 25) if fps is None else fps)
        if not 0 < fps <= MAX_RATE:
            raise InputError(f"{path} declares {fps:g} frames per second; pass fps")
        frames, start = _resample(path, progress(container.decode(stream)), size, fps, seconds, channels)
        declared = min(float((stream.duration or 0) * (stream.time_base or 0)), seconds)
    if not frames or len(frames) + 1 < 0.9 * declared * fps:
        raise InputError(f"{path} is truncated: expected {declared:.2f} s, got {len(frames) / fps:.2f} s")
    return frames, fps, start


def _resample(
    path: Path, decoded: Iterable[Any], size: Sequence[int], fps: float, seconds: int | float, channels: int
) -> tuple[list[np.ndarray], float]:
    """Resize the decoded frames and choose the one shown at each multiple of 1 / fps."""
    times: list[float] = []
    resized: list[np.ndarray] = []
    end = 0.0
    for index, frame in enumerate(decoded):
        time = index / fps if frame.time is None else frame.time
        if times and time - times[0] >= seconds:
            break
        times.append(time)
        resized.append(_resize(frame, *size, channels=channels))
        check_memory(path, len(resized) * resized[0].size)
        duration = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 1 / fps
        end = time - times[0] + duration
    if not times:
        return [], 0.0
    slots = max(1, round(min(end, seconds) * fps))
    check_memory(path, slots * resized[0].size)
    shown = np.searchsorted(np.array(times), times[0] + (np.arange(slots) + 0.5) / fps, side="right") - 1
    return [resized[index] for index in shown], times[0]


def _resize(frame: Any, height: int, width: int, *, channels: int) -> np.ndarray:
    """A frame resized to cover (height, width), centre-cropped and rotated upright: uint8 (height, width[, 3])."""
    turns = round(frame.rotation / 90) % 4
    tall, wide = (height, width) if turns % 2 == 0 else (width, height)
    scale = max(tall / frame.height, wide / frame.width)
    to_tall, to_wide = max(tall, round(frame.height * scale)), max(wide, round(frame.width * scale))
    if max(frame.height * frame.width, to_tall * to_wide) > MAX_PIXELS:  # before the crop
        raise InputError(
            f"a frame of {frame.height} × {frame.width} pixels is too large or too narrow for {(height, width)}"
        )
    interpolation = "AREA" if scale < 1 else "BICUBIC"
    scaled = frame.reformat(
        to_wide, to_tall, "rgb24" if channels == 3 else "gray", interpolation=interpolation
    ).to_ndarray()
    top, left = (to_tall - tall) // 2, (to_wide - wide) // 2
    return np.ascontiguousarray(np.rot90(scaled[top : top + tall, left : left + wide], turns))


def read_audio(path: Path, start: float, rate: int, samples: int, *, pad: bool = True) -> Float[Tensor, "samples"]:
    """Mono sound from ``start`` seconds on, truncated to ``samples``, and zero-padded to them if ``pad``."""
    parts: list[np.ndarray] = []
    delay, missing = 0, samples
    with open_video(path) as container:
        import av

        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)  # mixes without clipping
        decoded = container.decode(audio=0) if container.streams.audio else ()
        for index, frame in enumerate(chain(decoded, [None])):
            if index == 0 and frame is not None:
                delay = min(samples, round(((frame.time or 0.0) - start) * rate))
                missing -= delay
            for part in resampler.resample(frame):
                parts.append(part.to_ndarray()[0])
                missing -= part.samples
            if missing <= 0:
                break
    mono = np.concatenate([np.zeros(max(0, delay), np.int16), *parts])[max(0, -delay) :][:samples]
    mono = np.pad(mono, (0, samples - len(mono))) if pad else mono
    return torch.from_numpy(mono.astype(np.float32) / 32768)
