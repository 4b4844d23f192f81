"""Tasks: what is measured, at which sizes, how often, and the targets."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

KIT, HUGGING_FACE, PERCEIVER_PYTORCH, TRANSFORMER = "kit", "huggingface", "perceiver_pytorch", "transformer"

# Of the comparison with a causal Transformer.
CONTEXTS = (1024, 8192, 65536)
POLICIES = ("roll", "refill", "recompute")

# The reference decodes several outputs in 128 equal parts and runs its encoder for each.
PARTS = 128

Point = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """Bounds on the figures of a task."""

    faster: float | None = None  # least speed-up
    memory: float | None = None  # largest share of the reference's memory above the weights
    floor: float | None = None  # largest time, relative to that of the FLOPs at the matmul peak
    time_slope: float | None = None
    memory_slope: float | None = None


@dataclass(frozen=True)
class Task:
    """One comparison: the sides take turns, each time in a process of its own.

    A process measures ``points`` (sizes) one after another, each ``repeats`` times; with ``warm`` its first call is not
    counted. Memory is measured in a process of its own, since its allocator settings slow calls down; without rounds,
    this process measures time, too.
    """

    name: str
    kind: str
    recipe: str = ""
    dtype: str = "float32"
    points: tuple[Point, ...] = ({},)
    sides: tuple[str, ...] = (KIT, HUGGING_FACE)
    rounds: int = 3
    repeats: int = 3
    warm: bool = True
    memory: bool = True
    processor: bool = False  # one thread, the least processor seconds of the calls, instead of the median by the clock
    target: Target = Target()


@dataclass(frozen=True)
class Traits:
    """Properties of a recipe's published model on which sizes and targets depend."""

    text: bool  # reads tokens
    text_out: bool  # decodes as many rows as it reads
    pixels: bool  # reads every pixel as a row
    any_size: bool  # reads images of any size
    tiled: bool  # the reference takes half a minute a call
    several: bool  # has several outputs, which the reference decodes in parts


@functools.cache
def traits(recipe: str) -> Traits:
    """The traits of a recipe, from its model on the meta device."""
    import torch

    import perceiver_kit as kit
    from perceiver_kit.inputs import Neighbourhoods, Pixels, TextTokens
    from perceiver_kit.outputs import TiedText
    from perceiver_kit.registry import find
    from perceiver_kit.tiling import Tiled

    with torch.device("meta"):
        model: Any = kit.build(recipe)
    first, answer = (blocks[next(iter(blocks))] for blocks in (model.inputs.blocks, model.outputs.blocks))
    return Traits(
        text=isinstance(first, TextTokens),
        text_out=isinstance(answer, TiedText),
        pixels=isinstance(first, Pixels | Neighbourhoods),
        any_size="max_resolution" in find("recipes", recipe).parameters("base", {}),
        tiled=isinstance(model, Tiled),
        several=len(model.outputs.blocks) > 1,
    )


def recipes() -> list[str]:
    """Recipes with a counterpart in Hugging Face's format."""
    from perceiver_kit.hub.huggingface import convertible

    return [*convertible()]


def _forward(recipe: str, group: str = "forward", **options: Any) -> Task:
    has = traits(recipe)
    memory = 1 / 3 if has.tiled else None if has.text or has.several else 0.5
    target = Target(3.0 if has.tiled else 8.0 if has.several else 1.0, memory, floor=1.4)
    slow = has.tiled or has.several
    defaults = dict(rounds=2 if slow else 3, repeats=1 if has.tiled else 3 if has.several else 2, target=target)
    return Task(f"{group}/{recipe}", "forward", recipe, **(defaults | options))


def _train(recipe: str) -> Task:
    has = traits(recipe)
    target = Target(1.1, None if has.text or has.several else 2 / 3)
    return Task(
        f"train/{recipe}", "train", recipe, rounds=2, repeats=2 if has.text else 1, warm=not has.tiled, target=target
    )


