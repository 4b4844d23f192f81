"""Rotary positions, and keys that are projected before the call."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from einops import repeat
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit import Attention, CrossAttentionLayer, SelfAttentionLayer
from perceiver_kit.attention_backends import KeyValues
from perceiver_kit.variants import Rotary

from .strategies import assert_close, noisy

rotaries = st.builds(
    Rotary,
    max_wavelength=st.sampled_from([20.0, 1000.0]),
    fraction=st.sampled_from([0.0, 0.5, 1.0]),
    head_fraction=st.sampled_from([0.5, 1.0]),
    spacing=st.sampled_from(["closed", "open"]),
)


def turned_by_definition(rotary: Rotary, rows: Tensor, positions: Tensor) -> Tensor:
    """Complex numbers, one channel pair at a time, as the original's documentation defines it."""
    rows, c = rows.clone(), rows.shape[-1]
    turned = 2 * math.floor(c * rotary.fraction / 2)
    for j in range(turned // 2):
        points = turned // 2 - 1 if rotary.spacing == "closed" else turned // 2
        wavelength = rotary.max_wavelength ** (j / points) if points else 1.0
        heads = math.floor(rotary.head_fraction * rows.shape[1])
        angle = (positions / wavelength)[:, None].expand(len(rows), heads, -1)
        pair = torch.complex(rows[:, :heads, :, 2 * j], rows[:, :heads, :, 2 * j + 1]) * torch.exp(1j * angle)
        rows[:, :heads, :, 2 * j], rows[:, :heads, :, 2 * j + 1] = pair.real, pair.imag
    return rows


@given(rotary=rotaries, c=st.integers(1, 8), shared=st.booleans())
def test_pairs_of_channels_are_turned(rotary: Rotary, c: int, shared: bool) -> None:
    rows = torch.randn(3, 2, 5, c, dtype=torch.float64)
    positions = torch.randint(-50, 50, (1 if shared else 3, 5))
    assert_close(rotary(rows, positions), turned_by_definition(rotary, rows, positions.double()), 1e-12)


@given(rotary=rotaries, causal=st.booleans(), masked=st.booleans(), heads=st.sampled_from([1, 2]))
def test_attention_equals_its_formula_and_depends_on_distances_alone(
    rotary: Rotary, causal: bool, masked: bool, heads: int
) -> None:
    """Also with one head, where attention without positions projects one side only, and for queries of batch 1."""
    attention: Any = noisy(Attention(4, 6, heads=heads, qk_channels=8, positions=rotary), 1.0).double()
    queries, keys = torch.randn(1, 3, 4).double(), torch.randn(2, 5, 6).double()
    options: dict[str, Any] = dict(mask=torch.rand(2, 5) < 0.7 if masked else None, causal=causal)
    found = attention(queries, keys, **options)
    assert_close(found, attention.formula(queries, keys, **options), 1e-9)
    places: dict[str, Any] = dict(
        query_positions=torch.arange(2, 5) + 30, key_positions=repeat(torch.arange(5) + 30, "n -> b n", b=2)
    )
    assert_close(attention(queries, keys, **options, **places), found, 1e-8)
    if rotary.fraction and rotary.head_fraction * heads >= 1:
        places["query_positions"] = torch.arange(2, 5)
        assert not torch.allclose(attention(queries, keys, **options, **places), found)


@given(turned=st.booleans(), causal=st.booleans(), masked=st.booleans())
def test_projected_keys_stand_for_rows(turned: bool, causal: bool, masked: bool) -> None:
    positions = Rotary(30.0) if turned else None
    cross: Any = noisy(CrossAttentionLayer(4, 6, positions=positions)).double()
    rows: Any = noisy(SelfAttentionLayer(4, heads=2, positions=positions)).double()
    queries, keys = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 6).double()
    mask = torch.rand(2, 5) < 0.7 if masked else None
    read = cross.key_values(keys, mask)
    assert_close(cross(queries, read, mask, causal=causal), cross(queries, keys, mask, causal=causal), 1e-9)
    formula = cross.attention.formula(queries, cross.attention.key_values(keys), mask, causal=causal)
    assert_close(formula, cross.attention(queries, keys, mask, causal=causal), 1e-9)
    # The last row alone, given the keys of all.
    mask = None if mask is None else mask[:, :3]
    last = rows(queries[:, 2:], mask, causal=causal, keys=rows.key_values(queries), row_positions=torch.tensor([2]))
    assert_close(last, rows(queries, mask, causal=causal)[:, 2:], 1e-9)


def test_key_values_count_rows() -> None:
    read = KeyValues(torch.zeros(2, 4, 7, 3), torch.zeros(2, 4, 7, 5))
    assert read.rows().shape == (2, 7, 0)


def test_maps_of_turned_attention_are_captured() -> None:
    layer = SelfAttentionLayer(8, heads=2, positions=Rotary(30.0))
    rows = torch.randn(1, 4, 8)
    with kit.capture_attention(layer) as maps:
        layer(rows, causal=True, row_positions=torch.arange(9, 13))
    wanted = layer.attention.weights(layer.norm(rows), layer.norm(rows), causal=True)
    [[found]] = maps.values()
    assert_close(found, wanted, 1e-5)


def test_half_precision_keeps_its_dtype() -> None:
    rows = torch.randn(1, 1, 3, 8, dtype=torch.bfloat16)
    assert Rotary()(rows, torch.arange(3)[None]).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(max_wavelength=0.0), "Rotary: max_wavelength must be a finite number above 0, got 0.0"),
        (dict(fraction=1.5), r"Rotary: fraction must be a number in \[0, 1\], got 1.5"),
        (dict(spacing="close"), "Rotary: spacing is 'close'; did you mean 'closed'"),
    ],
)
def test_wrong_numbers_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        Rotary(**wrong)
