"""Forecasts: a CSV file of readings → quantiles of later readings."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..checking import check_positive, short
from ..data.series import Readings, Scaled, read_series, scaled, shown_time
from ..data.tables import read_time
from ..errors import InputError
from ..objectives.quantile import levels
from ..plots.forecasting import forecasts
from ..registry import register
from .base import Answer, Interpreter, Item, Processor, Reader
from .files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@register("processors")
@dataclass(frozen=True)
class History(Reader):
    """The last rows of a CSV file of readings, as float32 (n, 1 + series): times in steps before the last, readings.

    A source is the path of a file (``data.series.read_series`` says what it holds), ``Readings``, or a tuple of one of
    these and the times to forecast, as numbers or dates; without them, the next ``horizon`` steps.

    Args:
        rows: at most so many are read.
        horizon: steps to forecast.
        series: columns of readings.
        step: the time between two readings: numbers, or seconds for dates. None: the median of the file's.
        names: of the columns, in their order. (): any.
    """

    rows: int
    horizon: int
    series: int = 1
    step: float | None = None
    names: tuple[str, ...] = ()
    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    ragged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("History", rows=self.rows, horizon=self.horizon, series=self.series)

    def read(self, source: Any) -> Float[Tensor, "n c"]:
        return self.window(source)[1].history

    def queries(self, source: Any) -> dict[str, Tensor]:
        readings, past = self.window(source)
        return {"future": rearrange(torch.tensor(self.steps(source, readings, past)), "k -> k 1")}

    def path(self, source: Any) -> Path | None:
        return super().path(source[0] if isinstance(source, tuple) and source else source)

    def window(self, source: Any) -> tuple[Readings, Scaled]:
        """The readings of a source, and the last rows of them as the model reads them."""
        given = source[0] if isinstance(source, tuple) and len(source) == 2 else source
        if isinstance(given, str | Path):
            readings = read_series(Path(given))
        elif isinstance(given, Readings):
            readings = given
            if not len(given.times) or bool((given.times.diff() <= 0).any()):
                raise InputError("source: expected Readings at rising times, got none or unsorted ones")
        else:
            raise self.refuse(given, "the path of a .csv file, Readings, or a tuple of one of them and times")
        wanted = self.names or readings.names
        if len(readings.names) != self.series or readings.names != wanted:
            names = ", ".join(readings.names)
            expected = f"{self.series} columns of readings" + (f", {', '.join(self.names)}" if self.names else "")
            where = given if isinstance(given, str | Path) else "source"
            raise InputError(f"{where}: expected {expected}; got {names}")
        times, values = readings.times[-self.rows :], readings.values[-self.rows :]
        if lacking := [name for name, empty in zip(readings.names, values.isnan().all(0), strict=True) if empty]:
            where = given if isinstance(given, str | Path) else "source"
            expected = f"a reading of {', '.join(lacking)} in the last {len(times)} rows"
            raise InputError(f"{where}: expected {expected}, got none; remove the rows after the last reading")
        return readings, scaled(times, values, self.step or readings.step)

    def steps(self, source: Any, readings: Readings, past: Scaled) -> list[float]:
        """The times to forecast, in steps after the last reading."""
        if not isinstance(source, tuple):
            return [float(i + 1) for i in range(self.horizon)]
        try:
            given = [source[1]] if isinstance(source[1], str) else source[1]
            times = [read_time(time, dates=readings.dates) if isinstance(time, str) else float(time) for time in given]
        except (TypeError, ValueError) as error:
            kind = "numbers or dates" if readings.dates else "numbers, as in the file,"
            raise InputError(f"source: expected times as {kind}, got {short(source[1])}") from error
        if not times or not all(past.now < time < math.inf for time in times):
            last = shown_time(past.now, readings.dates)
            raise InputError(f"source: expected times after the last reading, at {last}; got {short(source[1])}")
        return [(time - past.now) / (self.step or readings.step) for time in times]


@dataclass(frozen=True, repr=False)
class ForecastAnswer(Answer):
    """Quantiles of each series at each time."""

    readings: Readings | None = None
    times: tuple[float, ...] = ()
    quantiles: Tensor | None = None  # (times, series, quantiles)

    def text(self) -> str:
        first, last = (f"{name} {value:.5g}" for name, value in self._ends())
        return f"{first} … {last}"

    def _ends(self) -> list[tuple[str, float]]:
        name = next(iter(self.best))
        items = [*self.best[name].items()]
        return [(f"{name} {items[i][0]}", items[i][1]) for i in (0, -1)]

    def figure(self) -> Figure:
        assert self.readings is not None and self.quantiles is not None
        shown = min(len(self.readings.times), 4 * len(self.times))
        times, values = self.readings.times[-shown:], self.readings.values[-shown:]
        future = torch.tensor(self.times, dtype=torch.float64)
        return forecasts(times, values, future, self.quantiles, names=self.readings.names, dates=self.readings.dates)

    def write(self, stem: Path) -> list[Path]:
        rows = io.StringIO()
        writer = csv.writer(rows, lineterminator="\n")
        assert self.readings is not None and self.quantiles is not None
        marks = [f"{level:.3g}" for level in levels(self.quantiles.shape[-1]).tolist()]
        names = self.readings.names
        writer.writerow(["time", *(f"{name} {mark}" for name in names for mark in marks)])
        for time, values in zip(self.times, self.quantiles, strict=True):
            numbers = rearrange(values, "series quantiles -> (series quantiles)").tolist()
            writer.writerow([shown_time(time, self.readings.dates), *(f"{number:.6g}" for number in numbers)])
        return [write_file(stem, ".forecast.csv", rows.getvalue().encode())]


@register("processors")
@dataclass(frozen=True)
class Forecast(Interpreter):
    """Later readings, in the units of the file.

    ``best`` maps each series to its middle quantile by time; ``scores`` to all its quantiles, by level and time.

    Args:
        output: quantiles (times, series, quantiles).
        history: the name of the reader ``History``.
    """

    output: str = "future"
    history: str = "history"

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> ForecastAnswer:
        reader: Any = processor.readers[self.history]
        own = source[self.history] if isinstance(source, dict) else source
        readings, past = reader.window(own)
        step = reader.step or readings.step
        times = tuple(past.now + step * ahead for ahead in reader.steps(own, readings, past))
        scale, mean = (rearrange(part, "series -> series 1") for part in (past.deviation, past.mean))
        quantiles = outputs[self.output] * scale + mean
        names = [shown_time(time, readings.dates) for time in times]
        marks = [f"{level:.3g}" for level in levels(quantiles.shape[-1]).tolist()]

        def by_time(values: Tensor) -> dict[str, float]:
            return dict(zip(names, values.tolist(), strict=True))

        middle = quantiles.shape[-1] // 2
        best = {name: by_time(quantiles[:, i, middle]) for i, name in enumerate(readings.names)}
        scores = {
            name: {mark: by_time(quantiles[:, i, q]) for q, mark in enumerate(marks)}
            for i, name in enumerate(readings.names)
        }
        return ForecastAnswer(
            source, best, scores, outputs, processor, readings=readings, times=times, quantiles=quantiles
        )


def forecast(
    history: int, horizon: int, series: int, step: float | None = None, names: Sequence[str] = ()
) -> Processor:
    """A CSV file of readings → later readings.

    >>> processors.series.forecast(96, 24, 2).readers["history"].rows
    96
    """
    return Processor({"history": History(history, horizon, series, step, tuple(names))}, Forecast())