def _bfloat16(recipe: str) -> Task:
    tiled = traits(recipe).tiled
    options = dict(rounds=2, repeats=1 if tiled else 3, target=Target(8.0 if tiled else None))
    return _forward(recipe, "bfloat16", dtype="bfloat16", **options)


def _sweep(group: str, recipe: str, sizes: tuple[int, ...], **options: Any) -> Task:
    points = tuple({group: size} for size in sizes)
    return _forward(recipe, group, points=points, rounds=1, target=Target(), **options)


def _growth(key: str, name: str) -> Task:
    points = tuple({key: 2**power} for power in range(16, 21))
    target = Target(time_slope=1.05, memory_slope=1.0)
    return Task(f"growth/{name}", "growth", sides=(KIT,), points=points, rounds=2, target=target)


@functools.cache
def all_tasks(bfloat16: bool = True) -> tuple[Task, ...]:
    """Every task, in the order in which they run; those in bfloat16 can be left out."""
    every = recipes()
    pixels = [recipe for recipe in every if traits(recipe).pixels]
    any_size = [recipe for recipe in pixels if traits(recipe).any_size]
    texts = [recipe for recipe in every if traits(recipe).text_out]
    points = tuple({"dtype": dtype} for dtype in (("float32", "bfloat16") if bfloat16 else ("float32",)))
    generic = dict(sides=(KIT, PERCEIVER_PYTORCH), target=Target(1.0))
    # One process each: the Transformer takes minutes at the longest context.
    causal: dict[str, Any] = dict(rounds=0, warm=False, processor=True)
    beside: dict[str, Any] = dict(sides=(KIT, TRANSFORMER), repeats=5) | causal
    policies = tuple({"context": context, "policy": policy} for context in CONTEXTS for policy in POLICIES)
    return (
        Task("peak", "peak", sides=(KIT,), points=points, repeats=5, memory=False),
        *(_forward(recipe) for recipe in every),
        *(_train(recipe) for recipe in every),
        *(_bfloat16(recipe) for recipe in pixels if bfloat16),
        *(_sweep("batch", recipe, (1, 2, 4, 8), repeats=1) for recipe in any_size),
        *(_sweep("length", recipe, (128, 256, 512, 1024, 2048), repeats=3) for recipe in texts),
        *(_sweep("size", recipe, (112, 224, 336, 448), repeats=1) for recipe in any_size),
        _growth("rows", "inputs"),
        _growth("grouped_rows", "hierarchy"),
        _growth("queries", "queries"),
        Task("generation/token", "token", points=policies, **beside),
        # GPT-2's step on 65,536 tokens takes minutes of one core.
        Task("generation/train", "causal_train", points=tuple({"context": each} for each in CONTEXTS[:2]), **beside),
        Task(
            "growth/context",
            "causal_train",
            sides=(KIT,),
            points=tuple({"context": 2**power} for power in range(13, 19)),
            repeats=7,
            target=Target(time_slope=1.05),
            **causal,
        ),
        Task("perceiver-pytorch/forward", "generic", **generic),
        Task("perceiver-pytorch/train", "generic_train", rounds=2, repeats=1, **generic),
    )


def quick(task: Task) -> Task:
    """The task at small sizes: a check that it runs."""
    points = task.points[:2]
    if task.kind == "growth" or task.processor:
        points = tuple(
            {key: value // 16 if isinstance(value, int) else value for key, value in point.items()} for point in points
        )
    return replace(task, points=points, rounds=0, repeats=1, warm=False, target=Target())


def chosen(patterns: list[str], tasks: Sequence[Task]) -> list[Task]:
    """Tasks whose names contain one of the patterns; all for none. ValueError for a pattern that matches none."""
    for pattern in patterns:
        if not any(pattern in task.name for task in tasks):
            raise ValueError(f"no task {pattern!r}; there are: {', '.join(task.name for task in tasks)}")
    return [task for task in tasks if not patterns or any(pattern in task.name for pattern in patterns)]
