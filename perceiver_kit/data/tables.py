"""Tables of numbers in files: CSV, and NumPy's .npy."""

from __future__ import annotations

import csv
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..checking import short
from ..errors import InputError
from ..flags import checked_flags

EMPTY = {"", "na", "n/a", "nan", "null", "none", "-", "?"}
"""Cells that hold no value, in lower case."""
LARGEST = float(torch.finfo(torch.float32).max)


class Cells(NamedTuple):
    """The cells of a CSV file: names of the columns, () without a header; rows, and the line that each ends at."""

    names: tuple[str, ...]
    rows: list[list[str]]
    lines: list[int]


def read_cells(path: Path) -> Cells:
    """The cells of a CSV file, separated by comma, semicolon or tab. The first row is a header if it has no number.

    Raises InputError, naming the file and the line, for an unreadable or empty file and rows of different lengths.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            numbered = [([cell.strip() for cell in row], reader.line_num) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error})") from error
    rows, lines = [row for row, _ in numbered], [line for _, line in numbered]
    names: tuple[str, ...] = ()
    if rows and not any(is_number(cell) for cell in rows[0]):
        names, rows, lines = tuple(rows[0]), rows[1:], lines[1:]
    if not rows:
        raise InputError(f"{path} has no rows of numbers")
    width = len(names or rows[0])
    for row, line in zip(rows, lines, strict=True):
        if len(row) != width:
            raise InputError(f"{path}, line {line}: expected {width} columns as in its first row, got {len(row)}")
    return Cells(names, rows, lines)


@checked_flags
def numbers(path: Path, cells: Cells, columns: list[int], *, missing: bool = False) -> Float[Tensor, "n c"]:
    """Columns as float32. Raises InputError, naming file, line and column, for a cell that is no finite number.

    With ``missing``, an empty cell is NaN.
    """
    values = torch.empty(len(cells.rows), len(columns))
    for i, (row, line) in enumerate(zip(cells.rows, cells.lines, strict=True)):
        for j, column in enumerate(columns):
            cell = row[column]
            empty = cell.lower() in EMPTY
            if empty and missing:
                values[i, j] = math.nan
            elif empty or not is_number(cell) or not abs(float(cell)) < LARGEST:
                name = repr(cells.names[column]) if cells.names else column + 1
                hint = "encode classes as numbers" if not empty else "remove the row or give a value"
                raise InputError(
                    f"{path}, line {line}, column {name}: expected a finite number, got {short(cell)}; {hint}"
                )
            else:
                values[i, j] = float(cell)
    return values


def read_rows(path: Path) -> Float[Tensor, "n c"]:
    """The rows of a .csv or .npy file as float32.

    Raises InputError, naming the file and the row, for an empty or unreadable file, other shapes, and values that are
    no finite numbers.
    """
    if path.suffix.lower() == ".csv":
        cells = read_cells(path)
        return numbers(path, cells, [*range(len(cells.rows[0]))])
    values = read_npy(path)
    if values.ndim != 2 or values.dtype.kind not in "fiub":
        raise InputError(f"{path} must hold numbers (rows, columns), got {values.dtype} {values.shape}")
    return checked_rows(torch.from_numpy(values.astype(np.float32)), str(path))


def read_npy(path: str | Path) -> np.ndarray:
    """The array of a .npy file. Raises InputError, naming the file, for any other content."""
    try:
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise InputError(f"{path} cannot be read as a .npy file ({error})") from error


def checked_rows(rows: Tensor, name: str) -> Float[Tensor, "n c"]:
    """Rows; InputError, naming the first bad one, unless there are some and all are finite."""
    if not len(rows):
        raise InputError(f"{name} is empty: expected at least one row")
    bad = ~rows.isfinite().all(-1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0, 0])
        raise InputError(f"{name}: row {row} has NaN or infinite values, {rows[row].tolist()}; remove it")
    return rows


def read_time(cell: str, *, dates: bool | None = None) -> float:
    """A number, or a date of ISO 8601 in seconds since 1970 (UTC unless it says another zone).

    Raises ValueError for any other cell, and for a date or a number where ``dates`` says the other.

    >>> read_time("1970-01-02"), read_time("3.5")
    (86400.0, 3.5)
    """
    if not dates and (dates is False or is_number(cell)):
        return float(cell)
    moment = datetime.fromisoformat(cell)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def is_number(cell: str) -> bool:
    """Whether a cell is a number.

    >>> is_number("1e-5"), is_number("2024-05-31")
    (True, False)
    """
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and cell.lower() not in EMPTY
