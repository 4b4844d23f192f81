"""Hypothesis strategies for every registered block, also for those registered later.

Arguments come from the signature: the model gives what it decides (``channels`` of an encoder, the grid of positions),
the rest is drawn by type. A block whose arguments depend on each other, or whose types say too little, needs a line in
``LINES``; a failing test names it.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import strategies as st
from torch import nn

import perceiver_kit as kit
from perceiver_kit import inputs, positions, queries, registry, variants
from perceiver_kit.block import Block
from perceiver_kit.registry import find

from .strategies import Grid, axes, composite, grids

# Blocks with the blocks of all modalities.
CONTAINERS = {"Inputs", "Queries", "Outputs"}
# These two go together, and their rows are as many as the encoder's latents: tests/test_causal.py.
OF_LATENTS = {"LatentQuery", "PassThrough"}
# Blocks that others may share: a tied embedding, positions.
Pool = list[tuple[Grid, nn.Module]]


def drawable(kind: str) -> list[str]:
    """The names registered now, without containers."""
    return [name for name in kit.list(kind) if name not in CONTAINERS | OF_LATENTS]


@contextlib.contextmanager
def registered(kind: str, block: type, only: Collection[str] | None = None) -> Iterator[None]:
    """Registers a block temporarily; ``only`` these names and the containers stay registered beside it."""
    entries = {
        name: entry for name, entry in registry._entries[kind].items() if only is None or name in {*only, *CONTAINERS}
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._entries, kind, entries)
        kit.register(kind)(block)
        yield


def takes(block: type) -> Mapping[str, inspect.Parameter]:
    """The parameters of a block's class."""
    return {name: p for name, p in inspect.signature(block.__init__).parameters.items() if name != "self"}


def _hints(block: type) -> dict[str, Any]:
    """Types of a block's arguments; {} where they cannot be resolved (a class defined within a function)."""
    try:
        return get_type_hints(block.__init__)
    except NameError:
        return {}


# ---- arguments


@composite
def _encoder(draw: st.DrawFn) -> dict[str, Any]:
    """Heads divide the widths; there are no more cross-attends than blocks."""
    heads, blocks = draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 3))
    widths = {"cross_qk_channels": [None, 4, 5], "cross_v_channels": [None, 3]}
    if heads == 2:
        widths = {"cross_qk_channels": [4], "cross_v_channels": [None, 2]}
    return {
        "cross_heads": heads,
        "blocks": blocks,
        "compete": draw(st.sampled_from([False, False, True])),
        "cross_attends": draw(st.integers(1, blocks)),
        "layers": draw(st.integers(0, 2)),
    } | {name: draw(st.sampled_from(choices)) for name, choices in widths.items()}


@composite
def _causal(draw: st.DrawFn) -> dict[str, Any]:
    """As many latents as positions and more; as much context as any model needs."""
    per_position, layers = draw(st.sampled_from([1, 1, 2])), draw(st.integers(0, 2))
    return {
        "num_latents": per_position * draw(st.integers(1, 3)),
        "latents_per_position": per_position,
        "layers": layers,
        "cross_after": draw(st.sampled_from([(), (0,)])) if layers else (),
        "cross_heads": 1,
        "context": 2**16,
        "first_position": draw(st.integers(0, 2)),
        "query_offset": draw(st.integers(0, 1)),
        "positions": None,
        "rotary": draw(st.sampled_from([None, variants.Rotary(100.0)])),
        "row_dropout": draw(st.sampled_from([0.0, 0.3])),
        "latent_dropout": draw(st.sampled_from([0.0, 0.3])),
    }


@composite
def _hierarchical_encoder(draw: st.DrawFn) -> dict[str, Any]:
    """Groups for three modalities; mirrored levels agree, and groups divide what comes before."""
    groups, latents = draw(st.sampled_from([((3, 1, 3), (3, 3, 3)), ((4, 2, 1, 2, 4), (2, 2, 2, 2, 2))]))
    per_level = st.sampled_from([1, 2, (1, *[2] * (len(groups) - 1))])
    return {
        "groups": groups,
        "num_latents": latents,
        "widths": draw(st.tuples(*[st.sampled_from([4, 6])] * len(groups))),
        "layers": draw(st.sampled_from([0, 1])),
        "cross_heads": 1,
        "self_heads": draw(per_level),
        "cross_widening": draw(per_level),
        "self_widening": draw(per_level),
    }


@composite
def _resampler(draw: st.DrawFn) -> dict[str, Any]:
    """Heads of keys divide those of queries; no embeddings of frames and media, which rows (b, n, c) do not have."""
    heads, kv_heads = draw(st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]))
    norm = draw(st.sampled_from([None, kit.variants.RMSNorm(), kit.variants.LayerNorm()]))
    return {"heads": heads, "kv_heads": kv_heads, "qk_norm": norm, "frames": None, "media": None}


