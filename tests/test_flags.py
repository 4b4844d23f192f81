"""Bool parameters of every registered block and recipe take bools only."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest

import perceiver_kit as kit
from perceiver_kit.layers import MLP
from perceiver_kit.registry import KINDS, find

from .blocks import registered

WRONG = ["off", "", 0, 1, None, 1.0, np.True_, [True]]


def bools(signature: inspect.Signature) -> list[str]:
    """Parameters whose annotation or default says bool, found without the kit."""
    return [
        name
        for name, parameter in signature.parameters.items()
        if not re.search(r"\||Union", str(parameter.annotation))
        and ("bool" in str(parameter.annotation) or isinstance(parameter.default, bool))
    ]


BLOCKS = [
    pytest.param(find(kind, name), flag, id=f"{name}.{flag}")
    for kind in KINDS
    if kind != "recipes"
    for name in kit.list(kind)
    for flag in bools(inspect.signature(find(kind, name)))
]
RECIPES = [(name, flag) for name in kit.list() for flag in bools(find("recipes", name).signature)]


def required(signature: inspect.Signature) -> dict[str, Any]:
    """None for each required parameter: flags are checked before anything else."""
    named = (p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {p.name: None for p in named if p.default is p.empty}


LAYERS = [(kit.CrossAttentionLayer, flag) for flag in ("query_residual", "read_queries", "gated", "compete")]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("block", "flag"), [*BLOCKS, *LAYERS, (MLP, "gated"), (MLP, "bias")])
def test_a_flag_of_a_block_is_a_bool(block: type, flag: str) -> None:
    for wrong in WRONG:
        with pytest.raises(kit.AssemblyError, match=rf"^{block.__name__}: {flag} must be True or False, got "):
            block(**required(inspect.signature(block)) | {flag: wrong})


@pytest.mark.usefixtures("unchecked")
def test_flags_of_attention_and_the_tokenizer_are_bools() -> None:
    for wrong in WRONG:
        with pytest.raises(kit.AssemblyError, match=r"^attention: compete must be True or False, got "):
            kit.Attention(8, 8, compete=wrong)
        with pytest.raises(kit.AssemblyError, match=r"^ByteTokenizer: parse_special must be True or False, got "):
            kit.ByteTokenizer(parse_special=wrong)


@pytest.mark.parametrize(("recipe", "flag"), RECIPES)
def test_a_flag_of_a_recipe_is_a_bool(recipe: str, flag: str) -> None:
    for wrong in WRONG:
        with pytest.raises(kit.AssemblyError, match=rf"^{recipe}: {flag} must be True or False, got "):
            kit.build(recipe, preset="tiny", **{flag: wrong})


def test_flags_are_found() -> None:
    assert {"Encoder.query_residual", "Fourier.sine_only", "ConvStem.batch_norm"} <= {case.id for case in BLOCKS}
    assert ("image_classification_learned", "decoder_residual") in RECIPES
    assert ("masked_lm", "query_residual") in RECIPES


def test_a_new_block_is_held_to_its_flags() -> None:
    class Mirror(kit.Block):
        def __init__(self, first: bool, second=False, *, third: bool = True, fourth: int | bool = 3) -> None:
            super().__init__()

    with registered("encoders", Mirror):
        for flag in ("first", "second", "third"):
            with pytest.raises(kit.AssemblyError, match=f"Mirror: {flag} must be True or False, got 'no'"):
                Mirror(**{"first": True, flag: "no"})
        with pytest.raises(kit.AssemblyError, match="Mirror: third must be True or False, got 1"):
            kit.build(
                kit.spec(Mirror(True))
                | {"model": {"block": "encoders.Mirror", "arguments": {"first": True, "third": 1}}}
            )
        assert Mirror(True, fourth=7).recorded["fourth"] == 7
