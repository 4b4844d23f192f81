"""Series of readings on a clock: windows of history and what follows, from CSV files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Generator, Tensor

from ..block import Settings
from ..checking import check_positive, check_probability, short
from ..errors import InputError
from ..flags import checked_flags
from .files import find_files, list_names
from .packages import packaged
from .sampling import Sample, Samples
from .tables import Cells, is_number, numbers, read_cells, read_time
from .task import Task

CLOCKS = ("time", "date", "datetime", "timestamp", "ds", "year")
"""Names of a time column, in lower case; without such a name it is the first column."""


@dataclass(frozen=True)
class Readings(Settings):
    """Several series on one clock.

    Attributes:
        times: float64 (n,), increasing: numbers, or seconds since 1970.
        values: float32 (n, series); NaN is a missing reading.
        names: of the series.
        dates: whether times were dates.
    """

    times: Tensor
    values: Tensor
    names: tuple[str, ...]
    dates: bool

    @property
    def step(self) -> float:
        """The median time between two readings."""
        return float((self.times[1:] - self.times[:-1]).median()) if len(self.times) > 1 else 1.0


def read_series(path: Path) -> Readings:
    """The series of a CSV file: a column of times and columns of numbers; an empty cell is a missing reading.

    The time column has a name in ``CLOCKS``, or is the first: numbers, or dates of ISO 8601. Raises InputError, naming
    the file and the line, for times that do not increase, cells of another type, and columns without readings.
    """
    cells = read_cells(path)
    width = len(cells.rows[0])
    if width < 2:
        raise InputError(f"{path} must have a column of times and at least one of numbers, got {width}")
    named = [name.lower() for name in cells.names]
    clock = next((named.index(name) for name in CLOCKS if name in named), 0)
    times = _times(path, cells, clock)
    others = [column for column in range(width) if column != clock]
    values = numbers(path, cells, others, missing=True)
    names = tuple(cells.names[column] if cells.names else f"series {i}" for i, column in enumerate(others, start=1))
    if len({*names}) < len(names):
        raise InputError(f"{path}: expected a name of its own for each column, got {', '.join(names)}")
    for name, empty in zip(names, values.isnan().all(0).tolist(), strict=True):
        if empty:
            raise InputError(f"{path}: column {name!r} has no readings; remove it")
    return Readings(times, values, names, not is_number(cells.rows[0][clock]))


def _times(path: Path, cells: Cells, clock: int) -> Tensor:
    times: list[float] = []
    for row, line in zip(cells.rows, cells.lines, strict=True):
        try:
            time = read_time(row[clock], dates=not is_number(cells.rows[0][clock]))
        except ValueError:
            expected = "expected a number or a date such as 2024-05-31 or 2024-05-31T18:00, as in the first row"
            raise InputError(f"{path}, line {line}: {expected}, got {short(row[clock])}") from None
        if not math.isfinite(time) or (times and time <= times[-1]):
            what = "repeats the time before it" if times and time == times[-1] else "is not after the time before it"
            hint = "sort the rows" if times and time < times[-1] else "keep one row for each time"
            raise InputError(f"{path}, line {line}: {short(row[clock])} {what}; {hint}")
        times.append(time)
    return torch.tensor(times, dtype=torch.float64)


@checked_flags
def shown_time(time: float, dates: bool) -> str:
    """A time as it stands in a file. Raises InputError for a date after the year 9999.

    >>> shown_time(86400.0, True), shown_time(2.5, False), shown_time(1.7e9 + 1, False)
    ('1970-01-02', '2.5', '1700000001')
    """
    if not dates:
        return f"{time:.0f}" if time.is_integer() and abs(time) < 1e15 else f"{time:.12g}"
    try:
        moment = datetime.fromtimestamp(round(time, 3), UTC)
    except (ValueError, OverflowError, OSError):
        raise InputError(f"expected a time in the years 1 to 9999, got {time:g} seconds after 1970") from None
    if moment.microsecond:
        return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
    return moment.strftime("%Y-%m-%d" if moment.hour == moment.minute == moment.second == 0 else "%Y-%m-%dT%H:%M:%S")


class Scaled(NamedTuple):
    """History as a model reads it, and how to scale back.

    Attributes:
        history: float32 (n, 1 + series): times in steps, 0 at the last; readings with mean 0 and deviation 1.
        mean: (series,).
        deviation: (series,).
        now: the last time.
    """

    history: Tensor
    mean: Tensor
    deviation: Tensor
    now: float


def scaled(times: Tensor, values: Float[Tensor, "n series"], step: float) -> Scaled:
    """Times in steps from the last one, and each series standardised over its readings; NaN for one without any.

    >>> scaled(torch.arange(3).double(), torch.tensor([[1.0], [float("nan")], [3.0]]), 1.0).history[:, 1]
    tensor([-1., nan,  1.])
    """
    there, exact = ~values.isnan(), values.double()
    count = reduce(there.double(), "n series -> series", "sum")  # 0: the mean is NaN
    mean = torch.where(there, exact, 0).sum(0) / count
    deviation = (torch.where(there, exact - mean, 0).square().sum(0) / count).sqrt()
    deviation = torch.where(deviation > 1e-6 * mean.abs(), deviation, 1)
    mean, deviation = mean.float(), deviation.float()
    now = float(times[-1])
    clock = rearrange(((times - now) / step).float(), "n -> n 1")
    return Scaled(torch.cat([clock, (values - mean) / deviation], 1), mean, deviation, now)


class Windows(Samples):
    """Windows of ``history`` rows and the ``horizon`` rows after them, of one recording or of several.

    Times are in steps from the last of the history and readings are standardised by the history (``scaled``). In
    training a reading is left out with probability ``drop``; the future is asked at the times that it has.

    >>> readings = Readings(torch.arange(30).double(), torch.rand(30, 2), ("a", "b"), False)
    >>> sample = Windows([readings], history=8, horizon=4)[0]
    >>> {part: {name: tuple(x.shape) for name, x in sample[part].items()} for part in ("inputs", "queries", "targets")}
    {'inputs': {'history': (8, 3)}, 'queries': {'future': (4, 1)}, 'targets': {'future': (4, 2)}}
    """

    def __init__(
        self,
        recordings: Sequence[Readings],
        *,
        history: int,
        horizon: int,
        step: float | None = None,
        drop: float = 0.0,
        seed: int = 0,
    ) -> None:
        check_positive("Windows", history=history, horizon=horizon)
        check_probability("Windows", drop=drop)
        self.recordings, self.history, self.horizon, self.drop, self.seed = recordings, history, horizon, drop, seed
        self.step = recordings[0].step if step is None else step
        lengths = [len(one.times) - history - horizon + 1 for one in recordings]
        self.starts = [(i, start) for i, length in enumerate(lengths) for start in range(max(length, 0))]

    def __len__(self) -> int:
        return len(self.starts)

    def sample(self, index: int, random: Generator, training: bool) -> Sample:
        which, start = self.starts[index]
        one, now = self.recordings[which], start + self.history
        values = one.values[start:now]
        if training and self.drop:
            values = torch.where(torch.rand(values.shape, generator=random) < self.drop, math.nan, values)
        past = scaled(one.times[start:now], values, self.step)
        later = slice(now, now + self.horizon)
        times = ((one.times[later] - past.now) / self.step).float()
        return {
            "inputs": {"history": past.history},
            "queries": {"future": rearrange(times, "k -> k 1")},
            "targets": {"future": (one.values[later] - past.mean) / past.deviation},
        }


def split_in_time(readings: Readings, *, history: int, horizon: int, share: float = 0.8) -> list[list[Readings]]:
    """Training rows, and held-out rows whose futures are all later than any in training."""
    cut = int(len(readings.times) * share)
    starts = (slice(0, cut), slice(max(0, cut - history), None))
    return [[replace(readings, times=readings.times[part], values=readings.values[part])] for part in starts]


def forecast_task(
    name: str, parts: list[list[Readings]], source: str, *, history: int, horizon: int, seed: int
) -> Task:
    """Windows for training and evaluation, and what a processor keeps: the step and the names of the series."""
    step, names = parts[0][0].step, parts[0][0].names
    train, held_out = (
        Windows(part, history=history, horizon=horizon, step=step, drop=drop, seed=seed)
        for part, drop in zip(parts, (0.1, 0.0), strict=True)
    )
    if not len(train) or not len(held_out):
        rows = [sum(len(one.times) for one in part) for part in parts]
        raise InputError(
            f"{source}: {history} rows of history and {horizon} to forecast need longer recordings; got {rows[0]} rows "
            f"for training and {rows[1]} held out; lower history or horizon"
        )
    overrides = dict(history=history, horizon=horizon, series=len(names), step=step, names=names)
    return Task(name, train, held_out, overrides, source)


def series_files(path: Path, *, history: int = 96, horizon: int = 24, seed: int = 0) -> Task:
    """A CSV file, whose last fifth is held out, or a folder of CSV files with the same columns, each split so.

    ``read_series`` says what a file holds.
    """
    files = [path] if path.is_file() else find_files(path, (".csv",))
    recordings = [read_series(file) for file in files]
    for file, one in zip(files, recordings, strict=True):
        if one.names != recordings[0].names:
            first = f"{list_names(files[:1], files[0].parent)} has {', '.join(recordings[0].names)}"
            raise InputError(
                f"{file} has columns {', '.join(one.names)}, but {first}; give files with the same columns"
            )
    train, held_out = [], []
    for one in recordings:
        parts = split_in_time(one, history=history, horizon=horizon)
        train += parts[0]
        held_out += parts[1]
    return forecast_task(path.stem, [train, held_out], str(path), history=history, horizon=horizon, seed=seed)


CO2_SOURCE = "weekly CO2 at Mauna Loa 1958 to 2001, of statsmodels (public domain: Keeling and Whorf, CDIAC)"
ELNINO_SOURCE = "monthly sea surface temperature 1950 to 2010, of statsmodels (public domain: NOAA)"


def co2(*, history: int = 104, horizon: int = 52, seed: int = 0) -> Task:
    """CO2 in the air, weekly, with missing readings; the last fifth is held out."""
    path = packaged("statsmodels", "statsmodels", "datasets", "co2", "co2.csv", purpose="the series of CO2")
    cells = read_cells(path)
    days = [f"{row[0][:4]}-{row[0][4:6]}-{row[0][6:8]}" for row in cells.rows]
    times = torch.tensor([read_time(day) for day in days], dtype=torch.float64)
    readings = Readings(times, numbers(path, cells, [1], missing=True), ("co2",), True)
    parts = split_in_time(readings, history=history, horizon=horizon)
    return forecast_task("co2", parts, CO2_SOURCE, history=history, horizon=horizon, seed=seed)


def elnino(*, history: int = 48, horizon: int = 12, seed: int = 0) -> Task:
    """The temperature of the sea, monthly; the last fifth is held out."""
    path = packaged("statsmodels", "statsmodels", "datasets", "elnino", "elnino.csv", purpose="the series of El Niño")
    cells = read_cells(path)
    values = rearrange(numbers(path, cells, [*range(1, 13)], missing=True), "years months -> (years months) 1")
    times = torch.arange(len(values), dtype=torch.float64) / 12 + float(cells.rows[0][0])
    parts = split_in_time(Readings(times, values, ("temperature",), False), history=history, horizon=horizon)
    return forecast_task("elnino", parts, ELNINO_SOURCE, history=history, horizon=horizon, seed=seed)
