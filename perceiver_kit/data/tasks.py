"""Real data by name or path: what a recipe trains on and is tested on. Recipes declare which data they read."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checks import check_image_size, short
from ..errors import InputError, UnknownName, nearest
from ..recipe import Recipe, resolve
from ..registry import find, names
from . import corpora, images, warps
from .folders import Size, one_video
from .task import Task
from .texts import MaskedBytes

PATH = "path"
"""The name under which a recipe declares the loader of a user's own files."""


def mnist(*, seed: int = 0, shift: int = 2) -> Task:
    """Digits, 28 × 28; in training moved by up to ``shift`` pixels."""
    train, held_out = images.mnist(seed=seed, shift=shift)
    overrides = dict(num_labels=10, image_size=28)
    return Task("mnist", train, held_out, overrides, images.MNIST_SOURCE, tuple("0123456789"))


def reviews(*, max_length: int = 2048, seed: int = 0) -> Task:
    """Reviews of films, good or bad, cut to ``max_length`` bytes."""
    train, held_out = corpora.reviews(length=max_length, seed=seed)
    overrides = dict(num_labels=2, max_length=max_length)
    classes = ("negative", "positive")
    return Task("reviews", train, held_out, overrides, corpora.REVIEWS_SOURCE, classes)


def bible(*, max_length: int = 2048, seed: int = 0, rate: float = 0.15, visible_target_prob: float = 1.0) -> Task:
    """The King James Bible in windows of ``max_length`` bytes, of which ``rate`` are asked for.

    Training asks for ``visible_target_prob`` of the others too, as ``MaskedBytes`` says; 0 is as published.
    """
    sizes: dict[str, Any] = dict(length=max_length, seed=seed, rate=rate, visible_target_prob=visible_target_prob)
    train, held_out = (MaskedBytes(text, **sizes) for text in corpora.bible_text())
    return Task("bible", train, held_out, dict(max_length=max_length), corpora.BIBLE_SOURCE)


def flow(*, image_size: Size = (368, 496), seed: int = 0, items: int = 4096, reach: float = 0.15) -> Task:
    """Photos moved by flows of up to about ``reach`` of the frame's shorter side."""
    size = check_image_size("flow", image_size)
    train, held_out = warps.flow(image_size=size, items=items, seed=seed, reach=reach)
    return Task("flow", train, held_out, dict(image_size=size), warps.PHOTOS_SOURCE)


def clip(
    *,
    num_frames: int = 16,
    image_size: Size = 224,
    audio_samples: int | None = None,
    parts: int | None = None,
    seed: int = 0,
) -> Task:
    """Windows of the opening of a film with sound; the class is the part of it that they come from."""
    return one_video(num_frames=num_frames, image_size=image_size, audio_samples=audio_samples, parts=parts, seed=seed)


def sample_data() -> dict[str, tuple[str, ...]]:
    """Names of sample data, and the recipes that read each.

    >>> sample_data()["reviews"]
    ('sequence_classification',)
    """
    readers: dict[str, tuple[str, ...]] = {}
    for recipe in names():
        for name in find("recipes", recipe).data:
            if name != PATH:
                readers[name] = (*readers.get(name, ()), recipe)
    return readers


def open_task(source: str | Path, *, recipe: str, preset: str = "base", seed: int = 0, **options: Any) -> Task:
    """The data of that name, or at that path, for a recipe.

    Sizes are those of the recipe's preset where it has them (``image_size``, ``max_length``, ``num_frames``,
    ``audio_samples``), unless options say otherwise.

    Args:
        source: a name of ``sample_data()`` that the recipe reads; else a path. The recipe's loader of paths says what
            a path must hold (``perceiver_kit.data.folders``).
        recipe: which recipe is to read the data.
        preset: the preset whose sizes hold.
        seed: of all that is random.
        options: keywords of the loader.

    Raises UnknownName for an unknown name or option, InputError for data that do not fit the recipe or cannot be
    read, MissingPackage where the data ship in a package that is not installed.
    """
    entry: Recipe = find("recipes", recipe)
    parameters = entry.parameters(preset, {})
    readers = sample_data()
    if source in entry.data and source != PATH:
        loader, positional = resolve(entry.data[str(source)]), ()
    elif source in readers:
        raise InputError(f"{str(source)!r} is data for {', '.join(readers[str(source)])}, not for {recipe}")
    elif PATH not in entry.data:
        raise InputError(f"recipe {recipe} declares no loader of paths: give a perceiver_kit.data.task.Task")
    elif not _there(Path(source)):
        raise InputError(f"no data and no path {str(source)!r}; {nearest(source, set(entry.data) - {PATH})}")
    else:
        loader, positional = resolve(entry.data[PATH]), (Path(source),)
    known = [name for name, p in inspect.signature(loader).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UnknownName(f"{source}: no option {option!r}; {nearest(option, {*known} - {'seed'})}")
    sizes = entry.data_sizes(parameters)
    given = {name: sizes[name] for name in known if name in sizes}
    task: Task = loader(*positional, **(given | options | {"seed": seed}))
    return replace(task, overrides={name: value for name, value in task.overrides.items() if name in parameters})


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name longer than any, or a folder that may not be looked into
        raise InputError(f"{short(str(path))} cannot be read: {error.strerror or error}") from error