# Arguments that a signature does not explain: a strategy for a dict of them.
LINES: dict[str, dict[str, st.SearchStrategy[dict[str, Any]]]] = {
    "encoders": {
        "Encoder": _encoder(),
        "CausalEncoder": _causal(),
        "HierarchicalEncoder": _hierarchical_encoder(),
        "Resampler": _resampler(),
    },
    "decoders": {
        "Decoder": st.sampled_from([{"heads": 1}, {"heads": 2, "qk_channels": 4, "v_channels": 2}]).map(
            lambda heads: {"groups": 1, "order": "rows", **heads}
        ),
        "SetDecoder": st.sampled_from(
            [
                {"heads": 1, "qk_channels": None, "v_channels": 3},
                {"heads": 2, "qk_channels": 4, "v_channels": 2},
            ]
        ),
    },
    "inputs": {
        "Embedded": st.builds(
            dict,
            content=st.one_of(
                st.builds(inputs.Features, st.integers(1, 3)), st.builds(inputs.OneHot, st.integers(1, 3))
            ),
        ),
        "ConvStem": st.fixed_dictionaries({"axes": st.sampled_from([2, 3]), "layers": st.just(1)}),
        # Rows that mix with their neighbours are tested in inputs/test_text_context.py.
        "TextTokens": st.fixed_dictionaries(
            {
                "ngrams": st.sampled_from([(), (1,)]),
                "stride": st.just(1),
                "convolutions": st.just(0),
                "recall": st.just(()),
                "separator": st.just(5),
                "kernel": st.sampled_from([1, 3]),
            }
        ),
        "PastTokens": st.fixed_dictionaries({"ngrams": st.sampled_from([(2,), (1, 3)])}),
        # Windows that do not overlap, and one column: the order of raw values is then the order of rows.
        "LogMel": st.just({"rate": 16, "bands": 3, "window": 4, "hop": 4, "low": 0.0, "high": None}),
        "Table": st.just({"numeric": 1, "categories": ()}),
        "Neighbourhoods": st.fixed_dictionaries({"size": st.sampled_from([1, 3])}),
    },
}
# Arguments that mean the same in every block. Widths suit two heads.
ARGUMENTS: dict[str, list[Any]] = {
    "deviation": [0.02, 0.5],
    "extrapolate": [True],
    "dropout": [0.0, 0.3],
    "residual_dropout": [0.0, 0.3],
    "heads": [1, 1, 2],
    "self_heads": [1, 1, 2],
    "qk_channels": [None, 4],
    "v_channels": [None, 2],
    "scale": [0.2, 3.0],
}


def _of_type(hint: Any) -> st.SearchStrategy[Any] | None:
    """A strategy for a type; None if the type says too little."""
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(1, 3)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if hint == tuple[int, ...]:  # the grid of an image or a video
        return st.integers(2, 3).flatmap(lambda axes: grids(axes, most=2))
    if get_origin(hint) in (Union, types.UnionType):
        members = [_of_type(member) for member in get_args(hint) if member is not type(None)]
        if None not in members:
            none = [st.none()] if type(None) in get_args(hint) else []
            return st.one_of(*none, *members)  # type: ignore[arg-type]
    return None


