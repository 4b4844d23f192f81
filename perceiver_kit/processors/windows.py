"""Readers of sound and video of any length, as the windows that cover it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from ..checking import check_number, check_positive
from ..data.decoding import MAX_RATE
from ..data.files import SOUNDS, VIDEOS
from ..data.media import window_starts
from ..data.scenes import read_scene, windows_of
from ..data.sounds import read_sound, to_window
from ..inputs import LogMel
from ..registry import register
from .base import Reader


@register("processors")
@dataclass(frozen=True)
class SoundWindows(Reader):
    """A sound or video file, or samples (n,) in [-1, 1], mixed to mono, as float32 (windows, samples).

    Windows are adjacent, the last flush with the end. A shorter sound is padded with zeros; a silent one is refused.

    Args:
        samples: of a window.
        rate: samples per second, to which a file is resampled.
        seconds: how much of a file is read; None for all.

    >>> processors.SoundWindows(400, 8000).read(torch.rand(1000)).shape
    torch.Size([3, 400])
    """

    samples: int
    rate: int = 16_000
    seconds: int | float | None = None
    suffixes: ClassVar[tuple[str, ...]] = (*SOUNDS, *VIDEOS)
    windows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("SoundWindows", samples=self.samples)
        check_positive("SoundWindows", most=MAX_RATE, rate=self.rate)
        if self.seconds is not None:
            check_number("SoundWindows", above=0.0, seconds=self.seconds)

    def read(self, source: Any) -> Float[Tensor, "w samples"]:
        if isinstance(source, str | Path):
            path = Path(source)
            if path.suffix.lower() not in self.suffixes:
                raise self.refuse(path, f"a file that ends in {', '.join(self.suffixes)}")
            sound = read_sound(path, self.rate, self.seconds or float("inf"))
            return torch.stack([self._window(sound, start) for start in window_starts(len(sound), self.samples)])
        sound = torch.as_tensor(source) if isinstance(source, Tensor | np.ndarray) else None
        if sound is None or sound.ndim != 1 or not sound.is_floating_point() or not len(sound):
            raise self.refuse(source, "the path of a sound, or float samples (n,)")
        sound = (sound.float().clamp(-1, 1) * 32767).round().to(torch.int16)
        return torch.stack([self._window(sound, start) for start in window_starts(len(sound), self.samples)])

    def _window(self, sound: Tensor, start: int) -> Float[Tensor, "samples"]:
        return to_window(sound[start : start + self.samples], self.samples)

    def picture(self, inputs: Mapping[str, Tensor], name: str) -> Tensor:
        return spectrogram(rearrange(inputs[name], "w samples -> (w samples)"), self.rate)


@register("processors")
@dataclass(frozen=True)
class SceneWindows(Reader):
    """A video or sound file as windows: video float32 (w, t, 3, h, w) in [-1, 1], audio float32 (w, samples).

    What the file lacks is left out; a silent track counts as none.

    Args:
        num_frames: t.
        image_size: (h, w): frames are cropped to this aspect ratio and resized.
        fps: frames per second.
        samples: of a window's audio, a whole number for each frame; None for video alone.
        seconds: how much of a file is read.
    """

    num_frames: int
    image_size: tuple[int, int]
    fps: int | float = 25.0
    samples: int | None = None
    seconds: int | float = 60.0
    windows: ClassVar[bool] = True
    batch: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("SceneWindows", num_frames=self.num_frames)
        check_number("SceneWindows", above=0.0, fps=self.fps, seconds=self.seconds)

    @property
    def suffixes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Of videos, and of sounds where the model has them."""
        return VIDEOS if self.samples is None else (*VIDEOS, *SOUNDS)

    @property
    def per_frame(self) -> int | None:
        """Samples of sound for a frame."""
        return None if self.samples is None else self.samples // self.num_frames

    def read(self, source: Any) -> dict[str, Tensor]:
        if not isinstance(source, str | Path) or Path(source).suffix.lower() not in self.suffixes:
            raise self.refuse(source, f"the path of a file that ends in {', '.join(self.suffixes)}")
        sizes = dict(num_frames=self.num_frames, image_size=self.image_size, fps=self.fps)
        scene = read_scene(Path(source), per_frame=self.per_frame, seconds=self.seconds, **sizes)  # type: ignore[arg-type]
        return windows_of(scene, num_frames=self.num_frames, samples=self.samples)

    def picture(self, inputs: Mapping[str, Tensor], name: str) -> Tensor:
        if "video" in inputs:
            return (inputs["video"][0, self.num_frames // 2] + 1) / 2
        return spectrogram(
            rearrange(inputs["audio"], "w samples -> (w samples)"), round((self.per_frame or 1) * self.fps)
        )


def spectrogram(sound: Float[Tensor, "_"], rate: int, width: int = 240) -> Float[Tensor, "3 h w"]:
    """A picture of a sound in [0, 1]: low sounds at the bottom, loud ones dark.

    >>> spectrogram(torch.rand(8000), 8000).shape
    torch.Size([3, 96, 240])
    """
    hop = max(1, len(sound) // width)
    rows = LogMel(max(2, rate), bands=48, window=max(hop, 512), hop=hop).embed(rearrange(sound, "n -> 1 n"), "sound")[0]
    rows = (rows - rows.amin()) / (rows.amax() - rows.amin()).clamp(min=1e-6)
    return 1 - repeat(rows.flip(-1)[:width], "w h -> c (h y) w", c=3, y=2)
