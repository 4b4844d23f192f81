"""Point clouds, sets and series: from files to answers."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.data.points import Shapes
from perceiver_kit.processors import Cloud, Entities, History
from perceiver_kit.processors.points import drawn
from perceiver_kit.processors.sets import classify_set

from ..strategies import tiny

pytestmark = pytest.mark.usefixtures("checked")

ROWS = {"point_cloud_classification": "points", "set_classification": "entities", "forecasting": "history"}


@settings(max_examples=6)
@given(st.data())
@pytest.mark.parametrize(("recipe", "name"), ROWS.items())
def test_order_never_matters(recipe: str, name: str, data: st.DataObject) -> None:
    """A permutation of points, entities or readings permutes the outputs of rows and leaves the others as they are."""
    model = tiny(recipe)
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    rows = 1 + data.draw(st.integers(1, 20))
    block = model.inputs.blocks[name]
    raw = torch.rand(2, rows, int(block.raw_axes.split()[-1])) * 2 - 1
    mask = torch.rand(2, rows) < 0.7
    order = torch.randperm(rows)
    with torch.no_grad():
        first = model({name: raw}, mask={name: mask})
        other = model({name: raw[:, order]}, mask={name: mask[:, order]})
        alone = model({name: raw[:1, mask[0]]}) if mask[0].any() else None
    for output, value in first.items():
        wanted = value[:, order] if output == "entities" else value
        torch.testing.assert_close(other[output], wanted, atol=1e-5, rtol=1e-5)
        if alone is not None:  # masked rows might as well not be there
            left = value[:1, mask[0]] if output == "entities" else value[:1]
            torch.testing.assert_close(alone[output], left, atol=1e-5, rtol=1e-5)


def test_a_cloud_is_centred_scaled_and_cut(tmp_path: Path) -> None:
    cloud = Shapes(1, points=100)[0] * 7 + 3
    np.save(tmp_path / "a.npy", cloud.numpy())
    reader = Cloud(points=60)
    found = reader.read(tmp_path / "a.npy")
    assert found.shape == (60, 3)
    assert found.abs().max() == 1
    torch.testing.assert_close(found, reader.read(cloud.tolist()))
    assert 0 < (drawn(found)[0] < 1).float().mean() < 0.1


def test_points_are_answered_from_files(tmp_path: Path) -> None:
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", Shapes(3, points=30 + i)[i].numpy())
    model = kit.build("point_cloud_classification", preset="tiny", labels=tuple("abcdefgh"))
    answers = kit.predict(model, tmp_path, progress=False)
    alone = kit.predict(model, tmp_path / "1.npy")
    assert answers[1].best == alone.best in "abcdefgh"
    assert answers[1].scores == pytest.approx(alone.scores, abs=1e-5)
    assert alone.picture().shape == (3, 96, 96)
    assert alone.figure() is not None


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([[0.0, 1.0]], r"expected numbers \(n, 3\)"),
        (np.zeros((0, 3)), "is empty"),
        ([[0.0, 1.0, 2.0], [0.0, float("nan"), 1.0]], "row 1 has NaN"),
        ("cloud.txt", "expected a point cloud"),
        ([[1, 2], [1]], "expected numbers"),
        ([[1j, 0, 0]], r"real numbers \(n, 3\)"),
        (torch.zeros(2, 3, dtype=torch.complex64), r"real numbers \(n, 3\)"),
    ],
)
def test_bad_clouds_are_refused(source: object, message: str) -> None:
    with pytest.raises(kit.InputError, match=message):
        Cloud().read(source)


def test_a_set_is_standardised_and_answered(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n3,1\n5,0\n")
    reader = Entities(2, most=2, mean=(1.0, 0.0), deviation=(2.0, 1.0))
    assert reader.read(tmp_path / "a.csv").tolist() == [[1, 1], [2, 0]]
    with pytest.raises(kit.InputError, match="has 3 entities; at most 2"):
        reader.read([[0, 0]] * 3)
    with pytest.raises(kit.AssemblyError, match="mean must have 2 numbers, got 1"):
        Entities(2, mean=(1.0,))
    model = kit.build("set_classification", preset="tiny", features=2)
    model.processor = classify_set(2, 8, (1.0, 0.0), (2.0, 1.0))
    answer = kit.predict(model, tmp_path / "a.csv")
    assert answer.outputs["entities"].shape == (2, 2)
    assert sum(answer.scores.values()) == pytest.approx(1)


def series_file(path: Path, rows: int = 30) -> Path:
    days = np.datetime64("2024-01-01") + np.arange(rows)
    lines = (f"{day},{100 + i % 7},{'' if i % 4 == 0 else i}" for i, day in enumerate(days))
    path.write_text("date,a,b\n" + "\n".join(lines) + "\n")
    return path


def test_a_forecast_is_in_the_units_of_the_file(tmp_path: Path) -> None:
    path = series_file(tmp_path / "a.csv")
    model = kit.build("forecasting", preset="tiny", series=2).eval()
    answer = kit.predict(model, path)
    assert [*answer.best] == ["a", "b"]
    assert [*answer.best["a"]] == [f"2024-01-{day}" for day in (31,)] + [f"2024-02-0{day}" for day in range(1, 6)]
    past = History(24, 6, 2).window(path)[1]
    with torch.no_grad():
        raw = model({"history": past.history[None]})["future"][0]
    wanted = raw[:, 0, 1] * past.deviation[0] + past.mean[0]
    assert [*answer.best["a"].values()] == pytest.approx(wanted.tolist(), rel=1e-5)
    low, middle, high = (answer.scores["b"][mark]["2024-02-02"] for mark in ("0.25", "0.5", "0.75"))
    assert low < middle < high
    assert len(answer.figure().axes) == 2
    [written] = answer.write(tmp_path / "out")
    with open(written, newline="") as file:
        rows = [*csv.reader(file)]
    assert rows[0][:4] == ["time", "a 0.25", "a 0.5", "a 0.75"]
    assert float(rows[3][5]) == pytest.approx(middle, rel=1e-4)
    assert "a 2024-01-31" in str(answer)


def test_times_of_the_user(tmp_path: Path) -> None:
    path = series_file(tmp_path / "a.csv")
    model = kit.build("forecasting", preset="tiny", series=2)
    whole = kit.predict(model, path)
    answer = kit.predict(model, (path, ["2024-01-31T12:00:00", "2024-02-02"]))
    assert [*answer.best["a"]] == ["2024-01-31T12:00:00", "2024-02-02"]
    assert answer.best["b"]["2024-02-02"] == pytest.approx(whole.best["b"]["2024-02-02"], rel=1e-4)
    with pytest.raises(kit.InputError, match="after the last reading, at 2024-01-30"):
        kit.predict(model, (path, ["2024-01-30"]))
    with pytest.raises(kit.InputError, match="expected times as numbers or dates"):
        kit.predict(model, (path, ["soon"]))
    with pytest.raises(kit.InputError, match=r"a\.csv: expected 1 columns of readings; got a, b"):
        kit.predict(kit.build("forecasting", preset="tiny"), path)
