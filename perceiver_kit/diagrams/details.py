"""The text in the boxes of a drawing: shapes, widths, grids and numbers of heads, stage by stage."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch

from ..inputs import Input
from ..model import PerceiverIO
from ..outputs import Output
from ..queries import Query
from ..tokens import Grid

# Large primes as sizes of a grid: the multiple in a shape shows where each axis goes.
MARKS: tuple[int, ...] = (10007, 10009, 10037, 10039)


def shapes(model: PerceiverIO) -> tuple[dict[str, str], dict[str, str]]:
    """Shapes of raw inputs and whole outputs by name, with the legend's letters for sizes that depend on the input.

    >>> shapes(build("optical_flow", preset="tiny"))
    ({'frames': '(b, 2, 3, h, w)'}, {'flow': '(b, 2, h, w)'})
    """
    raw = {name: f"({', '.join(model.inputs.blocks[name].raw_axes.split())})" for name in model.inputs.blocks}
    outputs = {} if model.outputs is None else model.outputs.blocks
    return raw, {name: _output_shape(model, name, outputs[name]) for name in outputs}


def model_lines(model: PerceiverIO) -> Iterator[str]:
    """The preset, and the tile of a tiled model."""
    if model.recipe is not None:
        yield f"preset {model.recipe['preset']}"
    tile = getattr(model, "tile", None)
    if tile is not None:
        yield f"larger images in tiles of {_times(tile)}"


def input_lines(model: PerceiverIO, name: str) -> Iterator[str]:
    """Raw shape, width, positions and rows of one input."""
    block: Input = model.inputs.blocks[name]
    if block.raw_axes:
        yield f"({', '.join(block.raw_axes.split())})"
    yield f"{type(block).__name__} → {block.content_channels} wide"
    if block.positions is not None:
        joined = f"+ {block.positions.channels}" if block.combine == "concat" else "added"
        yield f"{type(block.positions).__name__} positions {joined}"
    grid = _input_grid(model, name)
    yield f"{_rows(grid, 'n')} × {block.channels}"
    if grid is not None and len(grid) > 1:
        yield f"on a grid {_times(grid)}"
    if name in model.inputs.hide:
        yield "or a mask token"


def rows_lines(model: PerceiverIO) -> Iterator[str]:
    """The shape of all input rows."""
    grids = [_input_grid(model, name) for name in model.inputs.blocks]
    total = None if None in grids else sum(math.prod(grid) for grid in grids if grid is not None)
    yield f"(b, {'n' if total is None else f'{total:,}'}, {model.inputs.channels})"
    if len(grids) > 1:
        yield "end to end, padded to one width"


def encoder_lines(model: PerceiverIO) -> Iterator[str]:
    """Cross-attention and self-attention layers with their heads."""
    encoder = model.encoder
    known = encoder.recorded
    if "cross_attends" not in known:
        yield from filter(None, encoder.extra_repr().split(", "))
        return
    times = "" if encoder.cross_attends == 1 else f" {encoder.cross_attends} times"
    yield f"latents read the rows{times}: {_heads(known['cross_heads'])}"
    if encoder.layers:
        layers = "1 layer" if encoder.layers == 1 else f"{encoder.layers} layers"
        if encoder.blocks > 1:
            layers = f"{encoder.blocks} × {'the same ' if known['share_blocks'] else ''}{layers}"
        yield f"then {layers} of self-attention: {_heads(known['self_heads'])}"


def query_lines(model: PerceiverIO, name: str) -> Iterator[str]:
    """The kind, source and rows of one output's queries."""
    assert model.queries is not None
    block: Query = model.queries.blocks[name]
    positions = getattr(block, "positions", None)
    kind = type(block).__name__
    yield kind if positions is None or kind == "LearnedQuery" else f"{kind}: {type(positions).__name__}"
    if block.reads is not None:
        yield f"{'rows' if block.reads == 'rows' else 'content'} of input {block.follows}"
    elif block.follows is not None:
        yield f"as many as input {block.follows}"
    elif block.takes is not None:
        yield "one for each that the call gives"
    grid = _query_grid(model, name)
    yield f"{_rows(grid, 'o')} × {block.channels}"
    if grid is not None and len(grid) > 1:
        yield f"on a grid {_times(grid)}"


