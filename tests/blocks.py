"""Blocks of every kind that is registered, drawn at random.

A block that is registered later is drawn too. Its arguments are found by its signature: what the model around it
decides (``channels`` of an encoder, the grid of positions) is given, the rest is drawn by type. A block whose
arguments depend on each other, or are of a type that says too little, needs one line in ``LINES``; a test says so.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st
from torch import nn

import perceiver_kit as kit
from perceiver_kit import inputs, positions
from perceiver_kit.block import Block
from perceiver_kit.registry import find

from .strategies import Grid, axes, composite, grids

# The blocks that hold those of all modalities.
CONTAINERS = {"Inputs", "Queries", "Outputs"}
# Blocks that other blocks of a model may be: an embedding that an output is tied to, positions that two share.
Pool = list[tuple[Grid, nn.Module]]


def drawable(kind: str) -> list[str]:
    """The names that are registered now, but for containers."""
    return [name for name in kit.list(kind) if name not in CONTAINERS]


def takes(block: type) -> Mapping[str, inspect.Parameter]:
    """The parameters of a block's class."""
    return {name: p for name, p in inspect.signature(block.__init__).parameters.items() if name != "self"}


def _hints(block: type) -> dict[str, Any]:
    """The types of a block's arguments, where they can be found: not of a class that is made within a function."""
    try:
        return get_type_hints(block.__init__)
    except NameError:
        return {}


# ---- arguments


@composite
def _encoder(draw: st.DrawFn) -> dict[str, Any]:
    """Heads that divide the widths, and no more cross-attends than blocks."""
    heads, blocks = draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 3))
    widths = {"cross_qk_channels": [None, 4, 5], "cross_v_channels": [None, 3]}
    if heads == 2:
        widths = {"cross_qk_channels": [4], "cross_v_channels": [None, 2]}
    return {
        "cross_heads": heads,
        "blocks": blocks,
        "cross_attends": draw(st.integers(1, blocks)),
        "layers": draw(st.integers(0, 2)),
    } | {name: draw(st.sampled_from(choices)) for name, choices in widths.items()}


# Arguments that a block's signature does not tell well enough: a strategy of a dict of some of them.
LINES: dict[str, dict[str, st.SearchStrategy[dict[str, Any]]]] = {
    "encoders": {"Encoder": _encoder()},
    "inputs": {
        "ConvStem": st.fixed_dictionaries({"axes": st.sampled_from([2, 3]), "layers": st.just(1)}),
        "Neighbourhoods": st.fixed_dictionaries({"size": st.sampled_from([1, 3])}),
    },
}
# Arguments that mean the same in every block, by name. Widths suit two heads.
ARGUMENTS: dict[str, list[Any]] = {
    "deviation": [0.02, 0.5],
    "dropout": [0.0, 0.3],
    "residual_dropout": [0.0, 0.3],
    "heads": [1, 1, 2],
    "self_heads": [1, 1, 2],
    "qk_channels": [None, 4],
    "v_channels": [None, 2],
    "scale": [0.2, 3.0],
}


def _of_type(hint: Any) -> st.SearchStrategy[Any] | None:
    """Values of a type; None for a type that says too little."""
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(1, 3)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if hint == tuple[int, ...]:  # of an image or a video
        return st.integers(2, 3).flatmap(lambda axes: grids(axes, most=2))
    if get_origin(hint) in (Union, types.UnionType):
        some = [_of_type(part) for part in get_args(hint) if part is not type(None)]
        if None not in some:
            return st.one_of(st.none(), *some)  # type: ignore[arg-type]
    return None


