"""The data flow of a model as a picture: boxes stage by stage, with shapes, widths and parameters."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..checks import describe_value, writing
from ..errors import InputError
from ..inputs import Input
from ..modalities import ByModality
from ..model import PerceiverIO
from ..outputs import Output
from ..positions import Positions
from ..queries import Query
from ..tokens import Grid
from .svg import Box, box_svg, line_svg, page_svg, place

WIDTH, MARGIN, GUTTER, GAP = 460.0, 22.0, 24.0, 26.0
COLUMN = (WIDTH - 2 * MARGIN - GUTTER) / 2
FULL = WIDTH - 2 * MARGIN
CENTRE, ASIDE = WIDTH / 2, WIDTH - MARGIN - 34  # where what flows comes down; beside a single query
# Sizes that no other size is a multiple of: what they become shows where each axis of a grid goes.
MARKS: tuple[int, ...] = (10007, 10009, 10037, 10039)


@dataclass(frozen=True)
class Drawing:
    """A picture as SVG text. It shows itself in a notebook; ``boxes`` are what is drawn, in the order of the data."""

    svg: str
    boxes: tuple[Box, ...]

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Drawing({len(self.boxes)} boxes)"


def draw(model: nn.Module, path: str | Path | None = None) -> Drawing:
    """The data flow of any PerceiverIO: raw inputs → rows → latents → queries and decoder → outputs.

    Each stage is a box with its shapes in the letters of the legend, its widths, and the parameters that no stage
    before it has. Arrows go as the data goes; a dashed one leads to a query that is made from the input's rows.
    Nothing is computed, so models on the meta device do too. With ``path`` the SVG is also written there.

    Raises InputError for a module that is not a PerceiverIO, and for a path that cannot be written.

    >>> drawing = draw(build("optical_flow", preset="tiny"))
    >>> [box.kind for box in drawing.boxes]
    ['model', 'input', 'rows', 'encoder', 'latents', 'query', 'decoder', 'output']
    """
    if not isinstance(model, PerceiverIO):
        raise InputError(f"draw takes a PerceiverIO, got {describe_value(model)}; of a wrapper, give the model inside")
    boxes, lines = _laid_out(model)
    latents = int(getattr(model.encoder, "num_latents", 16))
    parts = [part for line in lines for part in line]
    parts += [part for box in boxes for part in box_svg(box, strip=min(latents, 24))]
    label = f"Data flow of {boxes[0].name}: {', '.join(f'{box.kind} {box.name}'.strip() for box in boxes[1:])}"
    svg = page_svg(parts, width=WIDTH, height=boxes[-1].bottom + 2, label=label)
    if path is not None:
        with writing("draw", path):
            Path(path).write_text(svg, encoding="utf-8")
    return Drawing(svg, tuple(boxes))


def shapes(model: PerceiverIO) -> tuple[dict[str, str], dict[str, str]]:
    """The shapes of raw inputs and of whole outputs by name, in the letters of the legend where the inputs decide.

    >>> shapes(build("optical_flow", preset="tiny"))
    ({'frames': '(b, 2, 3, h, w)'}, {'flow': '(b, 2, h, w)'})
    """
    raw = {name: f"({', '.join(model.inputs.blocks[name].raw_axes.split())})" for name in model.inputs.blocks}
    outputs = {} if model.outputs is None else model.outputs.blocks
    return raw, {name: _output_shape(model, name, outputs[name]) for name in outputs}


def _laid_out(model: PerceiverIO) -> tuple[list[Box], list[list[str]]]:
    counted: set[int] = set()

    def own(*modules: nn.Module | None) -> int:
        """Parameters of modules that were not counted before: a tied table belongs to the first that has it."""
        fresh = [p for module in modules if module is not None for p in module.parameters() if id(p) not in counted]
        counted.update(map(id, fresh))
        return sum({id(p): p.numel() for p in fresh}.values())

    total = sum(parameter.numel() for parameter in model.parameters())
    name = type(model).__name__ if model.recipe is None else str(model.recipe["name"])
    boxes = [place("model", name, [*_model_lines(model)], total, MARGIN, 1.0, FULL)]
    lines: list[list[str]] = []

    inputs = model.inputs
    read = [
        (
            key,
            [*_input_lines(model, key)],
            own(inputs.blocks[key], _of(inputs.padding, key), _of(inputs.mask_tokens, key)),
        )
        for key in inputs.blocks
    ]
    cards = _cards("input", read, boxes[-1].bottom + 0.6 * GAP)
    boxes += cards
    rows = _below(cards, "rows", "", [*_rows_lines(model)], 0)
    boxes.append(rows)
    lines += _gathered(cards, rows)
    boxes.append(_below([rows], "encoder", type(model.encoder).__name__, [*_encoder_lines(model)], own(model.encoder)))
    lines.append(_down(rows, boxes[-1], CENTRE))
    size = f"b, {getattr(model.encoder, 'num_latents', 'm')}, {model.encoder.latent_dim}"
    latents = _below([boxes[-1]], "latents", "", [f"({size})"], 0)
    lines.append(_down(boxes[-1], latents, CENTRE))
    boxes.append(latents)
    if model.queries is None or model.decoder is None or model.outputs is None:
        return boxes, lines

    queries = model.queries
    asked = [
        (key, [*_query_lines(model, key)], own(queries.blocks[key], _of(queries.padding, key)))
        for key in queries.blocks
        if queries.channels  # a query of nothing has some once it is padded
    ]
    single = len(asked) == 1
    cards = _cards("query", asked, latents.bottom + GAP, alone=ASIDE - MARGIN - 22)
    boxes += cards
    decoder = _below(
        cards or [latents], "decoder", type(model.decoder).__name__, [*_decoder_lines(model)], own(model.decoder)
    )
    boxes.append(decoder)
    lines.append(_down(latents, decoder, ASIDE if single else CENTRE))
    for card in cards:
        left = card.x < CENTRE - GUTTER
        edge, inner, outer = (card.x, 14.0, 5.0) if left else (WIDTH - MARGIN, WIDTH - 14, WIDTH - 5)
        high, low, end = card.middle[1] - 10, card.middle[1] + 10, decoder.middle[1]
        lines.append([*line_svg([(edge, low), (inner, low), (inner, end), (edge, end)])])
        if queries.blocks[card.name].reads is not None:
            start = rows.middle[1]
            lines.append([*line_svg([(edge, start), (outer, start), (outer, high), (edge, high)], dashed=True)])
    answered = [(key, [*_output_lines(model, key)], own(model.outputs.blocks[key])) for key in model.outputs.blocks]
    cards = _cards("output", answered, decoder.bottom + GAP)
    boxes += cards
    lines += _spread(decoder, cards)
    return boxes, lines


def _of(modules: ByModality, name: str) -> nn.Module | None:
    return modules[name] if name in modules.names else None


# ---- places


def _cards(kind: str, contents: list[tuple[str, list[str], int]], top: float, alone: float = FULL) -> list[Box]:
    """A card for each modality, two beside each other and of one height; one alone over the whole width."""
    if len(contents) == 1:
        name, details, count = contents[0]
        return [place(kind, name, details, count, MARGIN, top, alone)]
    cards: list[Box] = []
    for start in range(0, len(contents), 2):
        pair = [
            place(kind, name, details, count, MARGIN + i * (COLUMN + GUTTER), top, COLUMN)
            for i, (name, details, count) in enumerate(contents[start : start + 2])
        ]
        height = max(card.height for card in pair)
        cards += [
            Box(*(card.kind, card.name, card.lines, card.parameters, card.x, top, COLUMN, height)) for card in pair
        ]
        top += height + GAP / 2
    return cards


def _below(above: list[Box], kind: str, name: str, details: list[str], parameters: int) -> Box:
    return place(kind, name, details, parameters, MARGIN, max(box.bottom for box in above) + GAP, FULL)


def _down(above: Box, below: Box, x: float) -> list[str]:
    return [*line_svg([(x, above.bottom), (x, below.y)])]


def _gathered(cards: list[Box], below: Box) -> list[list[str]]:
    """From every card to the middle, and down."""
    if len(cards) == 1:
        return [_down(cards[0], below, CENTRE)]
    stubs = [[*line_svg([(_inner(card), card.middle[1]), (CENTRE, card.middle[1])], arrow=False)] for card in cards]
    return [*stubs, [*line_svg([(CENTRE, cards[0].middle[1]), (CENTRE, below.y)])]]


def _spread(above: Box, cards: list[Box]) -> list[list[str]]:
    """Down the middle, and to every card."""
    if len(cards) == 1:
        return [_down(above, cards[0], CENTRE)]
    stubs = [[*line_svg([(CENTRE, card.middle[1]), (_inner(card), card.middle[1])])] for card in cards]
    return [*stubs, [*line_svg([(CENTRE, above.bottom), (CENTRE, cards[-1].middle[1])], arrow=False)]]


def _inner(card: Box) -> float:
    return card.x + card.width if card.x < CENTRE else card.x


# ---- what stands in a box


def _model_lines(model: PerceiverIO) -> Iterator[str]:
    if model.recipe is not None:
        yield f"preset {model.recipe['preset']}"
    tile = getattr(model, "tile", None)
    if tile is not None:
        yield f"larger images in tiles of {_times(tile)}"


def _input_lines(model: PerceiverIO, name: str) -> Iterator[str]:
    block: Input = model.inputs.blocks[name]
    if block.raw_axes:
        yield f"({', '.join(block.raw_axes.split())})"
    yield f"{type(block).__name__} → {block.content_channels} wide"
    if block.positions is not None:
        joined = f"+ {block.positions.channels}" if block.combine == "concat" else "added"
        yield f"{_kind(block.positions)} positions {joined}"
    grid = _input_grid(model, name)
    yield f"{_rows(grid, 'n')} × {block.channels}"
    if grid is not None and len(grid) > 1:
        yield f"on a grid {_times(grid)}"
    if name in model.inputs.hide:
        yield "or a mask token"


def _rows_lines(model: PerceiverIO) -> Iterator[str]:
    grids = [_input_grid(model, name) for name in model.inputs.blocks]
    total = None if None in grids else sum(math.prod(grid) for grid in grids if grid is not None)
    yield f"(b, {'n' if total is None else f'{total:,}'}, {model.inputs.channels})"
    if len(grids) > 1:
        yield "end to end, padded to one width"


def _encoder_lines(model: PerceiverIO) -> Iterator[str]:
    encoder = model.encoder
    known = encoder.recorded
    if "cross_heads" not in known:
        yield from filter(None, [encoder.extra_repr()])
        return
    times = "" if encoder.cross_attends == 1 else f" {encoder.cross_attends} times"
    yield f"latents read the rows{times}: {_heads(known['cross_heads'])}"
    if encoder.layers:
        layers = "1 layer" if encoder.layers == 1 else f"{encoder.layers} layers"
        if encoder.blocks > 1:
            layers = f"{encoder.blocks} × {'the same ' if known['share_blocks'] else ''}{layers}"
        yield f"then {layers} of self-attention: {_heads(known['self_heads'])}"


def _query_lines(model: PerceiverIO, name: str) -> Iterator[str]:
    assert model.queries is not None
    block: Query = model.queries.blocks[name]
    positions = getattr(block, "positions", None)
    kind = type(block).__name__
    yield kind if positions is None or kind == "Learned" else f"{kind}: {_kind(positions)}"
    if block.reads is not None:
        yield f"{'rows' if block.reads == 'rows' else 'content'} of input {block.follows}"
    elif block.follows is not None:
        yield f"as many as input {block.follows}"
    grid = _output_grid(model, name)
    yield f"{_rows(grid, 'o')} × {block.channels}"
    if grid is not None and len(grid) > 1:
        yield f"on a grid {_times(grid)}"


def _decoder_lines(model: PerceiverIO) -> Iterator[str]:
    decoder, queries = model.decoder, model.queries
    assert decoder is not None and queries is not None
    if queries.channels:
        heads = f": {_heads(decoder.recorded['heads'])}" if "heads" in decoder.recorded else ""
        yield f"each query reads the latents{heads}"
        yield f"(b, o, {queries.channels}) → (b, o, {decoder.out_channels})"
    else:
        yield f"→ (b, 1, {decoder.out_channels})"


def _output_lines(model: PerceiverIO, name: str) -> Iterator[str]:
    assert model.outputs is not None
    block: Output = model.outputs.blocks[name]
    yield type(block).__name__
    yield _output_shape(model, name, block)


def _heads(number: int) -> str:
    return "1 head" if number == 1 else f"{number} heads"


def _rows(grid: Grid | None, letter: str) -> str:
    number = None if grid is None else math.prod(grid)
    return "1 row" if number == 1 else f"{letter if number is None else f'{number:,}'} rows"


def _times(grid: Grid) -> str:
    return " × ".join(f"{size:,}" for size in grid)


def _kind(positions: Positions) -> str:
    return type(positions).__name__


def _input_grid(model: PerceiverIO, name: str) -> Grid | None:
    grid = model.inputs.blocks[name].grid
    return getattr(model, "tile", None) if grid is None else grid


def _output_grid(model: PerceiverIO, name: str) -> Grid | None:
    assert model.queries is not None
    query: Query = model.queries.blocks[name]
    return query.size if query.size is not None else _input_grid(model, str(query.follows))


def _output_shape(model: PerceiverIO, name: str, block: Output) -> str:
    """The shape of an output in its whole form, with letters where the inputs decide."""
    assert model.queries is not None
    grid, letters = _output_grid(model, name), {}
    if grid is None or hasattr(model, "tile"):  # as the raw input that it follows
        names = [*_row_letters(model.inputs.blocks[str(model.queries.blocks[name].follows)])]
        grid, letters = MARKS[: len(names)], dict(zip(MARKS, names, strict=False))
    width = getattr(block, "channels", block.in_channels)
    for rows in (grid, (1,) * len(grid)):  # where the inputs decide, an output of one row refuses all other grids
        with contextlib.suppress(Exception):  # a block of the user's that cannot be asked without data
            whole = block.whole(torch.empty(1, math.prod(rows), width, device="meta"), rows)
            return f"(b, {', '.join(_size(size, letters) for size in whole.shape[1:])})"
    return f"(b, o, {width})"


def _row_letters(block: Input) -> Iterator[str]:
    """A letter for each axis of an input's grid, primed where its rows are fewer than what is raw."""
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
