"""What is drawn: every block that is registered, in every way that it can be combined; a new one from then on."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

import perceiver_kit as kit
from perceiver_kit import positions, registry
from perceiver_kit.registry import name_of

from ..assemblies import Assembly, assemblies
from ..blocks import arguments, drawable, made
from ..strategies import raw
from . import test_made, test_numbers, test_rows
from .properties import MODELS, WHOLE, properties
from .toys import TOYS

KINDS = ["inputs", "positions", "queries", "decoders", "outputs", "encoders"]
FILES = [test_made, test_numbers, test_rows]  # imported for the properties that they hold


def shared(case: Assembly) -> set[str]:
    """Which kinds of blocks the model has in more than one place, and between which parts."""
    parts = {"inputs": case.model.inputs, "queries": case.model.queries, "outputs": case.model.outputs}
    places: dict[int, list[str]] = {}
    for part, container in parts.items():
        for name in container.blocks:
            block = container.blocks[name]
            places.setdefault(id(block), []).append(part)
            for child in {id(child): child for child in block.children() if isinstance(child, kit.Block)}.values():
                places.setdefault(id(child), []).append(part)
    return {" and ".join(sorted(where)) for where in places.values() if len(where) == 2}


# Ways to combine blocks that must be among those drawn: each has been left out, or has broken, before.
WAYS: dict[str, Callable[[Assembly], object]] = {
    "one input": lambda case: len(case.raw) == 1,
    "three inputs": lambda case: len(case.raw) == 3,
    "three outputs": lambda case: len(case.model.outputs.blocks) == 3,
    "no queries": lambda case: case.model.queries.channels == 0,
    "a query of nothing beside others": lambda case: (
        case.model.queries.channels
        and any(case.model.queries.blocks[name].channels == 0 for name in case.model.queries.blocks)
    ),
    "text tied to logits": lambda case: "inputs and outputs" in shared(case),
    "one block for two inputs": lambda case: "inputs and inputs" in shared(case),
    "one block for two queries": lambda case: "queries and queries" in shared(case),
    "one block for two outputs": lambda case: "outputs and outputs" in shared(case),
    "positions of an input and of a query": lambda case: "inputs and queries" in shared(case),
    "several cross-attends": lambda case: case.model.encoder.cross_attends > 1,
    "cross-attends of their own": lambda case: (
        case.model.encoder.cross_attends > 2 and len(case.model.encoder.cross) == case.model.encoder.cross_attends
    ),
    "blocks of their own": lambda case: (
        not case.model.encoder.recorded["share_blocks"] and len(case.model.encoder.transformer) > 1
    ),
    "no layers": lambda case: case.model.encoder.layers == 0,
    "dropout": lambda case: case.model.encoder.recorded["dropout"],
    "widening": lambda case: case.model.encoder.recorded["self_widening"] > 1,
    "heads": lambda case: case.model.encoder.recorded["cross_heads"] > 1,
    "video": lambda case: any(len(grid) == 3 for grid in case.grids.values()),
    "projected positions": lambda case: any(isinstance(block, positions.Projected) for block in case.blocks),
    "a name that no attribute may have": lambda case: any("." in name for name in case.raw),
    "hidden in evaluation": lambda case: any(hide[1] for hide in case.model.inputs.hide.values()),
}


def test_every_block_that_is_registered_is_drawn_in_every_way() -> None:
    seen: Counter[str] = Counter()

    @settings(WHOLE, max_examples=max(250, MODELS))
    @given(case=assemblies())
    def draw(case: Assembly) -> None:
        seen.update({name_of(type(block)) for block in case.blocks})
        seen.update(way for way, holds in WAYS.items() if holds(case))

    draw()
    wanted = {f"{kind}.{name}" for kind in KINDS for name in drawable(kind)} | set(WAYS)
    never = sorted(wanted - set(seen))
    assert never == [], "never drawn: see tests/blocks.py and tests/assemblies.py"


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_that_is_registered_can_be_made_or_a_line_is_asked_for(kind: str) -> None:
    """Of all at once: a new block that no signature explains fails here first, and is told the line."""
    given_by_the_model = {
        "inputs": {"positions": None, "grid": None, "combine": "concat"},
        "positions": {"grid": (2, 3), "max_resolution": (4, 4), "positions": positions.Learned((2, 3), 2)},
        "queries": {"follows": "a", "size": None, "positions": positions.Learned((2,), 2), "content_channels": 2},
        "decoders": {"query_channels": 4, "latent_dim": 4},
        "outputs": {"in_channels": 4, "text": kit.inputs.TextTokens(5, 4)},
        "encoders": {"channels": 4, "latent_dim": 4},
    }[kind]

    @settings(WHOLE, max_examples=4)
    @given(data=st.data())
    def make(data: st.DataObject) -> None:
        for name in drawable(kind):
            block = made(kind, name, data.draw(arguments(kind, name, given_by_the_model)))
            assert name_of(type(block)) == f"{kind}.{name}"
            if kind == "inputs":
                raw(block, 2)

    make()


# ---- blocks that are registered later


@contextlib.contextmanager
def registered(kind: str, block: type, *others: str) -> Iterator[None]:
    """A block registered for a while, beside the containers and those others only, so that it is drawn often."""
    entries = registry._entries[kind]
    before = dict(entries)
    kept = {"Inputs", "Queries", "Outputs", *others}
    try:
        for name in set(entries) - kept:
            del entries[name]
        kit.register(kind)(block)
        yield
    finally:
        entries.clear()
        entries.update(before)


OTHERS = {
    "inputs": ["TextTokens"],
    "positions": ["Projected", "Learned"],
    "queries": ["InputQuery"],
    "outputs": ["Rows"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_block_is_drawn_and_held_to_every_property(kind: str) -> None:
    """Without a line anywhere: its signature is enough."""
    toy, held = TOYS[kind], Counter()

    @settings(WHOLE, max_examples=max(2, MODELS // 6))
    @given(case=assemblies(), data=st.data())
    def every_property(case: Assembly, data: st.DataObject) -> None:
        assume(any(type(block) is toy for block in case.blocks))
        for holds in properties:
            wanted = holds.__code__.co_varnames[: holds.__code__.co_argcount]
            with contextlib.suppress(UnsatisfiedAssumption):
                holds(
                    **{"case": copy.deepcopy(case), "data": data} if "data" in wanted else {"case": copy.deepcopy(case)}
                )
                held[holds.__name__] += 1

    with registered(kind, toy, *OTHERS.get(kind, [])):
        every_property()
    # Six properties are of models with an optional input, with rows without positions, and the like.
    assert len(held) >= len(properties) - 6, "too many properties do not apply to the models drawn"


class Unexplained(kit.inputs.Features):
    def __init__(self, channels: int, table: dict) -> None:
        super().__init__(channels)


class Dependent(kit.Block):
    query_channels = 4

    def __init__(self, query_channels: int, latent_dim: int, *, out_channels: int) -> None:
        super().__init__()
        raise kit.AssemblyError("Dependent: out_channels must be latent_dim")


class Silent(kit.inputs.Input):
    def __init__(self) -> None:
        super().__init__(2)


@pytest.mark.parametrize(
    ("kind", "block", "message"),
    [
        ("inputs", Unexplained, r"LINES\['inputs'\] needs a line for Unexplained: what 'table' may be is not known"),
        (
            "decoders",
            Dependent,
            r"LINES\['decoders'\] needs a line for Dependent, which is not made of .*: Dependent: ",
        ),
        ("inputs", Silent, "tests/strategies.py: RAW needs a line for the input block Silent"),
    ],
)
def test_a_block_that_cannot_be_made_names_the_line_that_is_wanted(kind: str, block: type, message: str) -> None:
    @settings(WHOLE, max_examples=20)
    @given(case=assemblies())
    def draw(case: Assembly) -> None:
        pass

    with registered(kind, block), pytest.raises(AssertionError, match=message):
        draw()
