"""What the classifiers of sound and video share: rows of sound, and the model behind the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..activations import Activation
from ..checking import check_choice, check_positive
from ..decoders import Decoder
from ..encoders import Encoder
from ..errors import AssemblyError
from ..inputs import AudioPatches, Input, Inputs, LogMel
from ..model import PerceiverIO
from ..outputs import Classify, Outputs
from ..outputs.linear import Problem
from ..positions import Fourier
from ..queries import LearnedQuery, Queries
from ._shared import LABELS_SOURCE, PAPER, encoder_sources

Features = Literal["patches", "log_mel"]

AUDIOSET = "Perceiver (Jaegle et al. 2021), section 4.2, AudioSet"
CHOSEN = "chosen here: the published code has no AudioSet model"
SOURCES = encoder_sources(
    CHOSEN,
    num_labels="AudioSet: 527",
    labels=LABELS_SOURCE,
    problem_type="the task's: several labels for AudioSet",
    num_latents=CHOSEN,
    latent_dim=CHOSEN,
    layers=CHOSEN,
    audio_samples=f"{AUDIOSET}: 1.28 s at 48 kHz",
    features=f"{AUDIOSET}: patches of the waveform, or a mel spectrogram",
    samples_per_row=f"{AUDIOSET}: 480 patches of 128 samples",
    mel_bands=f"{CHOSEN}; a row is the spectrum of one time, not one value of it",
    audio_bands=f"{PAPER}, appendix F: 192 for sound",
)
BASE: dict[str, Any] = dict(num_latents=512, latent_dim=512, layers=8, cross_heads=1, self_heads=8)
TINY: dict[str, Any] = dict(num_labels=4, num_latents=16, latent_dim=32, layers=1, self_heads=4)
QUICK: dict[str, Any] = dict(
    num_labels=4,
    num_latents=32,
    latent_dim=64,
    layers=2,
    self_heads=4,
    compete=True,
    quiet_start=True,
    cross_qk_channels=64,
    cross_v_channels=64,
)


def sound_rows(
    owner: str,
    *,
    features: Features,
    rate: int,
    samples: int,
    samples_per_row: int,
    mel_bands: int,
    bands: int,
    **log_mel: Any,
) -> Input:
    """Sound (b, samples) in rows of ``samples_per_row``: the waveform itself, or log-mel spectra of 2.5 such rows.

    ``log_mel`` are further arguments of ``LogMel``.
    """
    check_choice(owner, "features", features, ("patches", "log_mel"))
    check_positive(owner, audio_samples=samples, samples_per_row=samples_per_row)
    if samples % samples_per_row:
        raise AssemblyError(f"{owner}: audio_samples {samples} must be divisible by samples_per_row {samples_per_row}")
    grid = (samples // samples_per_row,)
    options: dict[str, Any] = dict(grid=grid, positions=Fourier(bands=bands, max_resolution=grid))
    if features == "patches":
        return AudioPatches(samples_per_row, **options)
    return LogMel(rate, bands=mel_bands, window=5 * samples_per_row // 2, hop=samples_per_row, **options, **log_mel)


def classifier(
    inputs: Inputs,
    *,
    num_labels: int,
    labels: Sequence[str] | None,
    problem_type: Problem | None,
    dropout: float,
    activation: Activation,
    **encoder,
) -> PerceiverIO:
    """Rows → latents → one learned query → logits."""
    encoder = Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
    queries = Queries(label=LearnedQuery(1, encoder.latent_dim))
    decoder = Decoder(queries.channels, encoder.latent_dim, query_residual=True, dropout=dropout, activation=activation)
    outputs = Outputs(label=Classify(num_labels, in_channels=queries.channels, problem_type=problem_type))
    return PerceiverIO(inputs, encoder, queries, decoder, outputs, labels={"label": labels})
