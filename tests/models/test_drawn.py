"""The drawn models contain every registered block in every combination."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit import positions
from perceiver_kit.registry import name_of

from ..assemblies import Assembly, assemblies
from ..blocks import arguments, drawable, made
from ..strategies import raw
from . import test_made, test_numbers, test_rows
from .properties import MODELS, WHOLE

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
