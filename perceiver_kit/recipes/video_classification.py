"""Classification of video with or without sound, one label or several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..checking import check_flag, check_image_size, check_number, check_positive, check_sizes
from ..declarations import recipe
from ..encoders import Encoder
from ..errors import AssemblyError
from ..inputs import Input, Inputs, MovingPatches, Patches
from ..model import PerceiverIO
from ..objectives import Classification
from ..outputs.linear import Problem
from ..positions import Fourier
from . import _clips
from ._shared import PAPER

OWNER = "video_classification"


def _random_clip(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    size = check_image_size(OWNER, parameters["image_size"])
    clip = {"video": torch.rand(batch, parameters["num_frames"], 3, *size) * 2 - 1}
    samples = parameters["audio_samples"]
    return clip if samples is None else clip | {"audio": torch.rand(batch, samples) * 2 - 1}


def _grid(num_frames: int, image_size: Any, patch_size: Any, motion: bool) -> tuple[int, ...]:
    """Rows of a video on (t, h, w)."""
    size, patch = check_image_size(OWNER, image_size), check_sizes(OWNER, "patch_size", patch_size)
    check_positive(OWNER, num_frames=num_frames)
    whole = (num_frames, *size)
    if len(patch) != 3 or any(side % part for side, part in zip(whole, patch, strict=True)):
        raise AssemblyError(
            f"{OWNER}: patch_size must be (frames, height, width) and divide num_frames and image_size {whole}, got "
            f"{patch}"
        )
    check_flag(OWNER, motion=motion)
    if motion and (patch[0] != 1 or patch[1] != patch[2] or num_frames < 2):
        raise AssemblyError(
            f"{OWNER}: motion needs two frames and a patch_size of (1, side, side), got {num_frames} and {patch}"
        )
    frames, height, width = (side // part for side, part in zip(whole, patch, strict=True))
    return (frames - motion, height, width)


def _rows(parameters: dict[str, Any]) -> dict[str, Any]:
    """The number of rows of each modality, which a data set needs to mask a missing one."""
    grid = _grid(*(parameters[name] for name in ("num_frames", "image_size", "patch_size", "motion")))
    rows = dict(video=math.prod(grid))
    if parameters["audio_samples"] is not None:
        rows["audio"] = parameters["audio_samples"] // parameters["samples_per_row"]
    return dict(rows=rows)


@recipe(
    presets=dict(
        base=_clips.BASE,
        tiny=_clips.TINY
        | dict(
            num_frames=4,
            image_size=16,
            patch_size=(1, 4, 4),
            audio_samples=1280,
            features="log_mel",
            samples_per_row=80,
            mel_bands=16,
            video_bands=4,
            audio_bands=8,
        ),
        quick=_clips.QUICK
        | dict(
            num_latents=8,
            latent_dim=32,
            layers=1,
            num_frames=16,
            image_size=(32, 48),
            patch_size=(1, 8, 8),
            motion=True,
            audio_samples=5120,
            features="log_mel",
            samples_per_row=80,
            mel_bands=32,
            video_bands=1,
            audio_bands=8,
        ),
    ),
    sources=_clips.SOURCES
    | dict(
        num_frames=f"{_clips.AUDIOSET}: 32 frames of 224 × 224",
        image_size=f"{_clips.AUDIOSET}: 32 frames of 224 × 224",
        patch_size=f"{_clips.AUDIOSET}: 12,544 patches of 2 × 8 × 8",
        motion=f"{_clips.AUDIOSET}: none, only patches",
        fps=f"{_clips.AUDIOSET}: 25",
        video_bands=f"{PAPER}, appendix F: 32 for video",
    ),
    group=Encoder,
    objective=Classification,
    training=dict(steps=600, batch=16, rate=2e-3, quick=dict(steps=300, weight_decay=0.1)),
    data=dict(
        direction="perceiver_kit.data.motion:direction",
        playback="perceiver_kit.data.motion:playback",
        path="perceiver_kit.data.scenes:clip_folder",
    ),
    reads=_rows,
    random_inputs=_random_clip,
    processor="perceiver_kit.processors.recipes:classify_clip",
)
def video_classification(
    *,
    num_labels: int = 527,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    num_frames: int = 32,
    image_size: int | tuple[int, int] = 224,
    patch_size: tuple[int, int, int] = (2, 8, 8),
    motion: bool = False,
    fps: int | float = 25.0,
    audio_samples: int | None = 61_440,
    features: _clips.Features = "patches",
    samples_per_row: int = 128,
    mel_bands: int = 64,
    video_bands: int = 32,
    audio_bands: int = 192,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Classification of video with sound (the first Perceiver, section 4.2), one label or several.

    Takes video (b, t, 3, h, w) in [-1, 1], audio (b, samples) of the same time, or one of the two, and returns label
    (b, num_labels) logits. Leave a modality out that a whole batch lacks; mask it where some samples lack it.
    ``audio_samples=None`` makes a model of video alone. ``problem_type="multi_label_classification"`` is AudioSet's
    form: any number of labels, trained with a binary cross-entropy for each, measured by mean average precision.

    Rows are patches of ``patch_size`` (frames, height, width), or with ``motion`` their colour and motion
    (``inputs.MovingPatches``), a prior that the published model lacks; and those of ``audio_classification`` for the
    sound, which has ``audio_samples`` for ``num_frames`` frames.

    >>> model = build("video_classification", preset="tiny", num_labels=5)
    >>> clip = {"video": torch.rand(2, 4, 3, 16, 16), "audio": torch.rand(2, 1280)}
    >>> model(clip)["label"].shape, model({"audio": clip["audio"]})["label"].shape
    (torch.Size([2, 5]), torch.Size([2, 5]))
    """
    check_number(OWNER, above=0.0, fps=fps)
    grid = _grid(num_frames, image_size, patch_size, motion)
    options: dict[str, Any] = dict(grid=grid, positions=Fourier(bands=video_bands, max_resolution=grid))
    video: Input = MovingPatches(patch_size[1], **options) if motion else Patches(patch_size, **options)
    modalities: dict[str, Input] = dict(video=video)
    if audio_samples is not None:
        check_positive(OWNER, audio_samples=audio_samples)
        if audio_samples % num_frames:
            raise AssemblyError(f"{OWNER}: audio_samples {audio_samples} must be divisible by num_frames {num_frames}")
        modalities["audio"] = _clips.sound_rows(
            OWNER,
            features=features,
            rate=max(1, round(audio_samples // num_frames * fps)),
            samples=audio_samples,
            samples_per_row=samples_per_row,
            mel_bands=mel_bands,
            bands=audio_bands,
        )
    return _clips.classifier(
        Inputs(modalities, optional=tuple(modalities) if len(modalities) > 1 else (), min_padding=4),
        num_labels=num_labels,
        labels=labels,
        problem_type=problem_type,
        dropout=dropout,
        activation=activation,
        **encoder,
    )
