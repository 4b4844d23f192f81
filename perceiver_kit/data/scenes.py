"""Labelled windows of video, of sound, or of both, where samples may lack one of the two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import repeat
from jaxtyping import Int16, UInt8
from torch import Generator, Tensor

from ..checking import check_image_size, check_positive, check_probability
from ..errors import InputError
from ..flags import checked_flags
from .clips import recoloured
from .files import SOUNDS, VIDEOS, check_held
from .images import to_unit
from .labels import labelled_files
from .media import window_starts
from .sampling import Samples
from .sounds import read_sound, to_window
from .task import Task
from .video import load_clip


class Scene(NamedTuple):
    """Frames and sound of one file; None for what it lacks. Both have whole frames, and together the same number."""

    frames: UInt8[Tensor, "t 3 h w"] | None
    audio: Int16[Tensor, "_"] | None


class Shown(NamedTuple):
    """The window of a scene that an item shows: its first frame, None for any, and the step from frame to frame."""

    scene: int
    start: int | None = None
    step: int = 1


class Scenes(Samples):
    """``video`` float32 (t, 3, h, w) in [-1, 1] and ``audio`` float32 (samples,) → ``label``.

    What a scene lacks is zeros, and its rows are masked. Without ``samples`` there is no audio and no mask.

    Args:
        scenes: what is shown, of at least ``num_frames`` frames.
        shown: the window of each item.
        labels: of the items: int64 (n,), or float32 (n, classes).
        num_frames: t.
        image_size: (h, w) of the frames.
        samples: of the audio: a whole number for each frame.
        rows: rows of each modality in the model, for the mask.
        drop: how often training masks one of two modalities, so that a model learns to do without.
        augment: whether training mirrors and recolours frames.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        shown: Sequence[Shown],
        labels: Tensor,
        *,
        num_frames: int,
        image_size: tuple[int, int],
        samples: int | None = None,
        rows: Mapping[str, int] | None = None,
        drop: float = 0.0,
        augment: bool = False,
        seed: int = 0,
    ) -> None:
        check_positive("Scenes", num_frames=num_frames)
        check_probability("Scenes", drop=drop)
        if not shown or len(shown) != len(labels):
            raise InputError(f"Scenes needs a label for each window, got {len(shown)} windows, {len(labels)} labels")
        self.scenes, self.shown, self.labels, self.seed = scenes, shown, labels, seed
        self.num_frames, self.image_size, self.samples = num_frames, image_size, samples
        self.rows, self.drop, self.augment = rows or {}, drop, augment

    def __len__(self) -> int:
        return len(self.shown)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        number, start, step = self.shown[index]
        frames, audio = self.scenes[number]
        if start is None:
            last = scene_length(self.scenes[number], self.per_frame) - self.num_frames
            start = int(torch.randint(last + 1, (), generator=random))
        sample: dict[str, Any] = {"inputs": {}, "targets": {"label": self.labels[index]}}
        if frames is None:
            sample["inputs"]["video"] = torch.zeros(self.num_frames, 3, *self.image_size)
        else:
            video = to_unit(frames[start + step * torch.arange(self.num_frames)])
            sample["inputs"]["video"] = recoloured(video, random) if training and self.augment else video
        if self.samples is not None:
            first = start * self.per_frame
            own = torch.zeros(0, dtype=torch.int16) if audio is None else audio[first : first + self.samples]
            sample["inputs"]["audio"] = to_window(own, self.samples)
            there = {"video": frames is not None, "audio": audio is not None}
            if training and all(there.values()) and torch.rand((), generator=random) < self.drop:
                there["audio" if torch.rand((), generator=random) < 0.5 else "video"] = False
            sample["mask"] = {name: torch.full((self.rows[name],), kept) for name, kept in there.items()}
        return sample

    @property
    def per_frame(self) -> int:
        """Samples of sound for a frame."""
        return (self.samples or self.num_frames) // self.num_frames


def scene_length(scene: Scene, per_frame: int) -> int:
    """Frames of a scene, counted by its sound where it has no frames."""
    if scene.frames is not None:
        return len(scene.frames)
    return 0 if scene.audio is None else len(scene.audio) // per_frame


