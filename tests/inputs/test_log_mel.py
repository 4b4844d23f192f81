"""Log-mel spectrograms equal a plain restatement: windows, a discrete Fourier transform, triangles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.inputs import Inputs, LogMel

pytestmark = pytest.mark.usefixtures("checked")


def restated(wave: np.ndarray, rate: int, bands: int, window: int, hop: int, low: float, high: float) -> np.ndarray:
    mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    edges = [700 * (10 ** ((mel(low) + (mel(high) - mel(low)) * i / (bands + 1)) / 2595) - 1) for i in range(bands + 2)]
    before = (window - hop) // 2
    rows = []
    for frame in range(len(wave) // hop):
        samples = [
            wave[t] * (0.5 - 0.5 * math.cos(2 * math.pi * i / window)) if 0 <= t < len(wave) else 0.0
            for i, t in enumerate(range(frame * hop - before, frame * hop - before + window))
        ]
        power = np.abs(np.fft.rfft(samples)) ** 2
        row = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for k, value in enumerate(power):
                f = k * rate / window
                if left < f < right:
                    total += value * ((f - left) / (centre - left) if f <= centre else (right - f) / (right - centre))
            row.append(math.log(total + 1e-6))
        rows.append(row)
    return np.array(rows)


@given(window=st.integers(20, 41), hop=st.integers(7, 20), samples=st.integers(30, 90))
def test_equals_its_restatement(window: int, hop: int, samples: int) -> None:
    wave = torch.randn(1, samples)
    options = dict(bands=5, window=window, hop=hop, low=50.0, high=3000.0)
    found = LogMel(8000, **options)(wave).rows[0]
    wanted = restated(wave[0].double().numpy(), 8000, **options)
    assert found.shape == wanted.shape
    assert np.abs(found.numpy() - wanted).max() < 2e-3


def test_a_tone_is_in_its_band() -> None:
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(16_000) / 16_000)[None]
    rows = LogMel(16_000, bands=40)(tone).rows[0, 10:-10]
    mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    assert rows.argmax(-1).unique().tolist() == [round(mel(1000) / mel(8000) * 41) - 1]


def test_wrong_sound_and_settings_are_refused() -> None:
    with pytest.raises(kit.InputError, match=r"sound is \(1, 100\) but a row needs 160 samples"):
        LogMel(16_000)(torch.zeros(1, 100), "sound")
    for wrong in (dict(low=9000.0), dict(high=9000.0), dict(hop=500), dict(low=100.0, high=100.0)):
        with pytest.raises(kit.AssemblyError, match="expected low < high <= rate / 2 and hop <= window"):
            LogMel(16_000, **wrong)


def test_masked_rows_enter_no_window_of_another_row() -> None:
    sound, mask = torch.randn(1, 170), torch.arange(8)[None] < 4
    every = Inputs(sound=LogMel(8000, bands=3, window=40, hop=20))
    kept = torch.where(torch.arange(170)[None] // 20 < 4, sound, 0)
    kept[:, 160:] = sound[:, 160:]  # no row of its own
    broken = torch.where((kept == 0), torch.nan, sound)
    assert torch.equal(every(broken, {"sound": mask})[0].rows, every(kept, {"sound": mask})[0].rows)
