"""``build`` a model from a recipe's name or a spec, and ``describe`` it without allocating anything."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .errors import AssemblyError
from .registry import Block, Recipe, copied, find
from .spec import from_spec


def build(what: str | Mapping[str, Any], *, preset: str | None = None, **overrides: Any) -> nn.Module:
    """A model from a recipe's name or from a spec, in training mode.

    ``preset`` is ``"base"`` (published size) unless given; overrides are parameters of the recipe.
    Raises UnknownName for a recipe, preset or keyword that does not exist, AssemblyError for a broken spec.

    >>> model = build("multimodal_autoencoding", preset="tiny", num_latents=16)
    >>> model.encoder.num_latents
    16
    """
    if isinstance(what, Mapping):
        if preset is not None or overrides:
            raise AssemblyError("build(spec) takes no preset and no overrides: a spec is complete; edit it instead")
        return from_spec(what)
    if not isinstance(what, str):
        raise AssemblyError(f"build takes a recipe's name or a spec (a dict), got a {type(what).__name__}")
    recipe: Recipe = find("recipes", what)
    preset = "base" if preset is None else preset
    parameters = recipe.parameters(preset, overrides)
    model = recipe.function(**parameters)
    model.recipe = {  # type: ignore[assignment]
        "name": what,
        "preset": preset,
        "parameters": copied(parameters),
    }
    return model


def describe(what: str | nn.Module, *, preset: str | None = None, **overrides: Any) -> str:
    """A recipe or a model stage by stage: shapes, widths, parameters, and the source of each number.

    ``"kind.Name"``, such as ``"inputs.Patches"``, gives a block's signature and documentation.
    Nothing is allocated: recipes are built on the meta device.

    >>> print(describe("multimodal_autoencoding").splitlines()[-1])
    19,858,855 parameters
    """
    if isinstance(what, nn.Module):
        return _stages(what)
    kind, _, name = what.partition(".")
    if name:
        block = find(kind, name)
        return f"{name}{inspect.signature(block.__init__)}\n\n{inspect.getdoc(block) or ''}"
    recipe: Recipe = find("recipes", what)
    preset = "base" if preset is None else preset
    parameters = recipe.parameters(preset, overrides)
    with torch.device("meta"):
        model = build(what, preset=preset, **overrides)
    rows = [(f"{key} = {value}", recipe.sources.get(key, "")) for key, value in parameters.items()]
    width = max(len(left) for left, _ in rows)
    numbers = [f"  {left:<{width}}  {right}".rstrip() for left, right in rows]
    doc = inspect.getdoc(recipe.function) or ""
    return "\n".join([f"{what} ({preset})", doc.split("\n\n")[0], "", *numbers, "", _stages(model)])


def _stages(model: nn.Module) -> str:
    lines = model.stages() if isinstance(model, Block) else []
    count = sum(parameter.numel() for parameter in model.parameters())
    return "\n".join([*lines, f"{count:,} parameters"])
