"""Real data by name or path, as what a recipe trains on and is tested on.

>>> sorted(tasks)
['bible', 'clip', 'flow', 'mnist', 'reviews']
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checks import short
from ..errors import InputError, UnknownName, nearest
from ..recipes.common import height_width
from ..registry import find
from . import corpora, images, warps
from .folders import FOLDERS, Loader, Size, one_video
from .task import IMAGE_RECIPES, VIDEO_RECIPES, Task
from .texts import MaskedBytes

__all__ = ["FITS", "Task", "open_task", "tasks"]


def mnist(*, seed: int = 0, shift: int = 2) -> Task:
    """Digits, 28 × 28; in training moved by up to ``shift`` pixels."""
    train, held_out = images.mnist(seed=seed, shift=shift)
    overrides = dict(num_labels=10, image_size=28)
    return Task("mnist", IMAGE_RECIPES, train, held_out, overrides, images.MNIST_SOURCE, tuple("0123456789"))


def reviews(*, max_length: int = 2048, seed: int = 0) -> Task:
    """Reviews of films, good or bad, cut to ``max_length`` bytes."""
    train, held_out = corpora.reviews(length=max_length, seed=seed)
    overrides = dict(num_labels=2, max_length=max_length)
    classes = ("negative", "positive")
    return Task("reviews", ("sequence_classification",), train, held_out, overrides, corpora.REVIEWS_SOURCE, classes)


def bible(*, max_length: int = 2048, seed: int = 0, rate: float = 0.15, visible_target_prob: float = 1.0) -> Task:
    """The King James Bible in windows of ``max_length`` bytes, of which ``rate`` are asked for.

    Training asks for ``visible_target_prob`` of the others too, as ``MaskedBytes`` says; 0 is as published.
    """
    sizes: dict[str, Any] = dict(length=max_length, seed=seed, rate=rate, visible_target_prob=visible_target_prob)
    train, held_out = (MaskedBytes(text, **sizes) for text in corpora.bible_text())
    return Task("bible", ("masked_lm",), train, held_out, dict(max_length=max_length), corpora.BIBLE_SOURCE)


def flow(*, image_size: Size = (368, 496), seed: int = 0, items: int = 4096, reach: float = 0.15) -> Task:
    """Photos moved by flows of up to about ``reach`` of the frame's shorter side."""
    size = height_width("flow", image_size)
    train, held_out = warps.flow(image_size=size, items=items, seed=seed, reach=reach)
    return Task("flow", ("optical_flow",), train, held_out, dict(image_size=size), warps.PHOTOS_SOURCE)


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


tasks: dict[str, Loader] = dict(mnist=mnist, reviews=reviews, bible=bible, flow=flow, clip=clip)
"""Loaders by name. Each takes keywords, ``seed`` and any that a recipe also has, such as ``image_size``."""

FITS: dict[str, tuple[str, ...]] = dict(
    mnist=IMAGE_RECIPES,
    reviews=("sequence_classification",),
    bible=("masked_lm",),
    flow=("optical_flow",),
    clip=VIDEO_RECIPES,
)
"""The recipes that each loader is data for."""


def open_task(source: str | Path, *, recipe: str, preset: str = "base", seed: int = 0, **options: Any) -> Task:
    """The data of that name, or at that path, for a recipe.

    Sizes are those of the recipe's preset where it has them (``image_size``, ``max_length``, ``num_frames``,
    ``audio_samples``), unless options say otherwise.

    Args:
        source: a name in ``tasks``; else a path. What a path must hold depends on the recipe:

            - image classification: a folder with one sub-folder of pictures for each class
            - ``optical_flow``: a folder of pictures, which are moved by random flows
            - ``sequence_classification``: a folder with one sub-folder of .txt files for each class
            - ``masked_lm``: a folder of .txt files, or one of them
            - ``multimodal_autoencoding``: a video; a folder of them; one with a sub-folder of videos for each class
        recipe: which recipe is to read the data.
        preset: the preset whose sizes hold.
        seed: of all that is random.
        options: keywords of the loader, those of the functions here and in ``folders``.

    Raises UnknownName for an unknown name or option, InputError for data that do not fit the recipe or cannot be
    read, MissingPackage where the data ship in a package that is not installed.
    """
    entry = find("recipes", recipe)
    parameters = entry.parameters(preset, {})
    if "image_size" not in parameters and "max_resolution" in parameters:  # the conv stem's rows are 4 × 4 pixels
        factor = 4 if recipe == "image_classification_conv" else 1
        parameters["image_size"] = tuple(factor * side for side in parameters["max_resolution"])
    if source in tasks:
        name = str(source)
        loader, positional = tasks[name], ()
        if recipe not in FITS.get(name, (recipe,)):
            raise InputError(f"{name!r} is data for {', '.join(FITS[name])}, not for {recipe}")
    else:
        loader, positional = FOLDERS.get(recipe), (Path(source),)
        if loader is None:
            raise InputError(f"no folder can be read for {recipe}, only for {', '.join(FOLDERS)}; make a Task yourself")
        if not _there(Path(source)):
            raise InputError(f"no data and no path {str(source)!r}; {nearest(source, tasks)}")
    known = [name for name, p in inspect.signature(loader).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UnknownName(f"{source}: no option {option!r}; {nearest(option, {*known} - {'seed'})}")
    given = {name: parameters[name] for name in known if name in parameters}
    task = loader(*positional, **(given | options | {"seed": seed}))
    if recipe not in task.recipe:
        raise InputError(f"{task.name!r} is data for {', '.join(task.recipe)}, not for {recipe}")
    fitting = inspect.signature(entry.function).parameters
    return replace(task, overrides={name: value for name, value in task.overrides.items() if name in fitting})


def _there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name longer than any, or a folder that may not be looked into
        raise InputError(f"{short(str(path))} cannot be read: {error.strerror or error}") from error
