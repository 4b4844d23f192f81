"""Tables of numbers: what is read, and errors that name file, line and column."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.data.tables import numbers, read_cells, read_rows, read_time

pytestmark = pytest.mark.usefixtures("checked")

finite = st.floats(-1e6, 1e6, width=32)


@given(rows=st.lists(st.tuples(finite, finite), min_size=1, max_size=5), delimiter=st.sampled_from(",;\t"))
def test_written_numbers_are_read(tmp_path: Path, rows: list[tuple[float, float]], delimiter: str) -> None:
    path = tmp_path / "rows.csv"
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    assert read_rows(path).tolist() == [list(row) for row in rows]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3,red\n", r"line 3, column 'y': expected a finite number, got 'red'"),
        ("x,y\n1,2\n3,\n", r"line 3, column 'y': .*got ''; remove the row"),
        ("1,2\n3,nan\n", r"line 2, column 2"),
        ("1,2\n\n3,inf\n", r"line 3, column 2"),
        ("1,2\n3,1e39\n", r"line 2, column 2: expected a finite number, got '1e39'"),
        ("1,2\n3\n", r"line 2: expected 2 columns"),
        ("x,y\n", "no rows"),
        ("", "no rows"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(kit.InputError, match=rf"bad\.csv.*{message}"):
        read_rows(path)


def test_missing_cells_are_nan(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "x,y\n1,NA\n,2\n")
    values = numbers(path, read_cells(path), [0, 1], missing=True)
    assert torch.equal(values.isnan(), torch.tensor([[False, True], [True, False]]))


def test_arrays_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.array([[1.0, 2.0], [np.nan, 0.0]]))
    with pytest.raises(kit.InputError, match=r"rows\.npy: row 1 has NaN"):
        read_rows(path)
    np.save(path, np.zeros((0, 2)))
    with pytest.raises(kit.InputError, match="is empty"):
        read_rows(path)
    np.save(path, np.zeros(3))
    with pytest.raises(kit.InputError, match="must hold numbers"):
        read_rows(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(kit.InputError, match="cannot be read"):
        read_rows(path)


@pytest.mark.parametrize("content", ["zip", "broken zip", "huge"])
def test_other_files_with_the_name_of_an_array_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rows.npy"
    with open(path, "wb") as file:
        np.savez(file, a=np.ones((2, 3))) if content == "zip" else np.save(file, np.ones((2, 3)))
    if content == "broken zip":
        path.write_bytes(b"PK\x03\x04" + bytes(20))
    if content == "huge":  # as its header says
        path.write_bytes(path.read_bytes().replace(b"(2, 3), }          ", b"(99999999999, 3), }"[:19]))
    for read in (read_rows, kit.processors.Array().read):
        with pytest.raises(kit.InputError, match=r"rows\.npy cannot be read as a \.npy file"):
            read(path)


def test_dates_without_a_zone_are_utc() -> None:
    assert read_time("2000-01-01T00:00:00") == read_time("2000-01-01T01:00:00+01:00") == 946684800
