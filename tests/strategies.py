"""Raw inputs for any block, tiny recipes, comparisons.

Every registered recipe with the preset "tiny" is tested. A new input block may need a line in ``RAW`` (its raw
tensor), an output block with its own form a line in ``ROWS``. blocks.py and assemblies.py draw blocks and models.
"""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import torch
from einops import rearrange
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit

Grid = tuple[int, ...]
RECIPES = kit.list()
# Difficult modality names: attributes of nn.Module, parameters of functions, keys of a spec, punctuation, non-ASCII.
NAMES = ["image", "audio", "type", "items", "values", "training", "names", "a.b", "%", "%2E", "a b", "名前", "forward"]
NAMES += ["owner", "hide", "self", "tuple", "same_as", "__len__", "%training", "../a", "\n"]


# ---- raw inputs


def _frames(channels: int, extent: Grid) -> Grid:
    """(c, h, w) of an extent (h, w), (t, c, h, w) of (t, h, w)."""
    return (*extent[:-2], channels, *extent[-2:])


def _times(grid: Grid, size: Grid) -> Grid:
    return tuple(n * part for n, part in zip(grid, size, strict=True))


def _stem_input(block: nn.Module, grid: Grid) -> Grid:
    """The image size that a stem reduces to this grid: without padding each pool loses a row and a column."""
    height, width = grid[-2:]
    for _ in block.convs:
        height, width = (4 * (n + (block.padding == "huggingface")) for n in (height, width))
    return (*grid[:-2], height, width)


RAW: dict[str, Callable[[Any, int, Grid], Tensor]] = {
    "AudioPatches": lambda block, b, grid: torch.randn(b, grid[0] * block.samples_per_patch),
    "Conv1x1": lambda block, b, grid: torch.randn(b, *_frames(block.raw_channels, _times(grid, block.stride))),
    "ConvStem": lambda block, b, grid: torch.randn(b, *_frames(block.raw_channels, _stem_input(block, grid))),
    "Embedded": lambda block, b, grid: raw(block.content, b, grid),
    "Features": lambda block, b, grid: torch.randn(b, *grid, block.content_channels),
    "Matches": lambda block, b, grid: torch.randn(b, 2, block.raw_channels, *(n * block.stride for n in grid)),
    "LogMel": lambda block, b, grid: torch.randn(b, grid[0] * block.hop),
    "MovingPatches": lambda block, b, grid: torch.randn(
        b, grid[0] + 1, block.raw_channels, *(n * block.size for n in grid[1:])
    ),
    "Neighbourhoods": lambda block, b, grid: torch.randn(b, block.frames, block.raw_channels, *grid),
    "OneHot": lambda block, b, grid: torch.randn(b, block.classes).softmax(-1),
    "PastTokens": lambda block, b, grid: torch.randint(block.vocabulary, (b, *grid)),
    "Patches": lambda block, b, grid: torch.randn(b, *_frames(block.raw_channels, _times(grid, block.size))),
    "Points": lambda block, b, grid: torch.rand(b, *grid, block.dimensions + block.features),
    "Pixels": lambda block, b, grid: torch.randn(b, *_frames(block.content_channels, _times(grid, block.stride))),
    "Table": lambda block, b, grid: torch.randn(b, block.numeric),
    "TextTokens": lambda block, b, grid: torch.randint(block.vocabulary, (b, grid[0] * block.stride)),
}


def axes(block: nn.Module) -> int:
    """The number of grid axes of an input block."""
    if type(block).__name__ == "Embedded":
        return axes(block.content)
    if type(block).__name__ not in RAW:
        return max(1, len(_letters(block)))
    for name in ("size", "stride"):
        if isinstance(getattr(block, name, None), tuple):
            return len(getattr(block, name))
    return getattr(block, "axes", 2 if type(block).__name__ in ("Matches", "Neighbourhoods") else 1)


def _letters(block: nn.Module) -> list[str]:
    """The raw axes of variable size, without the batch."""
    return [letter for letter in block.raw_axes.split()[1:] if not letter.isdigit()]


def raw(block: nn.Module, batch: int, grid: Grid | None = None) -> Tensor:
    """A raw tensor that an input block reads as rows on this grid (default: its declared one, or a small one).

    For a block without a line in ``RAW``, the sizes of ``raw_axes`` are those of the grid, which fits most blocks.
    """
    grid = grid or block.grid or (2, 3, 4)[-axes(block) :]
    make = RAW.get(type(block).__name__)
    if make is not None:
        return make(block, batch, grid)
    missing = f"tests/strategies.py: RAW needs a line for the input block {type(block).__name__}"
    assert block.raw_axes, missing
    sizes = dict(zip(_letters(block), itertools.cycle(grid), strict=False))
    value = torch.randn(batch, *(sizes.get(axis) or int(axis) for axis in block.raw_axes.split()[1:]))
    try:
        found = tuple(block.embed(value, "raw").shape[1:-1])
    except kit.InputError as error:
        raise AssertionError(missing) from error
    assert found == (tuple(grid) if sizes else (1,)), missing
    return value


