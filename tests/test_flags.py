"""Bool parameters of every registered block and recipe, and of every public class and function, take bools only."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import perceiver_kit as kit
from perceiver_kit.layers import MLP
from perceiver_kit.registry import KINDS, find

from .blocks import registered

WRONG = ["off", "", 0, 1, None, 1.0, np.True_, [True]]


def signature_of(call: Any) -> inspect.Signature:
    try:
        return inspect.signature(call)
    except ValueError:  # of built-in types, such as errors
        return inspect.Signature()


def bools(signature: inspect.Signature) -> list[str]:
    """Parameters whose annotation or default says bool, found without the kit."""
    return [
        name
        for name, parameter in signature.parameters.items()
        if str(parameter.annotation) in ("bool", "<class 'bool'>")
        or (parameter.annotation is parameter.empty and isinstance(parameter.default, bool))
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


@pytest.mark.parametrize(("block", "flag"), [*BLOCKS, *LAYERS, (MLP, "gated"), (MLP, "bias")])
def test_a_flag_of_a_block_is_a_bool(block: type, flag: str) -> None:
    for wrong in WRONG:
        with pytest.raises(kit.AssemblyError, match=rf"^{block.__name__}: {flag} must be True or False, got "):
            block(**required(inspect.signature(block)) | {flag: wrong})


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


PAGES = "".join(path.read_text(encoding="utf-8") for path in (Path(__file__).parents[1] / "docs" / "api").glob("*.md"))
DOCUMENTED = re.findall(r"^::: (perceiver_kit[\w.]*)", PAGES, re.MULTILINE)
CALLED_BACK = {"sample", "start", "register_buffer"}  # methods that the kit and PyTorch call


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(kit.__path__, "perceiver_kit."):
        yield importlib.import_module(found.name)


def own(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public classes and functions that a module defines."""
    for name, value in vars(module).items():
        kind = inspect.isclass(value) or inspect.isfunction(value)
        if kind and not name.startswith("_") and value.__module__ == module.__name__:
            yield f"{module.__name__.removeprefix('perceiver_kit.')}.{name}", value


def public() -> dict[str, Any]:
    """Every class with its methods, and the functions of documented modules and of the ``__all__`` of packages."""
    listed = {id(getattr(m, name)) for m in (kit, *modules()) for name in getattr(m, "__all__", ())}
    found: dict[str, Any] = {}
    for module in modules():
        for name, value in own(module):
            path = f"perceiver_kit.{name}"
            if inspect.isclass(value):
                if not inspect.isabstract(value):
                    found[name] = value
                methods = {key: f for key, f in vars(value).items() if inspect.isfunction(f) and key not in CALLED_BACK}
                found |= {
                    f"{name}.{key}": functools.partial(method, value.__new__(value))
                    for key, method in methods.items()
                    if not re.match(r"_(?!_call__)", key) and bools(signature_of(method))
                }
            elif id(value) in listed or module.__name__ in DOCUMENTED or path in DOCUMENTED:
                found[name] = value
    return found


PUBLIC = [(name, value, flag) for name, value in public().items() for flag in bools(signature_of(value))]


@pytest.mark.parametrize(("call", "flag"), [pytest.param(v, flag, id=f"{name}.{flag}") for name, v, flag in PUBLIC])
def test_a_flag_of_anything_public_is_a_bool(call: Any, flag: str) -> None:
    message = rf"^(\w+: )?{flag} must be True or False, got "
    for wrong in WRONG:
        with contextlib.ExitStack() as stack:  # a context manager checks its arguments as it is entered
            stack.enter_context(pytest.raises((kit.AssemblyError, kit.InputError), match=message))
            stack.enter_context(call(**required(inspect.signature(call)) | {flag: wrong}))


def test_public_flags_are_found() -> None:
    found = {f"{name}.{flag}" for name, _, flag in PUBLIC}
    data = {"data.images.Images.flip", "data.files.Pictures.crop", "data.folders.image_folder.flip"}
    assert data | {"training.fit.fit.resume", "training.module.Training.compile_model"} <= found
    assert {"prediction.predict.stream", "attention.Attention.forward.causal", "plots.series.losses.log"} <= found


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
