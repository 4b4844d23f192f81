"""`make fuzz`: a new block is drawn and tested by its signature alone, or the error says what is missing."""

from __future__ import annotations

import contextlib
import copy
import inspect

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import UnsatisfiedAssumption

import perceiver_kit as kit
from tests.assemblies import Assembly, assemblies
from tests.blocks import registered
from tests.models import test_made, test_numbers, test_rows
from tests.models.properties import MODELS, WHOLE, properties
from tests.models.test_drawn import KINDS
from tests.models.toys import TOYS

FILES = [test_made, test_numbers, test_rows]  # imported because they fill ``properties``

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
    """Nothing says which tables fit."""

    def __init__(self, channels: int, table: dict) -> None:
        super().__init__(channels)


class Dependent(kit.Block):
    """Its arguments depend on each other."""

    query_channels = 4

    def __init__(self, query_channels: int, latent_dim: int, *, out_channels: int) -> None:
        super().__init__()
        raise kit.AssemblyError("Dependent: out_channels must be latent_dim")


class Silent(kit.inputs.Input):
    """Nothing says what it reads."""

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
    """The test over all blocks fails, and says what to add."""

    @settings(WHOLE, max_examples=20)
    @given(case=assemblies())
    def draw(case: Assembly) -> None:
        pass

    with registered(kind, block, only=()), pytest.raises(AssertionError, match=message):
        draw()