def raws(model: nn.Module, batch: int) -> dict[str, Tensor]:
    """Raw inputs of every modality; one tile for a tiled model."""
    blocks, tile = model.inputs.blocks, getattr(model, "tile", None)
    tensors = {name: raw(blocks[name], batch, tile) for name in blocks}
    return tensors if tile is None else {name: x[..., : tile[0], : tile[1]] for name, x in tensors.items()}


# ---- outputs


def _pixels(whole: Tensor) -> Tensor:
    """Row-major pixels, image by image."""
    images = whole.unbind(1) if whole.ndim == 5 else [whole]
    return torch.cat([rearrange(image, "b c h w -> b (h w) c") for image in images], dim=1)


ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "Choose": lambda whole: whole[..., None],
    "Classify": lambda whole: whole[:, None],
    "Flow": _pixels,
    "Quantiles": lambda whole: rearrange(whole, "b o s q -> b o (s q)"),
    "ToPixels": _pixels,
}


def rows_of(block: nn.Module, whole: Tensor) -> Tensor:
    """The rows (b, o, c) of a whole output, computed without the kit."""
    if type(block).__name__ == "ToWaveform":
        return rearrange(whole, "b (o s) -> b o s", s=block.channels)
    if type(block).__name__ == "ToPatches":
        frames, height, width = (1, *block.patch)[-3:]
        video = whole if whole.ndim == 5 else whole[:, None]
        rows = [
            video[:, t : t + frames, :, y : y + height, x : x + width].movedim(2, -1).flatten(1)
            for t in range(0, video.shape[1], frames)
            for y in range(0, video.shape[3], height)
            for x in range(0, video.shape[4], width)
        ]
        return torch.stack(rows, 1)
    rows = ROWS.get(type(block).__name__, lambda rows: rows)(whole)
    assert rows.ndim == 3, f"tests/strategies.py: ROWS needs a line for the output block {type(block).__name__}"
    return rows


# ---- models


def composite(function: Callable) -> Callable:
    """``st.composite`` that restores the state of ``random``: the type checker samples, which hypothesis forbids."""

    @functools.wraps(function)
    def restoring(draw: st.DrawFn, *args: Any, **kwargs: Any) -> Any:
        state = random.getstate()
        try:
            return function(draw, *args, **kwargs)
        finally:
            random.setstate(state)

    return st.composite(restoring)


@torch.no_grad()
def noisy(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """Adds noise to every parameter and statistic, so that initial zeros and ones hide no error."""
    for tensor in (*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())):
        tensor.add_(scale * torch.randn_like(tensor).abs())
    return model


@functools.cache
def _tiny(name: str) -> nn.Module:
    torch.manual_seed(1)
    return noisy(kit.build(name, preset="tiny"))


def tiny(name: str, *, train: bool = False) -> nn.Module:
    """A noisy tiny recipe, cached for all tests: do not change it."""
    return _tiny(name).train(train).requires_grad_(train)


def grids(axes: int, most: int = 4) -> st.SearchStrategy[Grid]:
    return st.tuples(*[st.integers(1, most)] * axes)


# ---- comparing


def distance(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value of ``wanted``."""
    assert found.shape == wanted.shape, f"expected shape {tuple(wanted.shape)}, got {tuple(found.shape)}"
    if wanted.numel() == 0:
        return 0.0
    found, wanted = found.detach(), wanted.detach()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-3))


def assert_close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.isfinite().all(), "some values are not finite"
    assert distance(found, wanted) <= tolerance, f"relative difference {distance(found, wanted):.1e} > {tolerance:.1e}"


def rows_by_name(model: nn.Module, tensors: dict) -> dict[str, int]:
    """The number of token rows of each input."""
    layout = model.inputs(tensors)[0].layout
    return {name: math.prod(layout.grid(name)) for name in layout}


def points_model(**options) -> kit.PerceiverIO:
    """A small model from points (b, n, 3) to a label of ten classes; options replace its parts."""
    blocks = {
        "inputs": kit.Inputs(points=kit.inputs.Features(3)),
        "encoder": kit.Encoder(3, num_latents=4, latent_dim=16, layers=1),
        "queries": kit.Queries(label=kit.queries.LearnedQuery(1, 8)),
        "decoder": kit.Decoder(8, 16),
        "outputs": kit.Outputs(label=kit.outputs.Classify(10, in_channels=8)),
    }
    return kit.PerceiverIO(**blocks | options)