def decoder_lines(model: PerceiverIO) -> Iterator[str]:
    """Heads, and widths of queries and decoded rows."""
    decoder, queries = model.decoder, model.queries
    assert decoder is not None and queries is not None
    if queries.channels:
        heads = f": {_heads(decoder.recorded['heads'])}" if "heads" in decoder.recorded else ""
        own = " of its group" if getattr(decoder, "groups", 1) > 1 else ""
        mixing = getattr(decoder, "mixes_rows", False)
        yield f"{'queries read each other, then' if mixing else 'each query reads'} the latents{own}{heads}"
        yield f"(b, o, {queries.channels}) → (b, o, {decoder.out_channels})"
    else:
        yield f"→ (b, 1, {decoder.out_channels})"


def output_lines(model: PerceiverIO, name: str) -> Iterator[str]:
    """The kind and whole shape of one output."""
    assert model.outputs is not None
    block: Output = model.outputs.blocks[name]
    yield type(block).__name__
    if model.outputs.query_of(name) != name:
        yield f"of query {model.outputs.query_of(name)}"
    yield _output_shape(model, name, block)


def _heads(number: int) -> str:
    return "1 head" if number == 1 else f"{number} heads"


def _rows(grid: Grid | None, letter: str) -> str:
    number = None if grid is None else math.prod(grid)
    return "1 row" if number == 1 else f"{letter if number is None else f'{number:,}'} rows"


def _times(grid: Grid) -> str:
    return " × ".join(f"{size:,}" for size in grid)


def _input_grid(model: PerceiverIO, name: str) -> Grid | None:
    grid = model.inputs.blocks[name].grid
    return getattr(model, "tile", None) if grid is None else grid


def _query_grid(model: PerceiverIO, name: str) -> Grid | None:
    assert model.queries is not None
    query: Query = model.queries.blocks[name]
    return query.size if query.size is not None or query.follows is None else _input_grid(model, query.follows)


def _output_shape(model: PerceiverIO, name: str, block: Output) -> str:
    """The shape of a whole output, with letters for sizes that depend on the input."""
    assert model.queries is not None and model.outputs is not None
    key = model.outputs.query_of(name)
    grid, letters, query = _query_grid(model, key), {}, model.queries.blocks[key]
    if grid is None or hasattr(model, "tile"):  # sizes of the raw input that it follows, or rows of the call
        names = ["o"] if query.follows is None else [*_row_letters(model.inputs.blocks[query.follows])]
        grid, letters = MARKS[: len(names)], dict(zip(MARKS, names, strict=False))
    width = getattr(block, "channels", block.in_channels)
    for rows in (grid, (1,) * len(grid)):  # an output of one row refuses any other grid
        with contextlib.suppress(Exception):  # a custom block may need real data
            whole = block.whole(torch.empty(1, math.prod(rows), width, device="meta"), rows)
            return f"(b, {', '.join(_size(size, letters) for size in whole.shape[1:])})"
    return f"(b, o, {width})"


def _row_letters(block: Input) -> Iterator[str]:
    """A letter per axis of an input's grid, primed if rows are fewer than raw values."""
    steps = [getattr(block, name, None) for name in ("size", "stride")]
    fewer = any(n > 1 for step in steps if isinstance(step, tuple) for n in step)
    for letter in block.raw_axes.split()[1:]:
        if letter == "samples":
            yield "n"
        elif not letter.isdigit():
            yield f"{letter}′" if fewer or hasattr(block, "convs") else letter


def _size(size: int, letters: dict[int, str]) -> str:
    for mark, letter in letters.items():
        if size % mark == 0:
            return letter if size == mark else f"{size // mark}{letter}"
    return f"{size}"
