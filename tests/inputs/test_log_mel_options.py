"""Standardised values and span masks of log-mel spectrograms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.inputs import LogMel

OPTIONS: Any = dict(bands=10, window=40, hop=20)


@given(gain=st.floats(0.5, 2), silence=st.integers(0, 5))
def test_volume_and_padding_do_not_change_standardised_rows(gain: float, silence: int) -> None:
    block = LogMel(8000, standardise=True, bands=3, window=20, hop=20)
    sound = 10 * torch.randn(2, 160)
    wanted = block(sound).rows
    louder = block(torch.cat([gain * sound, torch.zeros(2, 20 * silence)], dim=1)).rows
    assert (louder[:, :8] - wanted).abs().max() < 1e-3
    assert (louder[:, 8:] < -3).all()


def test_standardised_rows_equal_their_restatement() -> None:
    sound = torch.randn(3, 160)
    rows, standardised = (LogMel(8000, standardise=flag, **OPTIONS)(sound).rows for flag in (False, True))
    for plain, found in zip(rows, standardised, strict=True):
        assert (found - (plain - plain.mean()) / plain.std(correction=0)).abs().max() < 1e-4


def test_silence_is_zeros_when_standardised() -> None:
    rows = LogMel(8000, standardise=True, **OPTIONS)(torch.zeros(1, 160)).rows
    assert rows.abs().max() < 0.1


def test_spans_are_replaced_in_training_alone() -> None:
    block = LogMel(8000, span_masks=0.3, **OPTIONS)
    sound = torch.randn(400, 200)
    plain = block.eval()(sound).rows
    assert torch.equal(plain, LogMel(8000, **OPTIONS)(sound).rows)
    masked = block.train()(sound).rows
    changed = masked != plain
    rows, bands = changed.all(2), changed.all(1)
    # Rows and bands are hidden whole, and nothing else is changed; up to twice 3 of 10 each, in any place.
    assert torch.equal(changed, rows[:, :, None] | bands[:, None])
    for hidden in (rows, bands):
        count = hidden.sum(1)
        assert set(count.tolist()) == {0, 1, 2, 3, 4, 5, 6}
        assert hidden.float().mean(0).min() > 0.05
    assert torch.equal(torch.where(changed, plain.mean((1, 2), keepdim=True), plain), masked)


@pytest.mark.parametrize("wrong", [dict(standardise=1), dict(span_masks=1.5), dict(span_masks=-0.1)])
def test_wrong_options_are_refused(wrong: Any) -> None:
    with pytest.raises(kit.AssemblyError, match=f"LogMel: {next(iter(wrong))} must be"):
        LogMel(8000, **wrong)


def test_the_recipe_hands_them_on() -> None:
    model: Any = kit.build("audio_classification", preset="tiny", standardise=True, span_masks=0.2)
    block: Any = model.inputs.blocks["audio"]
    assert (block.standardise, block.span_masks) == (True, 0.2)
