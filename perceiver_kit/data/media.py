"""Sound of any format as a tensor, and tensors as sound and video files."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from perceiver_kit.checking import check_finite, check_positive, check_tensor, writing
from perceiver_kit.errors import InputError, MissingPackage, nearest
from perceiver_kit.hub.files import write_atomically

from .decoding import MAX_RATE, MAX_VALUES, open_video, read_audio

# Container, video codec with pixel format and options, and audio codec by suffix. Only mp4 loses anything.
FORMATS = {
    ".wav": ("wav", None, "pcm_s16le"),
    ".flac": ("flac", None, "flac"),
    ".mkv": ("matroska", ("ffv1", "bgr0", {}), "flac"),
    ".mp4": ("mp4", ("libx264", "yuv420p", {"crf": "18"}), "aac"),
}


def window_starts(length: int, window: int) -> list[int]:
    """Where windows begin that cover a length: adjacent ones, the last flush with the end; [0] for a shorter length.

    >>> window_starts(10, 4), window_starts(8, 4), window_starts(3, 4)
    ([0, 4, 6], [0, 4], [0])
    """
    return sorted({min(start, max(0, length - window)) for start in range(0, max(1, length), window)})


def load_audio(path: str | Path, *, rate: int = 16_000, seconds: int | float = math.inf) -> Float[Tensor, "samples"]:
    """The sound of a file as float32 (samples,) in [-1, 1]: mono, resampled to ``rate``, at most ``seconds`` of it.

    Any sound or video that PyAV reads. Raises InputError, naming the file, if it is missing, damaged or without sound;
    MissingPackage without PyAV.
    """
    if not seconds > 0:
        raise InputError(f"load_audio: seconds must be above 0, got {seconds!r}")
    check_positive("load_audio", most=MAX_RATE, rate=rate)
    path = Path(path)
    with open_video(path) as container:
        if not container.streams.audio:
            raise InputError(f"{path} has no sound")
        start = float((container.streams.audio[0].start_time or 0) * (container.streams.audio[0].time_base or 0))
    audio = read_audio(path, start, rate, int(min(seconds * rate, MAX_VALUES)), pad=False)
    if not len(audio):
        raise InputError(f"{path} has no sound: it is empty or truncated")
    return audio


def write_audio(path: str | Path, audio: Float[Tensor, "samples"], rate: int) -> Path:
    """Write mono sound (samples,) in [-1, 1] as .wav, .flac (both 16 bits), .mkv or .mp4; louder values are clipped.

    The file is complete or unchanged. Raises InputError for an unknown suffix, NaN, or a path that cannot be written.

    >>> import tempfile
    >>> file = write_audio(tempfile.mktemp(suffix=".wav"), torch.linspace(-1, 1, 16_000), rate=16_000)
    >>> load_audio(file, rate=8_000).shape
    torch.Size([8000])
    """
    return _write(path, media_bytes(Path(path).suffix, None, None, audio, rate))


def write_video(
    path: str | Path,
    frames: Float[Tensor, "t 3 h w"],
    fps: int | float,
    audio: Float[Tensor, "samples"] | None = None,
    rate: int | None = None,
) -> Path:
    """Write frames (t, 3, h, w) in [-1, 1], with sound if given, as .mkv (lossless) or .mp4; values are clipped.

    The file is complete or unchanged. Raises InputError for an unknown suffix, NaN, an odd height or width in .mp4, or
    a path that cannot be written.
    """
    return _write(path, media_bytes(Path(path).suffix, frames, fps, audio, rate))


def media_bytes(
    suffix: str,
    frames: Float[Tensor, "t 3 h w"] | None = None,
    fps: int | float | None = None,
    audio: Float[Tensor, "samples"] | None = None,
    rate: int | None = None,
) -> bytes:
    """The content of the file that ``write_audio`` (without frames) or ``write_video`` writes; the same errors.

    >>> media_bytes(".mp4", torch.zeros(4, 3, 32, 32), 25, torch.zeros(7680), 48_000)[4:8]
    b'ftyp'
    """
    known = [name for name, (_, video, _) in FORMATS.items() if frames is None or video]
    if suffix.lower() not in known:
        raise InputError(f"the suffix {suffix!r} is unknown; {nearest(suffix, known)}")
    container, video, sound = FORMATS[suffix.lower()]
    if frames is not None:
        check_tensor(frames, "frames", "t 3 h w")
        check_finite(frames, "frames")
        if not isinstance(fps, int | float) or not 0 < fps <= MAX_RATE:
            raise InputError(f"fps must be above 0 and at most {MAX_RATE}, got {fps!r}")
        if suffix.lower() == ".mp4" and (frames.shape[2] % 2 or frames.shape[3] % 2):
            raise InputError(f".mp4 needs an even height and width, got {tuple(frames.shape)}; use .mkv")
    if audio is not None:
        check_tensor(audio, "audio", "samples", hint="mono")
        check_finite(audio, "audio")
        check_positive("audio", most=MAX_RATE, rate=rate)  # type: ignore[arg-type]
    buffer = io.BytesIO()
    with _container(buffer, container) as out:
        streams = []
        if frames is not None and video is not None and fps is not None:
            codec, pixels, options = video
            stream = out.add_stream(codec, rate=Fraction(fps).limit_denominator(100_000), options=options)
            stream.width, stream.height, stream.pix_fmt = frames.shape[3], frames.shape[2], pixels
            streams.append((stream, _pictures(frames)))
        if audio is not None and rate is not None:
            stream = out.add_stream(sound, rate=rate, layout="mono")
            streams.append((stream, _sounds(audio, rate)))
        for stream, parts in streams:
            for part in parts:
                out.mux(stream.encode(part))
            out.mux(stream.encode(None))
    return buffer.getvalue()


def _write(path: str | Path, content: bytes) -> Path:
    with writing("data.media", path):
        write_atomically({Path(path): content})
    return Path(path)


@contextmanager
def _container(buffer: io.BytesIO, name: str) -> Iterator[Any]:
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise MissingPackage("writing sound and video needs PyAV: pip install av") from None
    try:
        with av.open(buffer, "w", format=name) as out:
            yield out
    except (FFmpegError, ValueError) as error:
        raise InputError(f"{name} cannot hold this ({getattr(error, 'strerror', None) or error})") from error


def _pictures(frames: Tensor) -> Iterator[Any]:
    import av

    for frame in frames:
        values = rearrange(frame, "c h w -> h w c").float().add(1).mul(127.5).round().clamp(0, 255)
        yield av.VideoFrame.from_ndarray(np.ascontiguousarray(values.byte().cpu().numpy()), format="rgb24")


def _sounds(audio: Tensor, rate: int, samples: int = 1024) -> Iterator[Any]:
    import av

    values = audio.float().mul(32768).round().clamp(-32768, 32767).to(torch.int16).cpu()
    for start in range(0, len(values), samples):
        part = rearrange(values[start : start + samples], "n -> 1 n").numpy()
        frame = av.AudioFrame.from_ndarray(part, "s16", "mono")
        frame.sample_rate, frame.pts = rate, start
        yield frame
