"""The layout of a drawing: a box per stage, in the order of the data, and the arrows between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ..checking import describe_value, writing
from ..errors import InputError
from ..modalities import ByModality
from ..model import PerceiverIO
from .details import (
    decoder_lines,
    encoder_lines,
    input_lines,
    model_lines,
    output_lines,
    query_lines,
    rows_lines,
)
from .svg import Box, box_svg, line_svg, page_svg, place

WIDTH, MARGIN, GUTTER, GAP = 460.0, 22.0, 24.0, 26.0
COLUMN = (WIDTH - 2 * MARGIN - GUTTER) / 2
FULL = WIDTH - 2 * MARGIN
CENTRE, ASIDE = WIDTH / 2, WIDTH - MARGIN - 34  # x of the downward arrows; beside a single query


@dataclass(frozen=True)
class Drawing:
    """A drawing as SVG text, which notebooks display; ``boxes`` are in the order of the data."""

    svg: str
    boxes: tuple[Box, ...]

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"Drawing({len(self.boxes)} boxes)"


def draw(model: nn.Module, path: str | Path | None = None) -> Drawing:
    """The data flow of any PerceiverIO: raw inputs → rows → latents → queries and decoder → outputs.

    Each stage is a box with shapes in the legend's letters, widths, and the number of parameters not counted in an
    earlier stage. Arrows follow the data; a dashed one leads to a query that reads the input's rows. Nothing is
    computed, so models on the meta device work. The SVG is also written to ``path``.

    Raises InputError for a module that is not a PerceiverIO, or a path that cannot be written.

    >>> drawing = draw(build("optical_flow", preset="tiny"))
    >>> [box.kind for box in drawing.boxes]
    ['model', 'input', 'rows', 'encoder', 'latents', 'query', 'decoder', 'output']
    """
    if not isinstance(model, PerceiverIO):
        raise InputError(f"draw: expected a PerceiverIO, got {describe_value(model)}; pass the model inside a wrapper")
    boxes, lines = _layout(model)
    latents = int(getattr(model.encoder, "num_latents", 16))
    parts = [part for line in lines for part in line]
    parts += [part for box in boxes for part in box_svg(box, strip=min(latents, 24))]
    label = f"Data flow of {boxes[0].name}: {', '.join(f'{box.kind} {box.name}'.strip() for box in boxes[1:])}"
    svg = page_svg(parts, width=WIDTH, height=boxes[-1].bottom + 2, label=label)
    if path is not None:
        with writing("draw", path):
            Path(path).write_text(svg, encoding="utf-8")
    return Drawing(svg, tuple(boxes))


def _layout(model: PerceiverIO) -> tuple[list[Box], list[list[str]]]:
    counted: set[int] = set()

    def own(*modules: nn.Module | None) -> int:
        """Number of parameters not counted before: a tied table belongs to its first owner."""
        fresh = [p for module in modules if module is not None for p in module.parameters() if id(p) not in counted]
        counted.update(map(id, fresh))
        return sum({id(p): p.numel() for p in fresh}.values())

    total = sum(parameter.numel() for parameter in model.parameters())
    name = type(model).__name__ if model.recipe is None else str(model.recipe["name"])
    boxes = [place("model", name, [*model_lines(model)], total, MARGIN, 1.0, FULL)]
    lines: list[list[str]] = []

    inputs = model.inputs
    input_cards = []
    for key in inputs.blocks:
        count = own(inputs.blocks[key], _of(inputs.padding, key), _of(inputs.mask_tokens, key))
        input_cards.append((key, [*input_lines(model, key)], count))
    cards = _cards("input", input_cards, boxes[-1].bottom + 0.6 * GAP)
    boxes += cards
    rows = _below(cards, "rows", "", [*rows_lines(model)], 0)
    boxes.append(rows)
    lines += _gathered(cards, rows)
    boxes.append(_below([rows], "encoder", type(model.encoder).__name__, [*encoder_lines(model)], own(model.encoder)))
    lines.append(_down(rows, boxes[-1], CENTRE))
    size = f"b, {getattr(model.encoder, 'num_latents', 'm')}, {model.encoder.latent_dim}"
    latents = _below([boxes[-1]], "latents", "", [f"({size})"], 0)
    lines.append(_down(boxes[-1], latents, CENTRE))
    boxes.append(latents)
    if model.queries is None or model.decoder is None or model.outputs is None:
        return boxes, lines

    queries = model.queries
    query_cards = [
        (key, [*query_lines(model, key)], own(queries.blocks[key], _of(queries.padding, key)))
        for key in queries.blocks
        if queries.channels  # padding gives width to NoQuery
    ]
    single = len(query_cards) == 1
    cards = _cards("query", query_cards, latents.bottom + GAP, alone=ASIDE - MARGIN - 22)
    boxes += cards
    decoder = _below(
        cards or [latents], "decoder", type(model.decoder).__name__, [*decoder_lines(model)], own(model.decoder)
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
    output_cards = [(key, [*output_lines(model, key)], own(model.outputs.blocks[key])) for key in model.outputs.blocks]
    cards = _cards("output", output_cards, decoder.bottom + GAP)
    boxes += cards
    lines += _spread(decoder, cards)
    return boxes, lines


def _of(modules: ByModality, name: str) -> nn.Module | None:
    return modules[name] if name in modules.names else None


def _cards(kind: str, contents: list[tuple[str, list[str], int]], top: float, alone: float = FULL) -> list[Box]:
    """One box per modality, two per row with equal heights; a single one has the full width."""
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
        cards += [replace(card, height=height) for card in pair]
        top += height + GAP / 2
    return cards


def _below(above: list[Box], kind: str, name: str, details: list[str], parameters: int) -> Box:
    return place(kind, name, details, parameters, MARGIN, max(box.bottom for box in above) + GAP, FULL)


def _down(above: Box, below: Box, x: float) -> list[str]:
    return [*line_svg([(x, above.bottom), (x, below.y)])]


def _gathered(cards: list[Box], below: Box) -> list[list[str]]:
    """Lines from each card to the centre, and down."""
    if len(cards) == 1:
        return [_down(cards[0], below, CENTRE)]
    stubs = [[*line_svg([(_inner(card), card.middle[1]), (CENTRE, card.middle[1])], arrow=False)] for card in cards]
    return [*stubs, [*line_svg([(CENTRE, cards[0].middle[1]), (CENTRE, below.y)])]]


def _spread(above: Box, cards: list[Box]) -> list[list[str]]:
    """Lines down the centre, and to each card."""
    if len(cards) == 1:
        return [_down(above, cards[0], CENTRE)]
    stubs = [[*line_svg([(CENTRE, card.middle[1]), (_inner(card), card.middle[1])])] for card in cards]
    return [*stubs, [*line_svg([(CENTRE, above.bottom), (CENTRE, cards[-1].middle[1])], arrow=False)]]


def _inner(card: Box) -> float:
    return card.x + card.width if card.x < CENTRE else card.x
