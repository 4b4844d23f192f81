"""Position features of grids and of given coordinates: sines and cosines, or learned rows."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, unpack
from jaxtyping import Float
from torch import Tensor

from .block import LEFT_OUT, Block, undefined
from .checking import check_choice, check_positive, check_sizes, checks_values, describe_value, short
from .errors import AssemblyError, InputError
from .initialisation import learned, linear, sines, spread
from .plain import match_dtype
from .registry import register
from .tokens import Grid

Ends = Literal["both", "half_open"]
Start = Literal["normal", "sines"]
Spacing = Literal["linear", "log"]
Ranges = tuple[tuple[float, float], ...]


def axis_coordinates(size: int, ends: Ends, device: torch.device | None = None) -> Float[Tensor, "size"]:
    """Coordinates of one axis in [-1, 1], in float32.

    ``"both"`` includes both ends, -1 + 2·i / (n - 1); ``"half_open"`` excludes the right end, -1 + 2·i / n.
    The reference code uses the first for a full grid and the second for rows selected from one.

    >>> axis_coordinates(4, "half_open")
    tensor([-1.0000, -0.5000,  0.0000,  0.5000])
    """
    if ends == "both" and not torch.compiler.is_compiling():
        return torch.linspace(-1, 1, size, dtype=torch.float32, device=device)
    if ends == "both":
        # Equal up to rounding; linspace would specialise the graph to one size.
        index = torch.arange(size, dtype=torch.float32, device=device)
        step = 2 / max(size - 1, 1)
        return torch.where(index < size / 2, step * index - 1, 1 - step * (size - 1 - index))
    return -1 + 2 * torch.arange(size, dtype=torch.float32, device=device) / size


def unravel(index: Tensor, grid: Grid) -> list[Tensor]:
    """Flat row-major indices → one index per axis of the grid.

    >>> unravel(torch.tensor([5]), (2, 3))
    [tensor([1]), tensor([2])]
    """
    indices = []
    for size in reversed(grid):
        indices.append(index % size)
        index = index // size
    return indices[::-1]


class Place(NamedTuple):
    """What positions are for: a grid if it is declared, its number of axes, and the width of content to add to."""

    grid: Grid | None
    axes: int
    channels: int | None = None


class Positions(Block):
    """Base of position features: rows of ``channels`` for a whole grid, or for some of its flat indices.

    Positions that also take coordinates from the data set ``axes``, their number, and define ``of``.
    """

    channels: int
    axes: int | None = None

    def forward(self, grid: Grid, index: Tensor | None = None, *, device: torch.device | None = None) -> Tensor:
        """(n, c) for the whole grid, (k, c) or (b, k, c) for indices (k,) or (b, k)."""
        raise undefined(self, "forward(grid, index)")

    def of(self, coordinates: Float[Tensor, "*b n axes"], name: str = "coordinates") -> Float[Tensor, "*b n c"]:
        """Features of given coordinates; InputError, naming them, for coordinates out of range."""
        raise undefined(self, "of(coordinates, name)")


def check_positions(owner: str, positions: object) -> None:
    """Raise AssemblyError unless ``positions`` is a Positions block."""
    if not isinstance(positions, Positions):
        raise AssemblyError(f"{owner}: positions must be a block of positions, got {describe_value(positions)}")


def check_coordinates(owner: str, positions: object, axes: int | None = None) -> int:
    """The number of axes of the coordinates that ``positions`` take; AssemblyError for none, or another number."""
    check_positions(owner, positions)
    own = positions.axes  # type: ignore[attr-defined]
    if own is None or axes not in (None, own):
        got = "only grids" if own is None else f"{own} axes"
        raise AssemblyError(
            f"{owner}: positions must take coordinates of {'some' if axes is None else axes} axes, but "
            f"{type(positions).__name__} takes {got}; use Fourier(max_resolution=…) with a size per axis"
        )
    return own


@register("positions")
class Fourier(Positions):
    """Sines and cosines of each coordinate at ``bands`` frequencies, from 1 up to half of the resolution.

    Columns are the coordinates, then all sines, then all cosines, axis by axis. Any grid with the same number of axes
    works: its coordinates span [-1, 1]. Features are computed in float32 (bfloat16 coordinates would destroy the high
    bands) from one small table per axis, so a chunk of rows costs a look-up and nothing is cached.

    ``max_resolution`` may be left out in an input or query block: it is then the declared grid, or 2 · ``bands`` for
    each axis, which gives the frequencies 1, 2, …, ``bands``.

    ``spacing="log"`` spaces the frequencies evenly in their logarithm instead of linearly.

    ``of`` gives features of coordinates that are data, such as points or times. ``ranges`` (low, high) of each axis are
    mapped to [-1, 1]; by default the coordinates are in [-1, 1]. A coordinate outside is an InputError, unless
    ``extrapolate=True``: the formula then continues, and since the first frequency has a period of twice the range,
    only the ``coordinates`` column tells places apart that are a multiple of it away. A row with a NaN coordinate has
    no place: its features are zero. Inputs and queries that share one block are on one axis.

    Source: Perceiver (Jaegle et al. 2021), section 3.2.

    >>> Fourier(bands=64, max_resolution=(224, 224))((8, 8)).shape
    torch.Size([64, 258])
    >>> clock = Fourier(bands=4, max_resolution=(24,), ranges=((0.0, 24.0),))
    >>> clock.of(torch.tensor([[6.0], [18.5]]))[:, 0]
    tensor([-0.5000,  0.5417])
    """

    fills: ClassVar = {"max_resolution": lambda place, arguments: place.grid or (2 * arguments["bands"],) * place.axes}

    def __init__(
        self,
        *,
        bands: int,
        max_resolution: tuple[int, ...] = LEFT_OUT,
        ends: Ends = "both",
        coordinates: bool = True,
        sine_only: bool = False,
        spacing: Spacing = "linear",
        ranges: Ranges | None = None,
        extrapolate: bool = False,
    ) -> None:
        super().__init__()
        check_positive("Fourier", bands=bands)
        check_choice("Fourier", "spacing", spacing, get_args(Spacing))
        check_choice("Fourier", "ends", ends, ("both", "half_open"))
        self.bands, self.coordinates, self.sine_only = bands, coordinates, sine_only
        self.ends: Ends = ends
        self.max_resolution = check_sizes("Fourier", "max_resolution", max_resolution)
        self.axes = len(self.max_resolution)
        self.spacing, self.extrapolate = spacing, extrapolate
        self.ranges = None if ranges is None else _check_ranges(ranges, self.axes)
        self.channels = self.axes * (bands * (1 if sine_only else 2) + coordinates)

    def forward(self, grid: Grid, index: Tensor | None = None, *, device: torch.device | None = None) -> Tensor:
        if len(grid) != self.axes:
            raise InputError(
                f"Fourier positions have {self.axes} axes, but the grid is {grid}; coordinates that are data enter "
                "through inputs.Points"
            )
        device = index.device if index is not None else device
        axes = [axis_coordinates(size, self.ends, device) for size in grid]
        if index is None:
            columns = [spread(table, axis, grid) for group in self._tables(axes) for axis, table in enumerate(group)]
            return rearrange(torch.cat(columns, dim=-1), "... c -> (...) c")
        indices = unravel(index, grid)
        # Select coordinates before the sines on axes longer than the index: a chunk must not compute the whole table.
        # In a graph the number of rows may be dynamic, so it decides nothing.
        long = [torch.compiler.is_compiling() or size > index.shape[-1] for size in grid]
        axes = [axis[chosen] if first else axis for axis, chosen, first in zip(axes, indices, long, strict=True)]
        columns = [
            table if first else table[chosen]
            for group in self._tables(axes)
            for table, chosen, first in zip(group, indices, long, strict=True)
        ]
        return torch.cat(columns, dim=-1)

    def of(self, coordinates: Float[Tensor, "*b n axes"], name: str = "coordinates") -> Float[Tensor, "*b n c"]:
        if coordinates.shape[-1] != self.axes:
            raise InputError(f"{name} must have {self.axes} axes, got {tuple(coordinates.shape)}")
        # Large coordinates, such as seconds since 1970 in float64, are scaled before they are rounded to float32.
        wide = coordinates.to(torch.promote_types(coordinates.dtype, torch.float32))
        ranges = self.ranges or [(-1.0, 1.0)] * len(self.max_resolution)
        low, high = torch.tensor(ranges, dtype=wide.dtype).to(wide.device, non_blocking=True).unbind(-1)
        if not self.extrapolate and checks_values(wide):
            outside = (wide < low) | (wide > high)
            if bool(outside.any()):
                axis = int(outside.nonzero()[0, -1])
                got = wide[..., axis][~wide[..., axis].isnan()]
                raise InputError(
                    f"{name} of axis {axis} must be in {low[axis]:g} to {high[axis]:g}, got {got.min():g} to "
                    f"{got.max():g}; declare wider ranges, or allow it by Fourier(extrapolate=True)"
                )
        placed = ~wide.isnan().any(-1, keepdim=True)
        scaled = (2 * (wide - low) / (high - low) - 1).float()
        columns = [column for group in self._tables([*scaled.unbind(-1)]) for column in group]
        return torch.where(placed, torch.cat(columns, dim=-1), 0)

    def _frequencies(self, resolution: int, device: torch.device) -> Float[Tensor, "bands"]:
        # float32 explicitly: training in bfloat16 changes the default.
        options = dict(dtype=torch.float32, device=device)
        if self.spacing == "log":
            return torch.logspace(0.0, math.log2(resolution / 2), self.bands, base=2, **options)  # type: ignore[arg-type]
        return torch.linspace(1.0, resolution / 2, self.bands, **options)  # type: ignore[arg-type]

    def _tables(self, axes: list[Float[Tensor, "..."]]) -> list[list[Float[Tensor, "..."]]]:
        """Coordinates, sines and cosines of each axis."""
        phases = []
        for axis, resolution in zip(axes, self.max_resolution, strict=True):
            phases.append(math.pi * (axis[..., None] * self._frequencies(resolution, axis.device)))
        tables = [[axis[..., None] for axis in axes]] if self.coordinates else []
        tables.append([phase.sin() for phase in phases])
        if not self.sine_only:
            tables.append([phase.cos() for phase in phases])
        return tables


def _check_ranges(ranges: object, axes: int) -> Ranges:
    """``ranges`` as a tuple of (low, high); AssemblyError unless there is one for each axis, low below high."""
    pairs = isinstance(ranges, tuple | list) and all(isinstance(pair, tuple | list) for pair in ranges)
    if not pairs or len(ranges) != axes or any(len(pair) != 2 for pair in ranges):  # type: ignore[arg-type]
        raise AssemblyError(f"Fourier: ranges must be (low, high) for each of the {axes} axes, got {short(ranges)}")
    for low, high in ranges:  # type: ignore[attr-defined]
        if not all(_is_finite(end) for end in (low, high)) or not low < high:
            raise AssemblyError(f"Fourier: ranges must be finite with low below high, got ({low!r}, {high!r})")
    return tuple((float(low), float(high)) for low, high in ranges)  # type: ignore[attr-defined]


def _is_finite(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and math.isfinite(number)


@register("positions")
class Learned(Positions):
    """One learned row per position of a grid.

    A shorter one-axis grid takes the first rows, as a shorter text does. With ``interpolate=True`` the table is
    resampled to any grid with the same number of axes (linear for one, bicubic for two, trilinear for three).
    ``start="sines"`` initialises the rows as sines and cosines of the position instead of independent numbers, so what
    is learned at one position transfers to others; small models then need far fewer steps.
    ``deviation`` is the standard deviation of the sines, or of the normal before truncation at two deviations.

    >>> Learned((2048,), 768)((100,)).shape
    torch.Size([100, 768])
    """

    _MODES = ("linear", "bicubic", "trilinear")

    fills: ClassVar = {"grid": lambda place, arguments: place.grid, "channels": lambda place, arguments: place.channels}

    def __init__(
        self,
        grid: tuple[int, ...] = LEFT_OUT,
        channels: int = LEFT_OUT,
        *,
        interpolate: bool = False,
        start: Start = "normal",
        deviation: float = 0.02,
    ) -> None:
        super().__init__()
        check_choice("Learned", "start", start, ("normal", "sines"))
        self.grid = check_sizes("Learned", "grid", grid)
        check_positive("Learned", channels=channels)
        if interpolate and len(grid) > len(self._MODES):
            raise AssemblyError(f"Learned: interpolate supports up to three axes, got grid {self.grid}")
        if not _is_finite(deviation) or deviation <= 0:
            raise AssemblyError(f"Learned: deviation must be a positive number, got {deviation!r}")
        self.channels, self.interpolate = channels, interpolate
        if start == "normal":
            self.table = learned(math.prod(self.grid), channels, deviation=deviation)
        else:
            self.table = sines(self.grid, channels, deviation=deviation)

    def forward(self, grid: Grid, index: Tensor | None = None, *, device: torch.device | None = None) -> Tensor:
        rows = self._resized(grid)
        return rows if index is None else rows[index]

    def _resized(self, grid: Grid) -> Float[Tensor, "n c"]:
        # A dynamic size in an exported graph never equals this one; resampling to the same size gives the same rows.
        if all(isinstance(size, int) for size in grid) and grid == self.grid:
            return self.table
        if len(grid) == len(self.grid) and self.interpolate:
            [table] = unpack(self.table, [self.grid], "* c")
            table = rearrange(table, "... c -> 1 c ...")
            mode = self._MODES[len(grid) - 1]
            resized = F.interpolate(table, size=grid, mode=mode, align_corners=False)
            return rearrange(resized, "1 c ... -> (...) c")
        if len(grid) == len(self.grid) == 1 and grid[0] <= self.grid[0]:
            return self.table[: grid[0]]
        hint = "at most as many" if len(self.grid) == 1 else "just these (interpolate=True allows any)"
        raise InputError(f"learned positions are a grid of {self.grid}, {hint}; got {grid}")


@register("positions")
class Sinusoidal(Positions):
    """Sines of the index at ``channels`` / 2 wavelengths from 2π to 2π · 10,000, both included, then cosines.

    Without an end: any index has its features. Those of several axes are added.

    Source: Transformer (Vaswani et al. 2017), section 3.5; with the ends of google-research/perceiver-ar.

    >>> Sinusoidal(64)((2048,), torch.tensor([5])).shape
    torch.Size([1, 64])
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_positive("Sinusoidal", channels=channels)
        self.channels = channels

    def forward(self, grid: Grid, index: Tensor | None = None, *, device: torch.device | None = None) -> Tensor:
        if index is None:
            index = torch.arange(math.prod(grid), device=device)
        waves = -(-self.channels // 2)
        steps = torch.arange(waves, dtype=torch.float32, device=index.device)
        frequencies = 10_000.0 ** -(steps / max(waves - 1, 1))
        axes = unravel(index, grid) if len(grid) > 1 else [index]
        phases = torch.stack([axis[..., None] * frequencies for axis in axes])
        return reduce(torch.cat([phases.sin(), phases.cos()], -1), "axes ... c -> ... c", "sum")[..., : self.channels]


@register("positions")
class Projected(Positions):
    """Positions of any kind, then a linear layer to ``channels``, with or without ``bias``.

    ``like`` is another ``Projected`` whose linear layer this one shares.

    >>> Projected(Fourier(bands=8, max_resolution=(16,)), 32)((16,)).shape
    torch.Size([16, 32])
    """

    fills: ClassVar = {"channels": lambda place, arguments: place.channels}

    def __init__(
        self, positions: Positions, channels: int = LEFT_OUT, *, bias: bool = True, like: Projected | None = None
    ) -> None:
        super().__init__()
        check_positions("Projected", positions)
        check_positive("Projected", channels=channels)
        self.positions, self.channels, self.axes, self.like = positions, channels, positions.axes, like
        self.project = linear(positions.channels, channels, bias=bias) if like is None else like.project
        widths, own = tuple(self.project.weight.shape[::-1]), (positions.channels, channels)
        if widths != own or (self.project.bias is None) == bias:
            raise AssemblyError(f"Projected: like must map {own} with bias={bias}, got {like}")

    def forward(self, grid: Grid, index: Tensor | None = None, *, device: torch.device | None = None) -> Tensor:
        rows = self.positions(grid, index, device=device)
        return self.project(match_dtype(rows, self.project))

    def of(self, coordinates: Float[Tensor, "*b n axes"], name: str = "coordinates") -> Float[Tensor, "*b n c"]:
        return self.project(match_dtype(self.positions.of(coordinates, name), self.project))
