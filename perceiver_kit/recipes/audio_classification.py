"""Classification of sounds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..checking import check_positive
from ..declarations import recipe
from ..encoders import Encoder
from ..inputs import Inputs
from ..model import PerceiverIO
from ..objectives import Classification
from ..outputs.linear import Problem
from . import _clips


def _random_sound(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    return {"audio": torch.rand(batch, parameters["audio_samples"]) * 2 - 1}


@recipe(
    presets=dict(
        base=_clips.BASE,
        tiny=_clips.TINY
        | dict(
            audio_samples=2048,
            sample_rate=8000,
            features="log_mel",
            samples_per_row=128,
            mel_bands=16,
            audio_bands=8,
        ),
        quick=_clips.QUICK
        | dict(
            audio_samples=8000,
            sample_rate=8000,
            features="log_mel",
            samples_per_row=160,
            mel_bands=64,
            standardise=True,
            span_masks=0.1,
            audio_bands=8,
        ),
    ),
    sources=_clips.SOURCES
    | dict(
        sample_rate=f"{_clips.AUDIOSET}: 48 kHz",
        standardise=f"{_clips.CHOSEN}; ``inputs.LogMel`` names its sources",
        span_masks=f"{_clips.CHOSEN}; ``inputs.LogMel`` names its sources",
    ),
    group=Encoder,
    objective=partial(Classification, label_smoothing=0.1),
    training=dict(steps=600, batch=32, rate=2e-3, quick=dict(optimizer="muon", weight_decay=0.05)),
    data=dict(
        instruments="perceiver_kit.data.sounds:instruments",
        prompts="perceiver_kit.data.sounds:prompts",
        sound_speed="perceiver_kit.data.sounds:sound_speed",
        path="perceiver_kit.data.sounds:sound_folder",
    ),
    random_inputs=_random_sound,
    processor="perceiver_kit.processors.recipes:classify_sound",
)
def audio_classification(
    *,
    num_labels: int = 527,
    labels: Sequence[str] | None = None,
    problem_type: Problem | None = None,
    audio_samples: int = 61_440,
    sample_rate: int = 48_000,
    features: _clips.Features = "patches",
    samples_per_row: int = 128,
    mel_bands: int = 64,
    standardise: bool = False,
    span_masks: float = 0.0,
    audio_bands: int = 192,
    dropout: float = 0.0,
    activation: Activation = "gelu",
    **encoder,
) -> PerceiverIO:
    """Classification of sound (the first Perceiver, section 4.2), one label or several.

    Takes audio (b, samples), mono in [-1, 1] at ``sample_rate``, and returns label (b, num_labels) logits. A row is a
    patch of ``samples_per_row`` samples, or a log-mel spectrum of ``mel_bands`` of them (``features="log_mel"``);
    ``standardise`` and ``span_masks`` are those of ``inputs.LogMel``, and mean nothing to patches. Any number of whole
    rows is read; the model is trained on windows of ``audio_samples``, and ``kit.predict`` averages the outputs for
    the windows of a file, which it resamples to ``sample_rate``.

    >>> model = build("audio_classification", preset="tiny", num_labels=5)
    >>> model({"audio": torch.rand(2, 4096) * 2 - 1})["label"].shape
    torch.Size([2, 5])
    """
    check_positive("audio_classification", sample_rate=sample_rate)
    audio = _clips.sound_rows(
        "audio_classification",
        features=features,
        rate=sample_rate,
        samples=audio_samples,
        samples_per_row=samples_per_row,
        mel_bands=mel_bands,
        bands=audio_bands,
        standardise=standardise,
        span_masks=span_masks,
    )
    return _clips.classifier(
        Inputs(audio=audio),
        num_labels=num_labels,
        labels=labels,
        problem_type=problem_type,
        dropout=dropout,
        activation=activation,
        **encoder,
    )
