"""Series: files with a clock, windows, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.data.series import Readings, Windows, co2, elnino, read_series, scaled, series_files, split_in_time

pytestmark = pytest.mark.usefixtures("checked")


def readings(n: int = 40, series: int = 2) -> Readings:
    generator = torch.Generator().manual_seed(n)
    times = torch.rand(n, generator=generator, dtype=torch.float64).add(0.5).cumsum(0)
    return Readings(times, torch.randn(n, series, generator=generator), tuple("abc"[:series]), False)


def test_a_file_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "weather.csv"
    path.write_text("sun,date,rain\n1.5,2024-01-01,\n,2024-01-02T12:00,3\n2,2024-01-04,4\n")
    found, wanted = read_series(path), pandas.read_csv(path)
    assert found.names == ("sun", "rain")
    assert found.dates
    np.testing.assert_allclose(found.values.numpy(), wanted[["sun", "rain"]].to_numpy())
    times = pandas.to_datetime(wanted["date"], format="ISO8601").astype("datetime64[s]").astype("int64")
    assert found.times.tolist() == times.tolist()
    assert found.step == 1.5 * 86400


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,x\n1,2\n3,4\n2,5\n", r"line 4: '2' is not after the time before it; sort"),
        ("time,x\n1,2\n1,4\n", r"line 3: '1' repeats the time before it; keep one"),
        ("time,x\n1,2\nsoon,4\n", r"line 3: expected a number or a date .*got 'soon'"),
        ("time,x\n1,2\n,4\n", r"line 3: expected a number or a date"),
        ("date,x\n2024-02-01,1\n2024-02-30,4\n", r"line 3: expected a number or a date"),
        ("time,x\n1,2\n2,wet\n", r"line 3, column 'x': expected a finite number, got 'wet'"),
        ("time,x,y\n1,2,\n2,3,\n", r"column 'y' has no readings"),
        ("time,x\n5,1\n2024-02-01,4\n", r"line 3: expected a number or a date .* as in the first row"),
        ("time,x\n2024-02-01,1\n9999999999,4\n", r"line 3: expected a number or a date .* as in the first row"),
        ("time,x,x\n1,2,3\n2,3,4\n", r"expected a name of its own for each column, got x, x"),
        ("time\n1\n2\n", r"at least one of numbers"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(kit.InputError, match=rf"bad\.csv.*{message}"):
        read_series(path)


@given(seed=st.integers(0, 100), factor=st.floats(0.5, 100), shift=st.floats(-100, 100))
def test_scaled_history_does_not_depend_on_units(seed: int, factor: float, shift: float) -> None:
    one = readings(12 + seed % 3)
    values = torch.where(torch.rand(one.values.shape) < 0.2, torch.nan, one.values)
    first = scaled(one.times, values, 1.0)
    other = scaled(one.times * 60 + 5, values * factor + shift, 60.0)
    torch.testing.assert_close(other.history, first.history, atol=2e-3, rtol=0, equal_nan=True)
    back = other.history[:, 1:] * other.deviation + other.mean
    torch.testing.assert_close(back, values * factor + shift, atol=1e-3, rtol=1e-3, equal_nan=True)
    assert float(first.history[-1, 0]) == 0


@pytest.mark.parametrize("unit", [1e-9, 1e-3, 1e30])
def test_readings_of_any_unit_are_standardised(unit: float) -> None:
    one = readings()
    wanted, found = scaled(one.times, one.values, 1.0), scaled(one.times, one.values * unit, 1.0)
    torch.testing.assert_close(found.history, wanted.history)
    constant = scaled(one.times, torch.full((40, 1), 0.1 * unit), 1.0)
    assert constant.deviation == 1 and constant.history[:, 1].abs().max() == 0


def test_a_series_without_history_has_no_target() -> None:
    one = readings()
    one.values[:8, 1] = torch.nan
    target = Windows([one], history=8, horizon=4)[0]["targets"]["future"]
    assert target[:, 1].isnan().all() and target[:, 0].isfinite().all()


def test_small_numbers_are_no_dates(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,x\n1e-5,2\n2e-5,3\n")
    assert not read_series(path).dates


@pytest.mark.parametrize(("first", "step"), [(1.7e9, 1.0), (1.7e12, 1.0), (2010.0, 1 / 365), (0.0, 0.1)])
def test_each_forecast_has_its_own_time(tmp_path: Path, first: float, step: float) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,x\n" + "".join(f"{first + i * step!r},{i % 5}\n" for i in range(30)))
    model = kit.build("forecasting", preset="tiny", series=1)
    answer = kit.predict(model, path)
    assert [float(time) for time in answer.best["x"]] == pytest.approx(answer.times, abs=step / 100)
    path.write_text("time,x\n" + "".join(f"2024-01-01T00:00:{i // 2:02}.{5 * (i % 2)}00,{i}\n" for i in range(30)))
    assert [*kit.predict(model, path).best["x"]][:2] == ["2024-01-01T00:00:15", "2024-01-01T00:00:15.500"]


@pytest.mark.parametrize(
    ("wanted", "dates", "message"),
    [
        ([float("nan")], False, "expected times after the last reading"),
        ([float("inf")], False, "expected times after the last reading"),
        (["2025-01-01"], False, "expected times as numbers, as in the file"),
        ([1e12], True, "expected a time in the years 1 to 9999"),
        ([1e20], True, "expected a time in the years 1 to 9999"),
    ],
)
def test_impossible_times_to_forecast_are_named(tmp_path: Path, wanted: list, dates: bool, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,x\n" + "".join(f"{f'2024-01-{i:02}' if dates else i},{i % 5}\n" for i in range(1, 20)))
    with pytest.raises(kit.InputError, match=message):
        kit.predict(kit.build("forecasting", preset="tiny", series=1), (path, wanted))


def test_a_forecast_needs_recent_readings(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("time,x\n" + "".join(f"{i},{i if i < 9 else ''}\n" for i in range(200)))
    with pytest.raises(kit.InputError, match=r"a\.csv: expected a reading of x in the last \d+ rows, got none"):
        kit.predict(kit.build("forecasting", preset="tiny", series=1), path)


@pytest.mark.parametrize("times", [[], [3.0, 1.0, 2.0], [1.0, 1.0]])
def test_readings_of_a_call_are_at_rising_times(times: list[float]) -> None:
    given = Readings(torch.tensor(times, dtype=torch.float64), torch.ones(len(times), 1), ("x",), False)
    with pytest.raises(kit.InputError, match="a Readings: expected Readings at rising times"):
        kit.predict(kit.build("forecasting", preset="tiny", series=1), given)


def test_windows_hold_neighbouring_rows() -> None:
    one = readings()
    data = Windows([one, readings(9)], history=8, horizon=4, step=1.0)
    assert len(data) == 40 - 12 + 1
    sample = data[5]
    past = scaled(one.times[5:13], one.values[5:13], 1.0)
    torch.testing.assert_close(sample["inputs"]["history"], past.history)
    torch.testing.assert_close(
        sample["queries"]["future"][:, 0].double(), one.times[13:17] - one.times[12], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(sample["targets"]["future"] * past.deviation + past.mean, one.values[13:17])


def test_readings_are_left_out_in_training_alone() -> None:
    data = Windows([readings()], history=20, horizon=2, drop=0.5)
    assert data[0, 1]["inputs"]["history"][:, 1:].isnan().float().mean() > 0.2
    assert not data[0]["inputs"]["history"].isnan().any()
    assert not data[0, 1]["inputs"]["history"][:, 0].isnan().any()


def test_held_out_futures_are_later_than_all_of_training() -> None:
    one = readings(50)
    (train,), (held_out,) = split_in_time(one, history=8, horizon=4)
    first = Windows([held_out], history=8, horizon=4)[0]
    past = scaled(held_out.times[:8], held_out.values[:8], held_out.step)
    assert past.now + float(first["queries"]["future"][0]) * held_out.step > float(train.times[-1])


def test_a_folder_of_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = "\n".join(f"{i},{i % 5},{i % 3}" for i in range(80))
        (tmp_path / f"{name}.csv").write_text("time,x,y\n" + rows)
    task = series_files(tmp_path, history=12, horizon=4)
    assert task.overrides["series"] == 2
    assert task.overrides["names"] == ("x", "y")
    assert len(task.train) == 2 * (64 - 15)
    with pytest.raises(kit.InputError, match=r"need longer recordings; got 128 rows"):
        series_files(tmp_path, history=100, horizon=4)
    (tmp_path / "b.csv").write_text("time,x,z\n1,2,3\n2,3,4\n")
    with pytest.raises(kit.InputError, match=r"b\.csv has columns x, z, but a\.csv has x, y"):
        series_files(tmp_path, history=12, horizon=4)


@pytest.mark.parametrize(("load", "missing", "rows"), [(co2, 59, 2284), (elnino, 0, 732)])
def test_series_of_statsmodels(load: object, missing: int, rows: int) -> None:
    try:
        task = load()  # type: ignore[operator]
    except kit.MissingPackage as error:
        pytest.skip(str(error))
    train, held_out = task.train.recordings[0], task.held_out.recordings[0]
    assert len(train.times) == int(rows * 0.8)
    overlap = task.train.history
    assert len(train.times) + len(held_out.times) - overlap == rows
    assert int(train.values.isnan().sum() + held_out.values[overlap:].isnan().sum()) == missing