def read_scene(
    path: Path,
    *,
    num_frames: int,
    image_size: tuple[int, int],
    fps: int | float,
    per_frame: int | None,
    seconds: int | float = math.inf,
) -> Scene:
    """What a video or a sound file has, from its beginning; a silent track counts as no sound.

    Without ``per_frame``, samples for a frame, sound is not read.

    Raises InputError, naming the file, as ``load_clip`` and ``read_sound`` do, and if it is shorter than a window.
    """
    if path.suffix.lower() in SOUNDS:
        if per_frame is None:
            raise InputError(f"{path} has no frames, and the model reads video alone; give it audio_samples")
        scene = Scene(None, read_sound(path, round(per_frame * fps), seconds))
    else:
        rate = round((per_frame or 1) * fps) or 1
        clip = load_clip(path, size=image_size, fps=fps, rate=rate, seconds=seconds)
        heard = per_frame is not None and bool(clip.audio.any())
        audio = (clip.audio * 32768).round().to(torch.int16) if heard else None
        scene = Scene(clip.frames.add(1).mul_(127.5).round_().byte(), audio)
    if (length := scene_length(scene, per_frame or 1)) < num_frames:
        window = f"{num_frames} frames at {fps:g} a second"
        raise InputError(f"{path} is shorter than a window: expected {window}, got {length}; lower num_frames")
    return scene


@checked_flags
def clip_folder(
    path: Path,
    *,
    num_frames: int = 32,
    image_size: int | tuple[int, int] = 224,
    fps: int | float = 25.0,
    audio_samples: int | None = 61_440,
    rows: Mapping[str, int] | None = None,
    seconds: int | float = math.inf,
    drop: float = 0.25,
    augment: bool = False,
    seed: int = 0,
) -> Task:
    """The first ``seconds`` of video and sound files, one subfolder per class, or with ``labels.csv``.

    ``labels.labelled_files`` describes the table. Whole files are held out; ``Scenes`` explains ``drop`` and
    ``augment``. Files that have neither frames nor sound that is read are skipped with a warning.
    """
    size = check_image_size("clip_folder", image_size)
    per_frame = None if audio_samples is None else audio_samples // num_frames
    scenes: dict[Path, Scene] = {}

    def read(file: Path) -> None:
        scenes[file] = read_scene(
            file, num_frames=num_frames, image_size=size, fps=fps, per_frame=per_frame, seconds=seconds
        )
        held = sum(part.nbytes for scene in [*scenes.values()] for part in scene if part is not None)
        check_held(path, held, "seconds, fps or image_size")

    files = labelled_files(path, VIDEOS if audio_samples is None else (*VIDEOS, *SOUNDS), read)
    options: dict[str, Any] = dict(
        num_frames=num_frames, image_size=size, samples=audio_samples, rows=rows, drop=drop, augment=augment, seed=seed
    )
    anywhere = [Shown(number) for number in range(len(files.train))]
    held_out = [scenes[file] for file in files.held_out]
    lengths = [scene_length(scene, per_frame or 1) for scene in held_out]
    covering = [Shown(i, start) for i, length in enumerate(lengths) for start in window_starts(length, num_frames)]
    labels = files.held_out_labels[torch.tensor([shown.scene for shown in covering])]
    overrides = files.overrides | dict(num_frames=num_frames, image_size=size, fps=fps, audio_samples=audio_samples)
    return Task(
        path.name,
        Scenes([scenes[file] for file in files.train], anywhere, files.train_labels, **options),
        Scenes(held_out, covering, labels, **options),
        overrides,
        str(path),
        files.classes,
    )


def windows_of(scene: Scene, *, num_frames: int, samples: int | None) -> dict[str, Tensor]:
    """The windows that cover a scene, as a model reads them: video (w, t, 3, h, w) and audio (w, samples).

    >>> scene = Scene(torch.zeros(5, 3, 8, 8, dtype=torch.uint8), torch.zeros(50, dtype=torch.int16))
    >>> {name: tuple(part.shape) for name, part in windows_of(scene, num_frames=2, samples=20).items()}
    {'video': (3, 2, 3, 8, 8), 'audio': (3, 20)}
    """
    per_frame = (samples or num_frames) // num_frames
    first = torch.tensor(window_starts(scene_length(scene, per_frame), num_frames))
    windows: dict[str, Tensor] = {}
    if scene.frames is not None:
        windows["video"] = to_unit(scene.frames[repeat(first, "w -> w t", t=num_frames) + torch.arange(num_frames)])
    if scene.audio is not None and samples is not None:
        windows["audio"] = torch.stack(
            [to_window(scene.audio[start : start + samples], samples) for start in (first * per_frame).tolist()]
        )
    return windows
