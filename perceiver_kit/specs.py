"""Module ⇄ plain JSON: the tree of blocks with the arguments that make each of them again."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

from .block import Block, copied
from .checking import describe_value
from .errors import AssemblyError, PerceiverKitError, nearest
from .registry import find, name_of

FORMAT = 1
MOST_NAMES = 12  # of classes that `describe` shows
PLAIN = "None, bool, int, finite float, str, list, tuple, a dict with str keys, a registered block or dataclass"


def spec(model: nn.Module) -> dict[str, Any]:
    """The whole assembly as plain JSON: ``kit.build(kit.spec(model))`` has the same parameters.

    A block that appears twice is written once and referred to after that, so that ties survive. The recipe's
    name and parameters, where there was one, are a note; the tree of blocks is what is built.

    Raises AssemblyError for an unregistered block, an argument that is not plain, and for a model that has been
    changed by hand so that the rebuilt one would differ in a parameter's name, shape, or sharing.

    >>> document = spec(Encoder(3, num_latents=4, latent_dim=16, layers=1))
    >>> build(document).num_latents
    4
    """
    document = assembly(model)
    with torch.device("meta"):
        rebuilt = from_spec(document)
    differing = _fingerprint(model) ^ _fingerprint(rebuilt)
    if differing:
        raise AssemblyError(
            f"this model is not what its blocks' arguments make: {sorted(map(str, differing))[0]} differs in name, "
            "shape or sharing; make the change a registered block of its own, or merge adapters first"
        )
    return document


def assembly(model: nn.Module) -> dict[str, Any]:
    """The blocks of a model as ``spec`` writes them, for a model that may have adapters or wrappers inside them."""
    if not isinstance(model, Block):
        raise AssemblyError(f"spec takes a model made of blocks, got {describe_value(model)}")
    document: dict[str, Any] = {"perceiver_kit": FORMAT}
    if getattr(model, "recipe", None):
        document["recipe"] = _encode(model.recipe, {}, "recipe")["dict"]
    if model.processor is not None:
        document["processor"] = _encode(model.processor, {}, "processor")
    document["model"] = _encode(model, {}, "model")
    return document


def from_spec(document: Mapping[str, Any]) -> nn.Module:
    """The model that a spec describes, freshly initialised; names resolve through the registry only."""
    if document.get("perceiver_kit") != FORMAT or "model" not in document:
        raise AssemblyError(
            f'a spec is {{"perceiver_kit": {FORMAT}, "model": …}} as kit.spec writes it, got keys {[*document]}'
        )
    made: dict[int, Block] = {}
    try:
        model = _decode(document["model"], made, "model")
        recipe = _decode({"dict": document["recipe"]}, made, "recipe") if "recipe" in document else None
        processor = _decode(document["processor"], {}, "processor") if "processor" in document else None
    except RecursionError:
        raise AssemblyError("spec: it is nested deeper than any model is") from None
    if not isinstance(model, Block):
        raise AssemblyError(f"spec: model must be a block, got {describe_value(model)}")
    if recipe is not None:
        model.recipe = recipe
    if isinstance(processor, nn.Module) or not (processor is None or is_dataclass(processor)):
        raise AssemblyError(f"spec: processor must be a registered processor, got {describe_value(processor)}")
    model.processor = processor
    return model


def _encode(value: Any, seen: dict[int, dict], where: str) -> Any:
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Block):
        if id(value) in seen:
            node = seen[id(value)]
            # Numbered only when referred to, so that most specs have no numbers at all.
            node.setdefault("id", 1 + sum("id" in other for other in seen.values()))
            return {"same_as": node["id"]}
        node = seen[id(value)] = {"block": name_of(type(value))}
        arguments = value.arguments()
        node["arguments"] = {name: _encode(item, seen, f"{where}.{name}") for name, item in arguments.items()}
        return node
    if is_dataclass(value) and not isinstance(value, type):
        arguments = {field.name: getattr(value, field.name) for field in fields(value)}
        return {"block": name_of(type(value)), "arguments": _encode(arguments, seen, where)["dict"]}
    if isinstance(value, list):
        return [_encode(item, seen, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, seen, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item, seen, f"{where}.{key}") for key, item in value.items()}}
    raise AssemblyError(f"spec: {where} is {value!r}, but an argument must be {PLAIN}")


def _decode(value: Any, made: dict[int, Block], where: str) -> Any:
    if isinstance(value, list):
        return [_decode(item, made, f"{where}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, Mapping):
        if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise AssemblyError(f"spec: {where} is {value!r}, but an argument must be {PLAIN}")
    keys = set(value)
    if keys == {"tuple"} and isinstance(value["tuple"], list):
        return tuple(_decode(value["tuple"], made, where))
    if keys == {"dict"} and isinstance(value["dict"], Mapping):
        return {str(key): _decode(item, made, f"{where}.{key}") for key, item in value["dict"].items()}
    if keys == {"same_as"}:
        if not isinstance(value["same_as"], int) or value["same_as"] not in made:
            raise AssemblyError(f"spec: {where} refers to block {value['same_as']!r}, which is not made before it")
        return made[value["same_as"]]
    if keys in ({"block", "arguments"}, {"block", "arguments", "id"}) and isinstance(value["arguments"], Mapping):
        block = _make(value, made, where)
        if "id" in value:
            if not isinstance(value["id"], int):
                raise AssemblyError(f"spec: the id of {where} must be an int, got {value['id']!r}")
            made[value["id"]] = block
        return block
    raise AssemblyError(f"spec: {where} has keys {sorted(map(str, keys))}; expected a block, tuple, dict or same_as")


def _make(node: Mapping[str, Any], made: dict[int, Block], where: str) -> Any:
    kind, _, name = str(node["block"]).partition(".")
    try:
        block = find(kind, name)
    except PerceiverKitError as error:
        raise AssemblyError(f"spec: {where}: {error}") from None
    if not (inspect.isclass(block) and (issubclass(block, Block) or is_dataclass(block))):
        raise AssemblyError(f"spec: {where}: {node['block']} is not a block or a dataclass")
    arguments = {key: _decode(item, made, f"{where}.{key}") for key, item in node["arguments"].items()}
    own = inspect.signature(block.__init__)
    signature = own.replace(parameters=[*own.parameters.values()][1:])
    known = {name: arguments.pop(name) for name in signature.parameters if name in arguments}
    bound = inspect.BoundArguments(signature, known)  # type: ignore[arg-type]
    try:
        return block(*bound.args, **bound.kwargs, **arguments)
    except (TypeError, ValueError) as error:
        hint = "" if isinstance(error, PerceiverKitError) else f"; it takes {nearest('', signature.parameters)}"
        raise AssemblyError(f"spec: {where} ({node['block']}): {error}{hint}") from error


def _fingerprint(model: nn.Module) -> set[tuple]:
    """Name and shape of every parameter and buffer, and the first name under which a shared one is known."""
    first: dict[int, str] = {}
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {(name, tuple(tensor.shape), first.setdefault(id(tensor), name)) for name, tensor in tensors}


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
        raise AssemblyError(f"build takes a recipe's name or a spec (a dict), got {describe_value(what)}")
    recipe = find("recipes", what)
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
        return f"{name}{inspect.signature(block)}\n\n{inspect.getdoc(block) or ''}"
    recipe = find("recipes", what)
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
    for output, names in (getattr(model, "labels", None) or {}).items():
        more = f", … ({len(names)})" if len(names) > MOST_NAMES else ""
        lines.append(f"  classes  {output:<10} {', '.join(names[:MOST_NAMES])}{more}")
    count = sum(parameter.numel() for parameter in model.parameters())
    return "\n".join([*lines, f"{count:,} parameters"])
