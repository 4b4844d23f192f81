"""What the properties are held over: raw inputs for any block, the recipes at their tiny size, random assemblies.

A recipe that is registered is tested: it only has to have the preset "tiny". A new input block needs one line in
``RAW`` (how to make its raw tensor), a new output block with a form of its own one line in ``ROWS``.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import decoder, inputs, outputs, positions, queries

Grid = tuple[int, ...]
RECIPES = kit.list()
# Modality names are the user's. These are taken in nn.Module, have dots or percent signs, or are not ASCII.
NAMES = ["image", "audio", "type", "items", "values", "training", "names", "a.b", "%", "%2E", "a b", "名前", "forward"]


# ---- raw inputs


def _frames(channels: int, extent: Grid) -> Grid:
    """(c, h, w) of an extent (h, w), (t, c, h, w) of (t, h, w)."""
    return (*extent[:-2], channels, *extent[-2:])


def _times(grid: Grid, size: Grid) -> Grid:
    return tuple(n * part for n, part in zip(grid, size, strict=True))


RAW: dict[str, Callable[[Any, int, Grid], Tensor]] = {
    "AudioPatches": lambda block, b, grid: torch.randn(b, grid[0] * block.samples_per_patch),
    "Conv1x1": lambda block, b, grid: torch.randn(b, *_frames(block.raw_channels, _times(grid, block.stride))),
    "ConvStem": lambda block, b, grid: torch.randn(
        b, *_frames(block.raw_channels, (*grid[:-2], *(n * 4 ** len(block.convs) for n in grid[-2:])))
    ),
    "Features": lambda block, b, grid: torch.randn(b, *grid, block.content_channels),
    "Neighbourhoods": lambda block, b, grid: torch.randn(b, block.frames, block.raw_channels, *grid),
    "OneHot": lambda block, b, grid: torch.randn(b, block.classes).softmax(-1),
    "Patches": lambda block, b, grid: torch.randn(b, *_frames(block.raw_channels, _times(grid, block.size))),
    "Pixels": lambda block, b, grid: torch.randn(b, *_frames(block.content_channels, _times(grid, block.stride))),
    "TextTokens": lambda block, b, grid: torch.randint(block.vocabulary, (b, *grid)),
}


def axes(block: nn.Module) -> int:
    """How many axes the grid of an input block has."""
    for name in ("size", "stride"):
        if isinstance(getattr(block, name, None), tuple):
            return len(getattr(block, name))
    return getattr(block, "axes", 2 if type(block).__name__ == "Neighbourhoods" else 1)


def raw(block: nn.Module, batch: int, grid: Grid | None = None) -> Tensor:
    """A raw tensor that an input block reads as rows on this grid (its declared one, or a small one)."""
    make = RAW.get(type(block).__name__)
    assert make is not None, f"tests/strategies.py: RAW needs a line for the input block {type(block).__name__}"
    return make(block, batch, grid or block.grid or (2, 3, 4)[-axes(block) :])


def raws(model: nn.Module, batch: int) -> dict[str, Tensor]:
    """Raw inputs of every modality of a model; a tiled model gets one tile."""
    blocks = model.inputs.blocks
    return {name: raw(blocks[name], batch, getattr(model, "tile", None)) for name in blocks}


# ---- outputs


ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "Classify": lambda whole: whole[:, None],
    "Flow": lambda whole: rearrange(whole, "b c h w -> b (h w) c"),
    "Pixels": lambda whole: torch.cat(  # one image after another, one pixel after another
        [rearrange(image, "b c h w -> b (h w) c") for image in whole.unflatten(0, (-1,)).movedim(-4, 0)]
        if whole.ndim == 5
        else [rearrange(whole, "b c h w -> b (h w) c")],
        dim=1,
    ),
}


def rows_of(block: nn.Module, whole: Tensor) -> Tensor:
    """The rows (b, o, c) of an output in its whole form, restated without the kit."""
    if type(block).__name__ == "Waveform":
        return rearrange(whole, "b (o s) -> b o s", s=block.channels)
    rows = ROWS.get(type(block).__name__, lambda rows: rows)(whole)
    assert rows.ndim == 3, f"tests/strategies.py: ROWS needs a line for the output block {type(block).__name__}"
    return rows


# ---- models


def composite(function: Callable) -> Callable:
    """``st.composite``, with the state of ``random`` as it was: the type checker samples, which hypothesis forbids."""

    @functools.wraps(function)
    def kept(draw: st.DrawFn, *args: Any, **kwargs: Any) -> Any:
        state = random.getstate()
        try:
            return function(draw, *args, **kwargs)
        finally:
            random.setstate(state)

    return st.composite(kept)


@torch.no_grad()
def noisy(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """The model with noise on every parameter and statistic, so that zeros and ones of the start hide nothing."""
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
        tensor.add_(scale * torch.randn_like(tensor).abs())
    return model


@functools.cache
def _tiny(name: str) -> nn.Module:
    torch.manual_seed(1)
    return noisy(kit.build(name, preset="tiny"))


def tiny(name: str, *, train: bool = False) -> nn.Module:
    """A recipe at tiny size with noise on its parameters: one and the same for all tests, which leave it as it is."""
    return _tiny(name).train(train).requires_grad_(train)


@dataclass
class Assembly:
    """A model of blocks drawn at random, and raw inputs that it reads."""

    model: nn.Module
    raw: dict[str, Tensor]
    batch: int
    grids: dict[str, Grid] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"batch {self.batch}, inputs {self.grids}:\n{kit.describe(self.model)}"


def grids(axes: int, most: int = 4) -> st.SearchStrategy[Grid]:
    return st.tuples(*[st.integers(1, most)] * axes)


@composite
def some_positions(draw: st.DrawFn, grid: Grid, channels: int | None = None) -> nn.Module | None:
    """Positions for a grid, of a given width where one is wanted; None for none."""
    fourier = positions.Fourier(
        bands=draw(st.integers(1, 3)),
        max_resolution=tuple(n + 2 for n in grid),
        ends=draw(st.sampled_from(["both", "half_open"])),
        coordinates=draw(st.booleans()),
        sine_only=draw(st.booleans()),
    )
    learned = positions.Learned(grid, draw(st.integers(1, 5)) if channels is None else channels)
    if channels is not None:
        return draw(st.sampled_from([learned, positions.Projected(fourier, channels)]))
    return draw(st.sampled_from([fourier, learned, positions.Projected(fourier, 3), None]))


@composite
def input_blocks(draw: st.DrawFn) -> tuple[nn.Module, Grid]:
    """An input block of any kind but those that mix neighbours, with a grid that it is to read."""
    kind = draw(st.sampled_from(["audio", "image", "video", "features", "pixels", "conv1x1", "label", "text"]))
    if kind == "label":
        return inputs.OneHot(draw(st.integers(2, 5))), (1,)
    number = {"image": 2, "video": 3, "pixels": 2, "conv1x1": 3}.get(kind) or (
        1 if kind in ("audio", "text") else draw(st.integers(1, 3))
    )
    grid = draw(grids(number))
    add = draw(st.booleans())
    width = draw(st.integers(2, 4))
    size = tuple(draw(st.integers(1, 2)) for _ in range(number))
    content = {"image": 2 * math.prod(size), "pixels": 3}.get(kind, width)
    given = dict(positions=draw(some_positions(grid, content if add else None)), combine="add" if add else "concat")
    given["grid"] = draw(st.sampled_from([grid, None]))
    match kind:
        case "audio":
            return inputs.AudioPatches(width, **given), grid
        case "image":
            return inputs.Patches(size, channels=2, **given), grid
        case "video":
            return inputs.Patches(size, channels=2, out_channels=width, **given), grid
        case "pixels":
            return inputs.Pixels(size, **given), grid
        case "conv1x1":
            return inputs.Conv1x1(width, stride=size, **given), grid
        case "text":
            return inputs.TextTokens(11, width, **given), grid
    return inputs.Features(width, axes=number, **given), grid


@composite
def query_blocks(draw: st.DrawFn, encoder_inputs: nn.Module, given: dict[str, Grid]) -> tuple[nn.Module, Grid]:
    """A query block of any kind and the grid of its output."""
    kind = draw(st.sampled_from(["learned", "size", "follows", "rows", "content"]))
    if kind == "learned":
        rows = draw(st.integers(1, 3))
        return queries.Learned(rows, draw(st.integers(1, 6))), (rows,)
    if kind == "size":
        grid = draw(st.integers(1, 3).flatmap(grids))
        return queries.Positional(draw(some_positions(grid, 3)), size=grid), grid
    name = draw(st.sampled_from(sorted(given)))
    grid, block = given[name], encoder_inputs.blocks[name]
    if kind == "follows":
        return queries.Positional(draw(some_positions(grid, 4)), follows=name), grid
    if kind == "rows":
        return queries.FromInput(name, channels=encoder_inputs.channels), grid
    width = block.content_channels
    return queries.FromContent(name, content_channels=width, positions=draw(some_positions(grid))), grid


@composite
def assemblies(draw: st.DrawFn, *, hide: bool = True, least: int = 1) -> Assembly:
    """A float64 model, in evaluation mode, of one to three inputs and outputs of any kind, any width and any name."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=least, max_size=3, unique=True))
    drawn = {name: draw(input_blocks()) for name in names}
    hidden = {name: draw(st.sampled_from([0.0, 1.0, (1.0, 0.0)])) for name in names if hide and draw(st.booleans())}
    given = {name: grid for name, (_, grid) in drawn.items()}
    every = inputs.Inputs(
        {name: block for name, (block, _) in drawn.items()}, hide=hidden, min_padding=draw(st.integers(0, 2))
    )
    heads = draw(st.sampled_from([1, 1, 2]))
    encoder = kit.Encoder(
        every.channels,
        num_latents=draw(st.integers(1, 4)),
        latent_dim=6,
        layers=draw(st.integers(0, 2)),
        blocks=draw(st.integers(1, 2)),
        self_heads=heads,
        cross_heads=heads,
        cross_qk_channels=4,
        query_residual=draw(st.booleans()),
    )
    asked = {
        name: draw(query_blocks(every, given))
        for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    }
    ask = queries.Queries({name: query for name, (query, _) in asked.items()}, min_padding=draw(st.integers(0, 2)))
    width = draw(st.sampled_from([None, 5]))
    decode = decoder.CrossAttention(ask.channels, 6, out_channels=width, query_residual=draw(st.booleans()))
    answers = {}
    for name, (_, grid) in asked.items():
        forms = [lambda c: outputs.Rows(c), lambda c: outputs.Project(c, 2)]
        forms += [lambda c: outputs.Waveform(c, 3)] if len(grid) == 1 else [lambda c: outputs.Pixels(c, 2)]
        forms += [lambda c: outputs.Classify(c, 3)] if grid == (1,) else []
        answers[name] = draw(st.sampled_from(forms))(decode.out_channels)
    model = noisy(kit.PerceiverIO(every, encoder, ask, decode, outputs.Outputs(answers))).double().eval()
    batch = draw(st.integers(1, 3))
    tensors = {name: raw(every.blocks[name], batch, grid) for name, grid in given.items()}
    tensors = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    return Assembly(model, tensors, batch, given)


# ---- comparing


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value that is wanted."""
    assert found.shape == wanted.shape, f"{tuple(found.shape)} is not {tuple(wanted.shape)}"
    if wanted.numel() == 0:
        return 0.0
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3))


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.isfinite().all(), "not finite"
    assert distance(found, wanted) <= tolerance, f"differs by {distance(found, wanted):.1e}"