@composite
def arguments(draw: st.DrawFn, kind: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a registered block: given, from ``LINES``, by name, by type, or the default, in this order."""
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
                f"tests/blocks.py: LINES[{kind!r}] needs a line for {name}: {argument!r} has no known values"
            )
    return drawn


def made(kind: str, name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The block with these arguments, or an AssertionError that names the missing line."""
    try:
        return find(kind, name)(**arguments)
    except kit.PerceiverKitError as error:
        raise AssertionError(
            f"tests/blocks.py: LINES[{kind!r}] needs a line for {name}, which refuses {arguments}: {error}"
        ) from error


# ---- blocks


def takes_coordinates(name: str) -> bool:
    """Whether positions of this name take coordinates that are data."""
    return find("positions", name).of is not positions.Positions.of and (name != "Projected" or _has_coordinates())


def _has_coordinates() -> bool:
    """Whether there are such positions: a test may register few."""
    return any(takes_coordinates(name) for name in drawable("positions") if name != "Projected")


@composite
def coordinate_positions(draw: st.DrawFn, axes: int, channels: int | None, pool: Pool = ()) -> nn.Module:  # type: ignore[assignment]
    """Positions for coordinates of any value, of a given width or of any."""
    others = [block for _, block in pool if getattr(block, "axes", None) == axes and channels in (None, block.channels)]
    others = [block for block in others if isinstance(block, positions.Positions)]
    if others and draw(st.integers(0, 3)):
        return draw(st.sampled_from(others))
    names = [name for name in drawable("positions") if takes_coordinates(name)]
    return draw(_new_positions((2,) * axes, channels, names))


@composite
def some_positions(draw: st.DrawFn, grid: Grid, channels: int | None = None, pool: Pool = ()) -> nn.Module | None:  # type: ignore[assignment]
    """Positions for a grid, of a given width, or of any width and sometimes None."""
    if channels is None and draw(st.integers(0, 3)) == 0:
        return None
    others = [block for size, block in pool if isinstance(block, positions.Positions) and size == grid]
    others = [block for block in others if channels in (None, block.channels) and block.axes in (None, len(grid))]
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
    """An input block of any kind, and the grid that it reads."""
    names = drawable("inputs")
    names += [name for name in ("Points", "TextTokens") if name in names]  # which other blocks may share
    name = draw(st.sampled_from(names))
    chosen = draw(arguments("inputs", name, {"positions": None, "grid": None, "combine": "concat"}))
    bare = made("inputs", name, chosen)
    grid = bare.grid or draw(grids(axes(bare), most=4 if axes(bare) < 3 else 3))
    if "positions" in chosen and places:
        add = draw(st.booleans())
        if type(bare).coordinates is inputs.Input.coordinates:
            features = draw(some_positions(grid, bare.content_channels if add else None, pool))
        elif not _has_coordinates():
            features, add = None, False
        else:  # the content is what the coordinates leave
            width = bare.content_channels - bare.dimensions if add else None
            features = draw(coordinate_positions(bare.dimensions, width, pool))
        chosen |= {"positions": features, "combine": "add" if add else "concat"}
    if "grid" in chosen:
        chosen["grid"] = draw(st.sampled_from([grid, None]))
    return made("inputs", name, chosen), grid


@composite
def query_blocks(
    draw: st.DrawFn,
    inputs_block: inputs.Inputs,
    given: Mapping[str, Grid],
    pool: Pool = (),  # type: ignore[assignment]
) -> tuple[nn.Module, Grid]:
    """A query block of any kind for inputs on the ``given`` grids, and the grid of its output."""
    names = [name for name in drawable("queries") if name != "CoordinateQuery" or _has_coordinates()]
    name = draw(st.sampled_from(names))
    kind = find("queries", name)
    follows = draw(st.sampled_from(sorted(given)))
    chosen: dict[str, Any] = {"follows": follows, "content_channels": inputs_block.blocks[follows].content_channels}
    grid = given[follows]
    if kind.reads == "rows":
        chosen["channels"] = inputs_block.channels
    if "size" in takes(kind) and ("follows" not in takes(kind) or draw(st.booleans())):
        grid = draw(st.integers(1, 3).flatmap(lambda axes: grids(axes, most=3)))
        chosen |= {"size": grid, "follows": None}
    elif "size" in takes(kind):
        chosen["size"] = None
    parameter = takes(kind).get("positions")
    if kind.check_asked is not queries.Query.check_asked:
        own = [block.axes for _, block in pool if isinstance(block, positions.Positions) and block.axes]
        chosen["positions"] = draw(coordinate_positions(draw(st.sampled_from([1, *own, *own])), None, pool))
        grid = draw(grids(1))
    elif parameter is not None:
        width = draw(st.integers(1, 4)) if parameter.default is parameter.empty else None
        chosen["positions"] = draw(some_positions(grid, width, pool))
    block = made("queries", name, draw(arguments("queries", name, chosen)))
    return block, block.size or (given[block.follows] if block.follows else grid)


@composite
def encoders(draw: st.DrawFn, channels: int) -> nn.Module:
    """An encoder of any kind for rows of this width."""
    name = draw(st.sampled_from(drawable("encoders")))
    given = {"channels": channels, "latent_dim": draw(st.sampled_from([4, 6]))}
    return made("encoders", name, draw(arguments("encoders", name, given)))


@composite
def output_blocks(draw: st.DrawFn, channels: int, grid: Grid, pool: Pool = ()) -> nn.Module:  # type: ignore[assignment]
    """An output block of any kind for rows of this width and this grid."""
    names = drawable("outputs")
    ties = {name: _tied(find("outputs", name), channels, pool) for name in names}
    names += 3 * [name for name, tied in ties.items() if tied and all(tied.values())]  # few models can have them
    while True:
        name = draw(st.sampled_from(names))
        given: dict[str, Any] = {"in_channels": channels, "size": draw(st.sampled_from([None, grid]))}
        if len(grid) in (2, 3) and _hints(find("outputs", name)).get("patch") == tuple[int, ...]:
            given["patch"] = tuple(draw(st.integers(1, 2)) for _ in grid)
        tied = _tied(find("outputs", name), channels, pool)
        given |= {argument: draw(st.sampled_from(others)) for argument, others in tied.items() if others}
        if all(tied.values()):
            block = made("outputs", name, draw(arguments("outputs", name, given)))
            if block.in_channels == channels and accepts(block, grid):
                return block
        names = [other for other in names if other != name]


def _tied(kind: type, channels: int, pool: Pool) -> dict[str, list[nn.Module]]:
    """Arguments that are other blocks of the model (the input of tied text), with the candidates."""
    kinds = {name: hint for name, hint in _hints(kind).items() if inspect.isclass(hint) and issubclass(hint, Block)}
    return {
        name: [
            block for _, block in pool if isinstance(block, hint) and getattr(block, "content_channels", 0) == channels
        ]
        for name, hint in kinds.items()
    }


def accepts(block: nn.Module, grid: Grid) -> bool:
    try:
        block.check_grid("it", grid)
    except kit.InputError:
        return False
    return True
