"""Position features equal their formula; rows at indices equal those of the whole grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import perceiver_kit as kit
from perceiver_kit.positions import Fourier, Learned, Positions, Projected, axis_coordinates

from . import restated
from .blocks import some_positions
from .strategies import assert_close, grids

ANY_GRID = st.integers(1, 3).flatmap(lambda axes: grids(axes, most=6))


@given(
    grid=ANY_GRID,
    bands=st.integers(1, 5),
    resolution=st.lists(st.integers(1, 12), min_size=3, max_size=3),
    ends=st.sampled_from(["both", "half_open"]),
    coordinates=st.booleans(),
    sine_only=st.booleans(),
)
def test_fourier_features_equal_their_formula(
    grid: tuple, bands: int, resolution: list[int], ends: str, coordinates: bool, sine_only: bool
) -> None:
    resolution = tuple(resolution[: len(grid)])
    options = dict(ends=ends, coordinates=coordinates, sine_only=sine_only)
    features = Fourier(bands=bands, max_resolution=resolution, **options)
    wanted = restated.fourier(grid, bands, resolution, ends, coordinates, sine_only)
    found = features(grid)
    assert found.dtype == torch.float32
    assert found.shape == (math.prod(grid), features.channels)
    assert float((found - torch.from_numpy(wanted)).abs().max()) < 2e-5  # phases up to 6π in float32


@given(data=st.data(), grid=ANY_GRID)
def test_rows_at_indices_equal_those_of_the_whole_grid(data: st.DataObject, grid: tuple) -> None:
    positions = data.draw(some_positions(grid).filter(bool))
    rows = math.prod(grid)
    index = torch.tensor(data.draw(st.lists(st.integers(0, rows - 1), min_size=6, max_size=6)))
    whole = positions(grid)
    assert whole.shape == (rows, positions.channels)
    for some in (index, index.view(2, 3)):  # shared by the batch, and per sample
        assert_close(positions(grid, some), whole[some], 1e-6)
    if not isinstance(positions, Projected):
        assert torch.equal(positions(grid, index), whole[index])


def test_coordinates_with_and_without_the_right_end() -> None:
    assert axis_coordinates(5, "both").tolist() == [-1, -0.5, 0, 0.5, 1]
    assert axis_coordinates(4, "half_open").tolist() == [-1, -0.5, 0, 0.5]
    assert axis_coordinates(1, "both").tolist() == axis_coordinates(1, "half_open").tolist() == [-1]
    # Bitwise equal to the reference: one ulp here is 7e-4 in the high bands of audio.
    assert torch.equal(axis_coordinates(30_720, "both"), torch.linspace(-1, 1, 30_720))


def test_a_traced_graph_has_the_same_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {(n, ends): axis_coordinates(n, ends) for n in (1, 2, 5, 224, 30_720) for ends in ("both", "half_open")}
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for (n, ends), coordinates in wanted.items():
        assert (axis_coordinates(n, ends) - coordinates).abs().max() < 2e-7


@pytest.mark.parametrize("ends", ["both", "half_open"])
def test_fourier_features_are_float32_for_any_default_dtype(ends: str) -> None:
    positions = Fourier(bands=4, max_resolution=(64,), ends=ends)
    wanted = positions((1000,))  # bfloat16 has the coordinates of 64 exactly
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(positions((1000,)), wanted)
        assert torch.equal(positions((1000,), torch.arange(1000)), wanted)
    finally:
        torch.set_default_dtype(torch.float32)


def test_fourier_features_have_no_parameters_or_buffers() -> None:
    positions = Fourier(bands=64, max_resolution=(224, 224))
    positions((8, 8))
    assert not [*positions.parameters(), *positions.buffers()]


@given(n=st.integers(1, 9))
def test_a_shorter_text_takes_the_first_rows(n: int) -> None:
    positions = Learned((9,), 3)
    assert torch.equal(positions((n,)), positions.table[:n])
    assert torch.equal(positions((n,), torch.tensor([n - 1, 0])), positions.table[[n - 1, 0]])


@given(old=st.integers(1, 6), new=st.integers(1, 9))
def test_interpolation_along_one_axis_equals_numpy(old: int, new: int) -> None:
    positions = Learned((old,), 2, interpolate=True).double()
    centres = (np.arange(new) + 0.5) * old / new - 0.5  # of the new rows, in units of the old
    table = restated.array(positions.table)
    wanted = np.stack([np.interp(centres, np.arange(old), column) for column in table.T], axis=1)
    assert_close(positions((new,)), torch.from_numpy(wanted), 1e-9)


@given(data=st.data(), axes=st.integers(2, 3))
def test_interpolation_keeps_the_axes_apart(data: st.DataObject, axes: int) -> None:
    old, new = data.draw(grids(axes)), data.draw(grids(axes))
    positions = Learned(old, 1, interpolate=True)
    assert torch.equal(positions(old), positions.table)
    for axis in range(axes):  # a ramp along one axis stays monotonic along it and constant along the others
        shape = [1] * axes
        shape[axis] = old[axis]
        ramp = torch.arange(old[axis], dtype=torch.float32).view(shape).expand(old)
        with torch.no_grad():
            positions.table.copy_(ramp.reshape(-1, 1))
            found = positions(new).view(new).movedim(axis, -1).flatten(0, -2)
        assert_close(found, found[:1].expand_as(found), 1e-5)
        assert (found.diff(dim=-1) > 0).all() or old[axis] == 1


def test_sines_initialise_each_axis_as_sines_and_cosines_of_the_position() -> None:
    """A step along an axis rotates each pair of columns by an angle that is the same at every position."""
    grid, channels = (5, 8), 16
    table = Learned(grid, channels, start="sines", deviation=0.5).table.detach().double().view(5, 8, 4, 2, 2)
    waves, axes = table.unbind(3), (0, 1)  # (5, 8, waves, sine and cosine) of each axis
    for axis in axes:
        along = torch.complex(waves[axis][..., 1], waves[axis][..., 0]).movedim(axis, 0)
        assert_close(along.abs(), torch.full_like(along.abs(), 0.5 * math.sqrt(2)), 1e-6)
        turns = along[1:] / along[:-1]
        assert_close(turns, turns[:1, :1].expand_as(turns), 1e-5)
        angles = turns[0, 0].angle().abs()
        assert angles[0].item() == pytest.approx(math.pi, rel=1e-5)
        assert angles[-1].item() == pytest.approx(math.pi / grid[axis], rel=1e-5)
        assert_close(along, along[:, :1].expand_as(along), 1e-6)  # constant along the other axis
    assert Learned((3, 4, 5), 7, start="sines").table.shape == (60, 7)


def test_learned_positions_have_the_given_deviation() -> None:
    for start, share in (
        ("normal", 0.8796),
        ("sines", 1.0),
    ):  # a normal truncated at two deviations keeps 0.88 of its deviation
        for deviation in (0.02, 1.0):
            table = Learned((32, 32), 64, start=start, deviation=deviation).table
            assert table.square().mean().sqrt().item() == pytest.approx(share * deviation, rel=0.01)


@pytest.mark.parametrize(
    ("positions", "grid", "message"),
    [
        (Fourier(bands=1, max_resolution=(4, 4)), (4,), r"Fourier positions have 2 axes, but the grid is \(4,\)"),
        (Learned((4,), 2), (5,), r"learned positions are a grid of \(4,\), at most as many; got \(5,\)"),
        (Learned((4, 4), 2), (4, 3), r"grid of \(4, 4\), just these \(interpolate=True allows any\); got \(4, 3\)"),
        (Learned((4, 4), 2, interpolate=True), (4, 4, 4), r"grid of \(4, 4\).*; got \(4, 4, 4\)"),
    ],
)
def test_unsuitable_grids_are_refused(positions: Positions, grid: tuple, message: str) -> None:
    with pytest.raises(kit.InputError, match=message):
        positions(grid)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fourier(bands=0, max_resolution=(4,)), "Fourier: bands must be an int of at least 1, got 0"),
        (lambda: Fourier(bands=1, max_resolution=4), "max_resolution must be a tuple of positive ints.*got 4"),
        (lambda: Fourier(bands=1, max_resolution=(4, 0)), "max_resolution must be an int of at least 1, got 0"),
        (lambda: Fourier(bands=1, max_resolution=(4,), ends="half"), "ends is 'half'; did you mean 'half_open'"),
        (lambda: Learned((), 3), r"Learned: grid must be a tuple of positive ints, one per axis, got \(\)"),
        (lambda: Learned((4,), 1, start="sine"), "start is 'sine'; did you mean 'sines'"),
        (lambda: Learned((4,), 1, deviation=0), "Learned: deviation must be a positive number, got 0"),
        (lambda: Learned((4,), 0), "Learned: channels must be an int of at least 1, got 0"),
        (lambda: Learned((1, 1, 1, 1), 2, interpolate=True), r"up to three axes, got grid \(1, 1, 1, 1\)"),
    ],
)
def test_wrong_arguments_are_refused(make, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        make()


class Sines(TorchDispatchMode):
    """Records the largest number of sines computed at once."""

    most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.sin.default:
            self.most = max(self.most, args[0].numel())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("rows", "most"), [(5, 5 * 4), (200, 100 * 4)])
def test_few_rows_compute_no_table_of_a_longer_axis(rows: int, most: int) -> None:
    """Otherwise decoding a long output in chunks would cost the square of its length."""
    positions = Fourier(bands=4, max_resolution=(64, 64))
    with Sines() as sines:
        positions((100, 3), torch.arange(rows))
    assert sines.most == most
