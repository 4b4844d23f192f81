"""Reconstructed video, sound and classes of a clip."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import repeat
from torch import Tensor, nn

from ..data.media import media_bytes
from ..errors import MissingPackage
from ..plots import reconstructions
from ..registry import register
from .base import Item, Processor, data_url
from .classes import ClassAnswer, Classes
from .files import write_file
from .readers import VideoClip

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ClipAnswer(ClassAnswer):
    """The class of a clip, and the clip as the model decodes it."""

    clip: VideoClip | None = None  # the reader, which knows names, rates and ranges

    @property
    def frames(self) -> Tensor:
        """The decoded frames (t, 3, h, w) in [0, 1]."""
        assert self.clip is not None
        return self.clip.pixels(self.outputs[self.clip.image])

    @property
    def sound(self) -> Tensor | None:
        """The decoded sound (samples,), or None."""
        assert self.clip is not None
        sound = None if self.clip.audio is None else self.outputs.get(self.clip.audio)
        return None if sound is None else sound / self.clip.gain

    def figure(self) -> Figure:
        assert self.clip is not None
        chosen = torch.linspace(0, len(self.frames) - 1, min(5, len(self.frames))).round().long()
        original = self.inputs().get(self.clip.image)
        rows = {} if original is None else {"source": self.clip.pixels(original)[chosen]}
        return reconstructions(rows | {"decoded": self.frames[chosen]})

    def _repr_html_(self) -> str:
        try:
            video = f'<video controls loop src="{data_url("video/mp4", self.video())}"></video>'
        except MissingPackage:
            video = ""
        picture = data_url("image/png", self._repr_png_() or b"")
        return f'<div><p>{html.escape(str(self))}</p><img src="{picture}">{video}</div>'

    def video(self) -> bytes:
        """The decoded clip with its sound as an MP4 file, small frames enlarged; NaN becomes 0.

        Odd sides lose a pixel: H.264 has even ones.
        """
        assert self.clip is not None
        times = max(1, 224 // max(self.frames.shape[-2:]))
        frames = repeat(self.frames.nan_to_num() * 2 - 1, "t c h w -> t c (h y) (w x)", y=times, x=times)
        height, width = (side - side % 2 for side in frames.shape[-2:])
        sound = None if self.sound is None else self.sound.nan_to_num()
        return media_bytes(".mp4", frames[..., :height, :width], self.clip.fps, sound, self.clip.rate)

    def write(self, stem: Path) -> list[Path]:
        paths = [write_file(stem, "_decoded.mp4", self.video())]
        if self.sound is not None and self.clip is not None:
            content = media_bytes(".wav", audio=self.sound.nan_to_num(), rate=self.clip.rate)
            paths.append(write_file(stem, "_decoded.wav", content))
        return paths


@register("processors")
@dataclass(frozen=True)
class DecodedClip(Classes):
    """A decoded clip and its class: ``best`` and ``scores`` as of ``Classes``, and ``outputs`` has video and sound.

    The processor must read the source with ``VideoClip``.
    """

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> ClipAnswer:
        best, scores = self.scores(outputs, model)
        clip = next(one for one in processor.readers.values() if isinstance(one, VideoClip))
        return ClipAnswer(source, best, scores, outputs, processor, clip=clip)
