"""What a recipe declares: the function that assembles a model, and everything else that is about this model.

Declarations are passive. Loaders are lazy references such as ``"my_package.data:digits"``, so that importing a recipe
imports neither Pillow nor av nor Lightning. Generic code (objectives, data, hub, CLI, docs, benchmarks) asks the
registry and lists no recipe.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .block import Block, readable_signature
from .checking import check_class_names
from .errors import AssemblyError, UnknownName, nearest
from .flags import check_flags
from .objectives import Objective, Weighted
from .registry import add, find, names
from .specs import build

Lazy = str | Callable[..., Any]
Parameters = dict[str, Any]


@dataclass(frozen=True)
class HuggingFace:
    """A recipe's counterpart in Hugging Face's Perceiver format: tables, read both ways.

    Args:
        architecture: the class that ``config.json`` names.
        names: tensor names, ours → theirs; ``{i}`` counts the encoder's layers.
        sizes: our parameter → (their name in ``config.json``, its value where ``config.json`` is silent).
        fixed: our parameters that their code fixes.
        labels: the number of classes where ``config.json`` is silent; None for a model without classes.
        read: ``config.json`` → further parameters of ours. Raises ValueError.
        write: our parameters → further entries of ``config.json``. Raises ValueError.
        unwritten: our parameters that change no weight and that ``config.json`` has no place for.
        processor: (directory, parameters) → the processor that its ``preprocessor_config.json`` or
            ``tokenizer_config.json`` means; None: the recipe's.
    """

    architecture: str
    names: Mapping[str, str]
    sizes: Mapping[str, tuple[str, Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    labels: int | None = None
    read: Callable[[Mapping[str, Any]], Parameters] = lambda config: {}
    write: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda parameters: {}
    unwritten: tuple[str, ...] = ()
    processor: Lazy | None = None


@dataclass(frozen=True)
class Recipe:
    """A registered recipe; ``kit.recipe`` documents the fields."""

    function: Callable[..., nn.Module]
    signature: inspect.Signature
    presets: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, str]
    objective: Callable[..., Objective] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Lazy] = field(default_factory=dict)
    reads: Callable[[Parameters], Parameters] = lambda parameters: {}
    random_inputs: Callable[..., dict[str, Tensor]] | None = None
    huggingface: HuggingFace | None = None
    processor: Lazy | None = None
    demo: Lazy | None = None

    @property
    def name(self) -> str:
        return self.function.__name__

    def parameters(self, preset: str, overrides: Mapping[str, Any]) -> Parameters:
        """All parameters by name: the published numbers, then the preset, then the overrides."""
        if preset not in self.presets:
            raise UnknownName(f"{self.name} has no preset {preset!r}; {nearest(preset, self.presets)}")
        published = {name: parameter.default for name, parameter in self.signature.parameters.items()}
        for name in overrides:
            if name not in published:
                raise UnknownName(f"{self.name} has no parameter {name!r}; {nearest(name, published)}")
        parameters = published | dict(self.presets[preset]) | dict(overrides)
        if parameters.get("labels") is not None and "num_labels" in published and "num_labels" not in overrides:
            parameters["num_labels"] = len(check_class_names(f"{self.name}: labels", parameters["labels"]))
        check_flags(self.name, self.signature, parameters)
        return parameters

    def settings(self, preset: str) -> dict[str, Any]:
        """Settings of training: those of all presets, then those under the name of this one."""
        shared = {name: value for name, value in self.training.items() if name not in self.presets}
        return shared | dict(self.training.get(preset, {}))

    def data_sizes(self, parameters: Parameters) -> Parameters:
        """Options of data loaders that these parameters imply, such as ``image_size``."""
        return parameters | self.reads(parameters)

    def make_processor(self, sizes: Parameters) -> Any:
        """The processor for inputs of these sizes; None if the recipe declares none."""
        if self.processor is None:
            return None
        make = resolve(self.processor)
        return make(**{name: sizes[name] for name in inspect.signature(make).parameters if name in sizes})

    def example(self, batch: int = 1, preset: str = "base", **overrides: Any) -> dict[str, Tensor]:
        """Random raw inputs of the sizes that the model of this preset reads."""
        if self.random_inputs is None:
            raise UnknownName(f"recipe {self.name} declares no random_inputs")
        return self.random_inputs(batch, self.data_sizes(self.parameters(preset, overrides)))


def recipe(
    *,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    sources: Mapping[str, str] | None = None,
    group: type[Block] | None = None,
    objective: Callable[..., Objective] | None = None,
    training: Mapping[str, Any] | None = None,
    data: Mapping[str, Lazy] | None = None,
    reads: Callable[[Parameters], Parameters] = lambda parameters: {},
    random_inputs: Callable[..., dict[str, Tensor]] | None = None,
    huggingface: HuggingFace | None = None,
    processor: Lazy | None = None,
    demo: Lazy | None = None,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator that registers a function as a recipe; ``kit.build(name)`` calls it.

    The function takes keyword-only parameters with defaults, which are the published numbers, and may end in
    ``**encoder``: parameters that only pass through to the block ``group`` and are checked against its signature.

    Args:
        presets: further sets of numbers by name. ``"base"`` holds published numbers of the group.
        sources: where each number comes from.
        group: the block class that the function's ``**`` parameters go to.
        objective: makes the objective that the model is trained for. One that depends on the model takes ``model=``,
            which is None where there is none.
        training: settings of ``Training``, ``Data`` and ``fit`` that work for small presets; under the name of a
            preset, a dict of what it changes.
        data: sample data, name → loader; under ``"path"`` the loader of a user's own files. Loaders are callables or
            lazy references ``"module:name"`` and return a ``perceiver_kit.data.task.Task``.
        reads: parameters → options of these loaders that have other names, such as ``image_size``.
        random_inputs: (batch, parameters) → random raw inputs.
        huggingface: the counterpart in Hugging Face's format.
        processor: lazy reference to a function that makes the ``Processor`` of ``kit.predict``; it is called with those
            of its parameters that the recipe has, or ``reads`` gives.
        demo: lazy reference to the function that ``perceiver-kit demo`` calls.

    Raises AssemblyError for a taken name, a parameter that is not keyword-only with a default, and a preset or source
    that names an unknown parameter.

    >>> @recipe(presets=dict(tiny=dict(latent_dim=8)), group=Encoder, sources=dict(points="an example"))
    ... def doctest_points(*, points: int = 3, num_latents: int = 4, latent_dim: int = 16, layers: int = 1, **encoder):
    ...     inputs = Inputs(points=Features(points))
    ...     sizes = dict(num_latents=num_latents, latent_dim=latent_dim, layers=layers)
    ...     return PerceiverIO(inputs, Encoder(inputs.channels, **sizes, **encoder))
    >>> build("doctest_points", preset="tiny", self_heads=2).encode(torch.zeros(1, 5, 3)).latents.shape
    torch.Size([1, 4, 8])
    >>> del kit.registry._entries["recipes"]["doctest_points"]
    """

    def register(function: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        given = {"base": {}} | {preset: dict(numbers) for preset, numbers in (presets or {}).items()}
        base = given.pop("base")
        signature = _signature(function, group, base)
        for label, keys in [*given.items(), ("sources", sources or {})]:
            for key in keys:
                if key not in signature.parameters:
                    hint = nearest(key, signature.parameters)
                    raise AssemblyError(f"recipe {function.__name__}: {label} names {key!r}; {hint}")
        defaults = {} if group is None else dict.fromkeys(_keywords(group).keys() - base.keys(), group.__name__)
        texts = {name: f"default of {owner}" for name, owner in defaults.items() if name in signature.parameters}
        entry = Recipe(
            function,
            signature,
            presets={"base": {}} | given,
            sources=texts | dict(sources or {}),
            objective=objective,
            training=training or {},
            data=data or {},
            reads=reads,
            random_inputs=random_inputs,
            huggingface=huggingface,
            processor=processor,
            demo=demo,
        )
        add("recipes", entry.name, entry)

        @functools.wraps(function)
        def published(**overrides: Any) -> nn.Module:
            return build(entry.name, **overrides)

        published.__signature__ = signature  # type: ignore[attr-defined]
        return published

    return register


def objective_for(what: str | nn.Module, name: str | None = None, *, model: nn.Module | None = None) -> Objective:
    """The objective of a recipe, or of a model: that of its only output, or the sum of those of all outputs.

    ``name`` chooses another objective for a model of one output. Of a recipe, ``model`` is the one to be trained.
    Raises UnknownName where nothing can be chosen.

    >>> type(objective_for("masked_lm")).__name__
    'MaskedTokens'
    >>> type(objective_for(build("sequence_classification", preset="tiny", problem_type="regression"))).__name__
    'Regression'
    """
    if isinstance(what, str):
        entry: Recipe = find("recipes", what)
        if entry.objective is None:
            raise UnknownName(f"recipe {what!r} declares no objective: give one")
        takes_model = "model" in inspect.signature(entry.objective).parameters
        return entry.objective(model=model) if takes_model else entry.objective()
    blocks: dict[str, Any] = {output: what.outputs.blocks[output] for output in what.outputs.blocks}  # type: ignore[union-attr]
    if name is not None and len(blocks) > 1:
        raise AssemblyError(
            f"objective {name!r} is for one output, got {', '.join(blocks)}; give an objective for each"
        )
    chosen = {}
    for output, block in blocks.items():
        kind = block.objective if name is None else name
        if kind is None:
            hint = f"name one: {', '.join(names('objectives'))}"
            raise UnknownName(f"output {output!r}: {type(block).__name__} declares no objective; {hint}")
        objective = find("objectives", kind)
        counted = {"labels": block.channels} if "labels" in inspect.signature(objective).parameters else {}
        chosen[output] = objective(output, **counted)
    return Weighted(chosen) if len(chosen) > 1 else next(iter(chosen.values()))


def processor_of(model: nn.Module) -> Any:
    """The processor of a model: its own, else the one that its recipe declares; None without either.

    >>> processor_of(build("sequence_classification", preset="tiny")).readers["text"].max_length
    256
    """
    own, note = getattr(model, "processor", None), getattr(model, "recipe", None)
    if own is not None or not note:
        return own
    entry: Recipe = find("recipes", note["name"])
    return entry.make_processor(entry.data_sizes(note["parameters"]))


def resolve(reference: Lazy) -> Callable[..., Any]:
    """The function behind a lazy reference ``"module:name"``.

    >>> resolve("math:prod")([2, 3])
    6
    """
    if not isinstance(reference, str):
        return reference
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (AttributeError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError) and error.name != module:
            raise
        raise UnknownName(f"no {name!r} in module {module!r}, which a recipe refers to") from error


def _keywords(group: type[Block]) -> dict[str, inspect.Parameter]:
    parameters = readable_signature(group.__init__).parameters
    return {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _signature(function: Callable, group: type[Block] | None, base: Mapping[str, Any]) -> inspect.Signature:
    """The parameters of a recipe: its own, then those of its group with the numbers of the preset base."""
    own = readable_signature(function)
    owner = f"recipe {function.__name__}"
    parameters: dict[str, inspect.Parameter] = {}
    for parameter in own.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD and group is not None:
            continue
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise AssemblyError(f"{owner}: parameter {parameter.name!r} must be keyword-only with a default")
        parameters[parameter.name] = parameter
    if group is not None:
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.parameters.values()):
            raise AssemblyError(f"{owner}: group {group.__name__} needs a ** parameter that takes its arguments")
        for name, parameter in _keywords(group).items():
            if name in parameters:
                continue
            default = base.get(name, parameter.default)
            if default is parameter.empty:
                raise AssemblyError(f"{owner}: {group.__name__} needs {name!r}: give it in preset base")
            parameters[name] = parameter.replace(default=default)
    for name in base:
        if name not in parameters:
            raise AssemblyError(f"{owner}: base names {name!r}; {nearest(name, parameters)}")
        parameters[name] = parameters[name].replace(default=base[name])
    return own.replace(parameters=[*parameters.values()])
