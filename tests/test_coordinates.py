"""Places that are data: coordinates of inputs, and queries known only at the call."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.inputs import Features, Points
from perceiver_kit.outputs import Classify, Project
from perceiver_kit.positions import Fourier, Learned, Projected
from perceiver_kit.queries import CoordinateQuery, LearnedQuery, PositionQuery

from .strategies import assert_close, noisy

RANGES = ((-2.0, 3.0), (0.0, 1e6))


def features(coordinates: np.ndarray, bands: int, sizes: tuple, ranges: tuple, log: bool) -> np.ndarray:
    """The formula, place by place: scaled coordinates, all sines, all cosines, axis by axis."""
    rows = []
    for place in coordinates:
        x = [2 * (v - low) / (high - low) - 1 for v, (low, high) in zip(place, ranges, strict=True)]
        waves = []
        for value, size in zip(x, sizes, strict=True):
            for band in range(bands):
                share = band / max(1, bands - 1)
                frequency = (size / 2) ** share if log else 1 + (size / 2 - 1) * share
                waves.append(math.pi * value * frequency)
        rows.append([*x, *map(math.sin, waves), *map(math.cos, waves)])
    return np.array(rows)


@given(bands=st.integers(1, 5), log=st.booleans(), extrapolate=st.booleans())
def test_features_of_coordinates_equal_their_formula(bands: int, log: bool, extrapolate: bool) -> None:
    positions = Fourier(
        bands=bands,
        max_resolution=(8, 16),
        ranges=RANGES,
        spacing="log" if log else "linear",
        extrapolate=extrapolate,
    )
    share = torch.rand(7, 2, dtype=torch.float64) * (1 + extrapolate)
    places = torch.tensor([low for low, _ in RANGES]) + share * torch.tensor([high - low for low, high in RANGES])
    found = positions.of(places)
    assert found.dtype == torch.float32
    wanted = features(places.numpy(), bands, (8, 16), RANGES, log)
    assert np.abs(found.numpy() - wanted).max() < 3e-5


@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_a_grid_is_the_coordinates_from_minus_one_to_one(spacing: str) -> None:
    positions = Fourier(bands=4, max_resolution=(8, 8), spacing=spacing)
    axes = torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 3)
    assert_close(positions.of(torch.cartesian_prod(*axes)), positions((5, 3)), 1e-5)


def test_seconds_since_1970_keep_their_precision() -> None:
    start = 1.7e9
    clock = Fourier(bands=1, max_resolution=(4,), ranges=((start, start + 8),))
    assert clock.of(start + torch.arange(9, dtype=torch.float64)[:, None])[:, 0].tolist() == [
        -1 + i / 4 for i in range(9)
    ]


def test_the_order_of_points_has_no_effect_but_their_places_have() -> None:
    block = Points(3, positions=Fourier(bands=8, max_resolution=(64, 64, 64)))
    points, order = torch.rand(1, 50, 3), torch.randperm(50)
    encoder = kit.Encoder(block.channels, num_latents=4, latent_dim=16, layers=1, self_heads=4)
    latents = encoder(block(points).rows)
    assert_close(encoder(block(points[:, order]).rows), latents, 1e-5)
    assert (encoder(block(points.flip(-1)).rows) - latents).abs().max() > 1e-4


@pytest.mark.parametrize("channels", [0, 2])
def test_points_are_coordinates_then_features(channels: int) -> None:
    positions = Fourier(bands=2, max_resolution=(4, 4))
    raw = torch.rand(2, 5, 2 + channels)
    rows = Points(2, channels=channels, positions=positions)(raw).rows
    assert torch.equal(rows, torch.cat([raw[..., 2:], positions.of(raw[..., :2])], -1))
    assert torch.equal(Points(2, channels=channels)(raw).rows, raw)


def test_masked_points_may_have_any_coordinates() -> None:
    inputs = kit.Inputs(points=Points(2, channels=1, positions=Projected(Fourier(bands=2, max_resolution=(4, 4)), 5)))
    raw, keep = torch.rand(2, 5, 3), torch.arange(5) < torch.tensor([[5], [3]])
    wanted = inputs(raw, keep)[0].rows
    for value in (math.nan, 7.0):
        other = torch.where(keep[..., None], raw, value)
        assert torch.equal(inputs(other, keep)[0].rows, wanted)


# ---- queries of the call


def forecast(*, extrapolate: bool = False) -> kit.PerceiverIO:
    """Measurements at given times → values at other times, on one clock."""
    torch.manual_seed(0)
    clock = Fourier(bands=6, max_resolution=(24,), ranges=((0.0, 24.0),), extrapolate=extrapolate)
    inputs = kit.Inputs(history=Points(1, channels=2, positions=clock), site=Features(3))
    encoder = kit.Encoder(inputs.channels, num_latents=4, latent_dim=16, layers=1)
    queries = kit.Queries(future=CoordinateQuery(clock), kind=LearnedQuery(1, 8))
    decoder = kit.Decoder(queries.channels, 16)
    outputs = kit.Outputs(
        future=Project(2, in_channels=queries.channels), kind=Classify(3, in_channels=queries.channels)
    )
    return noisy(kit.PerceiverIO(inputs, encoder, queries, decoder, outputs)).eval()


def given_history(batch: int = 2) -> dict[str, torch.Tensor]:
    times = 12 * torch.rand(batch, 9, 1)
    return {"history": torch.cat([times, torch.randn(batch, 9, 2)], -1), "site": torch.randn(batch, 1, 3)}


def test_queries_of_the_call_give_a_row_for_each_place() -> None:
    model, inputs, times = forecast(), given_history(), 24 * torch.rand(2, 5, 1)
    wanted = model(inputs, queries={"future": times})["future"]
    assert wanted.shape == (2, 5, 2)
    encoded = model.encode(inputs)
    assert torch.equal(model.decode(encoded, queries={"future": times})["future"], wanted)
    assert_close(model.decode(encoded, queries={"future": times}, chunk=2)["future"], wanted, 1e-5)
    index = torch.tensor([[4, 0], [1, 1]])
    found = model(inputs, queries={"future": times}, at={"future": index})["future"]
    assert_close(found, torch.stack([row[i] for row, i in zip(wanted, index, strict=True)]), 1e-5)
    shared = model(inputs, queries={"future": times[0]})["future"]  # the same times for the whole batch
    assert_close(shared[:1], wanted[:1], 1e-5)
    alone = torch.cat([model(inputs, queries={"future": times[:, i : i + 1]})["future"] for i in range(5)], 1)
    assert_close(alone, wanted, 1e-5)
    assert model(inputs, at={"kind": None})["kind"].shape == (2, 3), "an output that is not asked for needs none"
    with torch.no_grad():
        assert_close(model(inputs, queries={"future": times})["future"], wanted, 1e-5)


def test_input_and_query_share_one_clock() -> None:
    model = forecast()
    rebuilt = kit.build(kit.spec(model))
    assert rebuilt.inputs.blocks["history"].positions is rebuilt.queries.blocks["future"].positions
    assert "future" in kit.describe(model)
    assert "at coordinates, float (k, 1)" in kit.describe(model)
    drawn = {box.name: box.lines for box in kit.draw(model).boxes if box.kind == "query"}
    assert "one for each that the call gives" in " ".join(drawn["future"])


def test_padded_places_get_finite_rows() -> None:
    model, inputs, times = forecast(), given_history(), 24 * torch.rand(2, 5, 1)
    wanted = model(inputs, queries={"future": times[:, :3]})["future"]
    times[:, 3:] = math.nan
    found = model(inputs, queries={"future": times})["future"]
    assert found.isfinite().all()
    assert_close(found[:, :3], wanted, 1e-5)


def test_extrapolation_is_refused_unless_allowed() -> None:
    inputs, late = given_history(), torch.tensor([[23.0], [30.0]])
    with pytest.raises(kit.InputError, match="axis 0 must be in 0 to 24, got 23 to 30; declare wider ranges"):
        forecast()(inputs, queries={"future": late})
    assert forecast(extrapolate=True)(inputs, queries={"future": late})["future"].isfinite().all()
    with pytest.raises(kit.InputError, match="history of axis 0 must be in 0 to 24, got"):
        forecast()(inputs | {"history": inputs["history"] - 30}, queries={"future": late[:1]})


REFUSED = {
    "no places": (None, "queries lacks 'future': it takes coordinates, float (k, 1) or (b, k, 1); pass queries="),
    "a tensor": (torch.zeros(3, 1), "queries must map queries (future, kind), got float32 (3, 1)"),
    "another name": ({"futures": torch.zeros(3, 1)}, "queries names 'futures'; did you mean 'future'?"),
    "a learned query": (
        dict.fromkeys(("future", "kind"), torch.zeros(3, 1)),
        "queries names 'kind', whose LearnedQuery takes nothing",
    ),
    "no axes": ({"future": torch.zeros(3)}, "'future' takes coordinates, float (k, 1) or (b, k, 1), got float32 (3,)"),
    "two axes": ({"future": torch.zeros(2, 3, 2)}, "got float32 (2, 3, 2)"),
    "integers": ({"future": torch.zeros(3, 1).long()}, "got int64 (3, 1)"),
    "none of them": ({"future": torch.zeros(2, 0, 1)}, "got float32 (2, 0, 1)"),
    "another batch": ({"future": torch.zeros(5, 3, 1)}, "'future' must have one batch size with inputs, 2, got"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_wrong_queries_of_the_call_are_refused(what: str) -> None:
    queries, said = REFUSED[what]
    with pytest.raises(kit.PerceiverKitError) as caught:
        forecast()(given_history(), queries=queries)
    assert said in str(caught.value)


def test_a_given_grid_is_refused() -> None:
    with pytest.raises(kit.InputError, match="its query takes one place for each row"):
        forecast()(given_history(), queries={"future": torch.zeros(3, 1)}, size={"future": (4,)})


@pytest.mark.parametrize("make", [lambda p: Points(2, positions=p), lambda p: CoordinateQuery(p)])
def test_positions_of_grids_only_are_refused(make) -> None:
    with pytest.raises(kit.AssemblyError, match=r"Learned takes only grids; use Fourier\(max_resolution=…\)"):
        make(Learned((4, 4), 8))


def test_wrong_coordinates_and_ranges_are_refused() -> None:
    with pytest.raises(kit.AssemblyError, match="must take coordinates of 3 axes, but Fourier takes 1 axes"):
        Points(3, positions=Fourier(bands=2, max_resolution=(4,)))
    with pytest.raises(kit.InputError, match=r"coordinates that are data enter through inputs\.Points"):
        Features(3, positions=Fourier(bands=8, max_resolution=(64, 64, 64)))(torch.rand(2, 100, 3))
    with pytest.raises(kit.InputError, match=r"must be float \(b, n, 3\), got float32 \(2, 5, 2\); 2 coordinates"):
        Points(2, channels=1)(torch.rand(2, 5, 2), "points")
    with pytest.raises(kit.InputError, match="must have 1 axes"):
        Fourier(bands=2, max_resolution=(4,)).of(torch.zeros(3, 2))
    for ranges in (((0.0, 1.0), (0.0, 1.0)), (0.0, 1.0), ((0.0,),), "ab"):
        with pytest.raises(kit.AssemblyError, match=r"ranges must be \(low, high\) for each of the 1 axes"):
            Fourier(bands=2, max_resolution=(4,), ranges=ranges)
    for pair in ((1.0, 1.0), (0.0, math.inf), (0, "1"), (True, 2.0)):
        with pytest.raises(kit.AssemblyError, match="ranges must be finite with low below high"):
            Fourier(bands=2, max_resolution=(4,), ranges=(pair,))
    with pytest.raises(kit.AssemblyError, match="spacing is 'exponential'"):
        Fourier(bands=2, max_resolution=(4,), spacing="exponential")
    assert PositionQuery(Fourier(bands=2, max_resolution=(4,)), size=(4,)).takes is None
