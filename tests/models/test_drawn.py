"""The drawn models contain every registered block in every combination, and new blocks without changes here."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

import perceiver_kit as kit
from perceiver_kit import positions
from perceiver_kit.registry import name_of

from ..assemblies import Assembly, assemblies
from ..blocks import arguments, drawable, made, registered
from ..strategies import raw
from . import test_made, test_numbers, test_rows
from .properties import MODELS, WHOLE, properties
from .toys import TOYS

KINDS = ["inputs", "positions", "queries", "decoders", "outputs", "encoders"]
FILES = [test_made, test_numbers, test_rows]  # imported because they fill ``properties``


def shared(case: Assembly) -> set[str]:
    """Between which parts of the model blocks are shared, such as "inputs and outputs"."""
    parts = {"inputs": case.model.inputs, "queries": case.model.queries, "outputs": case.model.outputs}
    places: dict[int, list[str]] = {}
    for part, container in parts.items():
        for name in container.blocks:
            block = container.blocks[name]
            places.setdefault(id(block), []).append(part)
            for child in {id(child): child for child in block.children() if isinstance(child, kit.Block)}.values():
                places.setdefault(id(child), []).append(part)
    return {" and ".join(sorted(where)) for where in places.values() if len(where) == 2}


def recorded(case: Assembly, name: str, default: Any = 0) -> Any:
    """An argument of the encoder; ``default`` for one without it."""
    return case.model.encoder.recorded.get(name, default)


def separate_cross_attends(case: Assembly) -> bool:
    return len(case.model.encoder.cross) == case.model.encoder.cross_attends


# Combinations that must be drawn: each was missing, or broke, before.
COMBINATIONS: dict[str, Callable[[Assembly], object]] = {
    "one input": lambda case: len(case.raw) == 1,
    "three inputs": lambda case: len(case.raw) == 3,
    "three outputs": lambda case: len(case.model.outputs.blocks) == 3,
    "no queries": lambda case: case.model.queries.channels == 0,
    "NoQuery beside other queries": lambda case: (
        case.model.queries.channels
        and any(case.model.queries.blocks[name].channels == 0 for name in case.model.queries.blocks)
    ),
    "text tied to logits": lambda case: "inputs and outputs" in shared(case),
    "one block for two inputs": lambda case: "inputs and inputs" in shared(case),
    "one block for two queries": lambda case: "queries and queries" in shared(case),
    "one block for two outputs": lambda case: "outputs and outputs" in shared(case),
    "positions of an input and of a query": lambda case: "inputs and queries" in shared(case),
    "several cross-attends": lambda case: recorded(case, "cross_attends") > 1,
    "separate cross-attends": lambda case: recorded(case, "cross_attends") > 1 and separate_cross_attends(case),
    "separate blocks": lambda case: recorded(case, "share_blocks", True) is False and recorded(case, "blocks") > 1,
    "no layers": lambda case: recorded(case, "layers", 1) == 0,
    "dropout": lambda case: recorded(case, "dropout"),
    "widening": lambda case: recorded(case, "self_widening", 1) not in (1, None),
    "heads": lambda case: recorded(case, "cross_heads") > 1,
    "groups": lambda case: getattr(case.model.decoder, "groups", 1) > 1,
    "video": lambda case: any(len(grid) == 3 for grid in case.grids.values()),
    "projected positions": lambda case: any(isinstance(block, positions.Projected) for block in case.blocks),
    "a name with a dot": lambda case: any("." in name for name in case.raw),
    "coordinates of an input": lambda case: any(
        isinstance(block, kit.inputs.Points) and block.positions for block in case.blocks
    ),
    "one query for two outputs": lambda case: len(case.model.outputs.blocks) > len(case.model.queries.blocks),
    "an output of another query": lambda case: case.model.outputs.of,
    "queries that read each other": lambda case: getattr(case.model.decoder, "mixes_rows", False),
    "hidden in evaluation": lambda case: any(hide[1] for hide in case.model.inputs.hide.values()),
}


def _matches(matches: Callable[[Assembly], Any], case: Assembly) -> bool:
    """Some combinations are of the encoder of Perceiver IO, and others lack its attributes."""
    try:
        return bool(matches(case))
    except (AttributeError, KeyError):
        return False


def test_every_registered_block_and_combination_is_drawn() -> None:
    missing = {f"{kind}.{name}" for kind in KINDS for name in drawable(kind)} | COMBINATIONS.keys()

    class Complete(Exception):
        """Nothing is missing: no more models are needed."""

    @settings(WHOLE, max_examples=max(500, MODELS))
    @given(case=assemblies())
    def draw(case: Assembly) -> None:
        missing.difference_update(name_of(type(block)) for block in case.blocks)
        missing.difference_update(
            {name for name in missing & COMBINATIONS.keys() if _matches(COMBINATIONS[name], case)}
        )
        if not missing:
            raise Complete

    with contextlib.suppress(Complete):
        draw()
    assert sorted(missing) == [], "never drawn: see tests/blocks.py and tests/assemblies.py"


@pytest.mark.parametrize("kind", KINDS)
def test_every_registered_block_can_be_made(kind: str) -> None:
    """A new block whose signature says too little fails here first; the error names the missing line."""
    given_by_the_model = {
        "inputs": {"positions": None, "grid": None, "combine": "concat"},
        "positions": {"grid": (2, 3), "max_resolution": (4, 4), "positions": positions.Learned((2, 3), 2)},
        "queries": {
            "follows": "a",
            "size": None,
            "positions": positions.Fourier(bands=1, max_resolution=(2,)),
            "content_channels": 2,
        },
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


# Blocks that stay registered beside the new one: few, so that it is drawn often.
OTHERS = {
    "inputs": ["TextTokens"],
    "positions": ["Projected", "Learned"],
    "queries": ["InputQuery"],
    "outputs": ["Rows"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_property_is_tested_on_a_new_block(kind: str) -> None:
    """Its signature is enough: no table needs a line. A property that held for one model is not tested on the next."""
    toy, tested = TOYS[kind], set()

    @settings(WHOLE, max_examples=max(4, MODELS // 6))
    @given(case=assemblies(masked=True), data=st.data())
    def every_property(case: Assembly, data: st.DataObject) -> None:
        assume(any(type(block) is toy for block in case.blocks))
        for test in [test for test in properties if test.__name__ not in tested]:
            with contextlib.suppress(UnsatisfiedAssumption):
                more = {"data": data} if "data" in inspect.signature(test).parameters else {}
                test(case=copy.deepcopy(case), **more)
                tested.add(test.__name__)

    with registered(kind, toy, only=OTHERS.get(kind, [])):
        every_property()
    # Eight properties need an optional input, rows without positions, a shared query, and the like.
    assert len(tested) >= len(properties) - 8, "too many properties do not apply to the drawn models"


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
        ("inputs", Unexplained, r"LINES\['inputs'\] needs a line for Unexplained: 'table' has no known values"),
        ("decoders", Dependent, r"LINES\['decoders'\] needs a line for Dependent, which refuses .*: Dependent: "),
        ("inputs", Silent, "tests/strategies.py: RAW needs a line for the input block Silent"),
    ],
)
def test_errors_name_the_missing_line_for_a_new_block(kind: str, block: type, message: str) -> None:
    @settings(WHOLE, max_examples=20)
    @given(case=assemblies())
    def draw(case: Assembly) -> None:
        pass

    with registered(kind, block, only=()), pytest.raises(AssertionError, match=message):
        draw()