@composite
def arguments(draw: st.DrawFn, kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a registered block: as given, by its line, by name, by type, or the default, the first there is."""
    block = find(kind, name)
    line = draw(LINES[kind][name]) if name in LINES.get(kind, {}) else {}
    hints = _hints(block)
    drawn: dict[str, Any] = {}
    for argument, parameter in takes(block).items():
        by_type = _of_type(hints.get(argument))
        if argument in given:
            drawn[argument] = given[argument]
        elif argument in line:
            drawn[argument] = line[argument]
        elif argument in ARGUMENTS:
            drawn[argument] = draw(st.sampled_from(ARGUMENTS[argument]))
        elif by_type is not None:
            drawn[argument] = draw(by_type)
        elif parameter.default is parameter.empty:
            raise AssertionError(
                f"tests/blocks.py: LINES[{kind!r}] needs a line for {name}: what {argument!r} may be is not known"
            )
    return drawn


def made(kind: str, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The block of these arguments, or an AssertionError that says which line is wanted."""
    try:
        return find(kind, name)(**arguments)
    except kit.PerceiverKitError as error:
        raise AssertionError(
            f"tests/blocks.py: LINES[{kind!r}] needs a line for {name}, which is not made of {arguments}: {error}"
        ) from error


# ---- blocks


@composite
def some_positions(draw: st.DrawFn, grid: Grid, channels: int | None = None, pool: Pool = ()) -> nn.Module | None:  # type: ignore[assignment]
    """Positions for a grid, of a given width where one is wanted; else None, for none, now and then."""
    if channels is None and draw(st.integers(0, 3)) == 0:
        return None
    others = [block for size, block in pool if isinstance(block, positions.Positions) and size == grid]
    others = [block for block in others if channels in (None, block.channels)]
    if others and draw(st.booleans()):
        return draw(st.sampled_from(others))
    return draw(_new_positions(grid, channels, drawable("positions")))


@composite
def _new_positions(draw: st.DrawFn, grid: Grid, channels: int | None, names: list[str]) -> nn.Module:
    name = draw(st.sampled_from(names))
    given: dict[str, Any] = {"grid": grid, "max_resolution": tuple(n + 2 for n in grid)}
    if channels is not None:
        given["channels"] = channels
    plain = [other for other in names if "positions" not in takes(find("positions", other))]
    if "positions" in takes(find("positions", name)):
        given["positions"] = draw(_new_positions(grid, None, plain))
    block = made("positions", name, draw(arguments("positions", name, given)))
    return block if channels in (None, block.channels) else positions.Projected(block, channels)


@composite
def input_blocks(draw: st.DrawFn, pool: Pool = (), places: bool = True) -> tuple[nn.Module, Grid]:  # type: ignore[assignment]
    """An input block of any kind, and a grid that it is to read."""
    name = draw(st.sampled_from(drawable("inputs")))
    known = draw(arguments("inputs", name, {"positions": None, "grid": None, "combine": "concat"}))
    bare = made("inputs", name, known)
    grid = bare.grid or draw(grids(axes(bare), most=4 if axes(bare) < 3 else 3))
    if "positions" in known and places:
        add = draw(st.booleans())
        features = draw(some_positions(grid, bare.content_channels if add else None, pool))
        known |= {"positions": features, "combine": "add" if add else "concat"}
    if "grid" in known:
        known["grid"] = draw(st.sampled_from([grid, None]))
    return made("inputs", name, known), grid


@composite
def query_blocks(
    draw: st.DrawFn,
    every: inputs.Inputs,
    given: Mapping[str, Grid],
    pool: Pool = (),  # type: ignore[assignment]
) -> tuple[nn.Module, Grid]:
    """A query block of any kind for these inputs, whose grids are given, and the grid of its output."""
    name = draw(st.sampled_from(drawable("queries")))
    kind = find("queries", name)
    follows = draw(st.sampled_from(sorted(given)))
    known: dict[str, Any] = {"follows": follows, "content_channels": every.blocks[follows].content_channels}
    grid = given[follows]
    if kind.reads == "rows":
        known["channels"] = every.channels
    if "size" in takes(kind) and ("follows" not in takes(kind) or draw(st.booleans())):
        grid = draw(st.integers(1, 3).flatmap(lambda axes: grids(axes, most=3)))
        known |= {"size": grid, "follows": None}
    elif "size" in takes(kind):
        known["size"] = None
    place = takes(kind).get("positions")
    if place is not None:
        wanted = draw(st.integers(1, 4)) if place.default is place.empty else None
        known["positions"] = draw(some_positions(grid, wanted, pool))
    block = made("queries", name, draw(arguments("queries", name, known)))
    return block, block.size or given[follows]


@composite
def encoders(draw: st.DrawFn, channels: int) -> nn.Module:
    """An encoder of any kind that reads rows of this width."""
    name = draw(st.sampled_from(drawable("encoders")))
    given = {"channels": channels, "latent_dim": draw(st.sampled_from([4, 6]))}
    return made("encoders", name, draw(arguments("encoders", name, given)))


@composite
def output_blocks(draw: st.DrawFn, channels: int, grid: Grid, pool: Pool = ()) -> nn.Module:  # type: ignore[assignment]
    """An output block of any kind that reads rows of this width and has a form for this grid."""
    names = drawable("outputs")
    while True:
        name = draw(st.sampled_from(names))
        given: dict[str, Any] = {"in_channels": channels}
        tied = _tied(find("outputs", name), channels, pool)
        given |= {argument: draw(st.sampled_from(others)) for argument, others in tied.items() if others}
        if all(tied.values()):
            block = made("outputs", name, draw(arguments("outputs", name, given)))
            if block.in_channels == channels and _has_a_form(block, grid):
                return block
        names = [other for other in names if other != name]


def _tied(kind: type, channels: int, pool: Pool) -> dict[str, list[nn.Module]]:
    """Arguments that are other blocks of the model, such as the input of tied text, and which they may be."""
    kinds = {name: hint for name, hint in _hints(kind).items() if inspect.isclass(hint) and issubclass(hint, Block)}
    return {
        name: [
            block for _, block in pool if isinstance(block, hint) and getattr(block, "content_channels", 0) == channels
        ]
        for name, hint in kinds.items()
    }


def _has_a_form(block: nn.Module, grid: Grid) -> bool:
    try:
        block.check_grid("it", grid)
    except kit.InputError:
        return False
    return True
