"""Output blocks: row by row, and in the final form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import perceiver_kit as kit
from perceiver_kit import inputs, outputs

from .strategies import ROWS, assert_close, grids, noisy, rows_of

MAKE = {
    "Boxes": lambda: outputs.Boxes(in_channels=6),
    "Choose": lambda: outputs.Choose(in_channels=6),
    "Classify": lambda: outputs.Classify(4, in_channels=6),
    "Flow": lambda: outputs.Flow(6),
    "ToPatches": lambda: outputs.ToPatches((2, 1, 3), values=2, in_channels=6),
    "ToPixels": lambda: outputs.ToPixels(3, in_channels=6),
    "Project": lambda: outputs.Project(4, in_channels=6),
    "Quantiles": lambda: outputs.Quantiles(2, quantiles=3, in_channels=6),
    "Rows": lambda: outputs.Rows(6),
    "TiedText": lambda: outputs.TiedText(inputs.TextTokens(11, 6)),
    "ToWaveform": lambda: outputs.ToWaveform(5, in_channels=6),
}
every_output = pytest.mark.parametrize("name", [name for name in kit.list("outputs") if name != "Outputs"])


def make(name: str) -> nn.Module:
    assert name in MAKE, f"tests/test_outputs.py: MAKE needs a line for the output block {name}"
    return noisy(MAKE[name]())


@every_output
@given(b=st.integers(1, 3), k=st.integers(1, 6))
def test_rows_are_independent(name: str, b: int, k: int) -> None:
    block, rows = make(name), torch.randn(b, k, 6)
    assert block.in_channels == 6
    found = block(rows)
    assert found.shape[:2] == (b, k)
    assert not block.mixes_rows
    for i in range(k):
        assert_close(block(rows[:, i : i + 1]), found[:, i : i + 1], 1e-5)


@every_output
@given(data=st.data(), b=st.integers(1, 3))
def test_the_final_form_holds_all_rows(name: str, data: st.DataObject, b: int) -> None:
    block = make(name)
    axes = {"Classify": [0], "Flow": [2], "ToPatches": [3], "ToPixels": [2, 3], "ToWaveform": [1]}.get(name, [1, 2, 3])
    grid = data.draw(st.sampled_from(axes).flatmap(grids)) or (1,)
    block.check_grid("out", grid)
    rows = block(torch.randn(b, torch.Size(grid).numel(), 6))
    whole = block.whole(rows, grid)
    assert torch.equal(rows_of(block, whole), rows)
    assert torch.equal(block.rows_of(whole), rows)
    assert name in ROWS or name in ("ToPatches", "ToWaveform") or whole is rows


@every_output
def test_affine_is_the_linear_layer_of_an_output(name: str) -> None:
    block, rows = make(name), torch.randn(2, 5, 6)
    layer = block.affine()
    assert (layer is None) == (name in ("Boxes", "Quantiles", "Rows"))
    if layer is not None:
        assert_close(rows @ layer.weight.T + layer.bias, block(rows), 1e-5)


@given(grid=grids(3), b=st.integers(1, 2))
def test_pixels_are_channels_first_at_their_position(grid: tuple, b: int) -> None:
    rows = torch.randn(b, int(np.prod(grid)), 3)
    video = outputs.ToPixels(3, in_channels=6).whole(rows, grid)
    assert video.shape == (b, grid[0], 3, *grid[1:])
    for flat, (t, y, x) in enumerate(np.ndindex(*grid)):
        assert torch.equal(video[:, t, :, y, x], rows[:, flat])


def test_flow_starts_at_zero_and_is_scaled() -> None:
    block, rows = outputs.Flow(6), torch.randn(2, 5, 6)
    assert not block(rows).any()
    assert_close(noisy(block)(rows), block.project(rows) * 0.2, 1e-6)
    block = noisy(outputs.Flow(6, scale=3.0))
    assert_close(block(rows), block.project(rows) * 3, 1e-6)


def test_tied_text_multiplies_by_the_input_embedding() -> None:
    text = inputs.TextTokens(11, 6)
    block, rows = noisy(outputs.TiedText(text)), torch.randn(2, 5, 6)
    assert block.text is text
    assert_close(block(rows), rows @ text.embedding.weight.T + block.bias, 1e-5)


@pytest.mark.parametrize(
    ("block", "grid", "message"),
    [
        (
            outputs.ToPixels(3, in_channels=6),
            (4,),
            r"output 'out': the grid of pixels must be \(h, w\) or \(t, h, w\), got \(4,\)",
        ),
        (outputs.ToPixels(3, in_channels=6), (1, 1, 1, 1), r"must be \(h, w\) or \(t, h, w\), got \(1, 1, 1, 1\)"),
        (outputs.Classify(3, in_channels=6), (2,), r"output 'out' has classes from one row, grid \(1,\), got \(2,\)"),
    ],
)
def test_unsuitable_grids_are_refused(block: nn.Module, grid: tuple, message: str) -> None:
    with pytest.raises(kit.InputError, match=message):
        block.check_grid("out", grid)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: outputs.Rows(0), "Rows: in_channels must be an int of at least 1, got 0"),
        (lambda: outputs.Project(0, in_channels=3), "Project: channels must be an int of at least 1, got 0"),
        (lambda: outputs.ToPixels(-1, in_channels=3), "ToPixels: channels must be an int of at least 1, got -1"),
        (lambda: outputs.Classify(0, in_channels=3), "Classify: channels must be an int of at least 1, got 0"),
        (lambda: outputs.Flow(3, scale="1"), "Flow: scale must be a finite number, got '1'"),
        (lambda: outputs.Flow(3, scale=float("nan")), "Flow: scale must be a finite number, got nan"),
        (lambda: outputs.TiedText(inputs.OneHot(3)), "TiedText: text must be .* TextTokens block, got an OneHot"),
        (
            lambda: outputs.Outputs(),
            r"Outputs: expected at least one modality, got none; one named like an argument",
        ),
        (lambda: outputs.Outputs(a=inputs.OneHot(3)), r"'a' must be a block for outputs \(Output\), got OneHot"),
    ],
)
def test_wrong_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        make()
