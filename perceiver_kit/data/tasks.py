"""Training and held-out data for a recipe, by name or path. Recipes declare which data they read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checking import check_image_size, short
from ..declarations import Recipe, resolve
from ..errors import InputError, UnknownName, nearest
from ..flags import checked_flags
from ..registry import find, names
from . import canvases, corpora, images, warps
from .folders import Size, videos
from .image_processor import check_channels
from .next_bytes import NextBytes
from .task import Task
from .texts import MaskedBytes, Texts

PATH = "path"
"""The key of a recipe's loader of user files."""
BENCHMARKS = ("sintel", "kitti")
"""Keys of loaders that read a benchmark's files: NAME:PATH."""


def mnist(*, image_channels: int = 3, seed: int = 0, shift: int = 2, warp: bool = False) -> Task:
    """Digits, 28 × 28, with their grey in each channel.

    Training shifts them by up to ``shift`` pixels; with ``warp`` it also turns, stretches and bends them.
    """
    train, held_out = images.mnist(seed=seed, shift=shift, warp=warp, channels=image_channels)
    overrides = dict(num_labels=10, image_size=28, image_channels=image_channels)
    return Task("mnist", train, held_out, overrides, images.MNIST_SOURCE, tuple("0123456789"))


def mnist_warped(*, image_channels: int = 3, seed: int = 0) -> Task:
    """Digits that training turns, stretches, moves and bends: ``images.warped``."""
    return replace(mnist(image_channels=image_channels, seed=seed, shift=0, warp=True), name="mnist_warped")


def digit_objects(*, image_size: Size = 96, seed: int = 0, items: int = 20_000, objects: int = 5) -> Task:
    """One to five digits on a canvas, with their boxes; ``canvases.DigitScenes``."""
    size = check_image_size("digit_objects", image_size)
    train, held_out = canvases.digit_scenes(size=size, objects=objects, items=items, seed=seed, targets="objects")
    overrides = dict(num_labels=10, image_size=size)
    return Task("digits", train, held_out, overrides, images.MNIST_SOURCE, tuple("0123456789"))


def digit_masks(*, image_size: Size = 96, seed: int = 0, items: int = 20_000, objects: int = 5) -> Task:
    """One to five digits on a canvas, with the class of each pixel; ``canvases.DigitScenes``."""
    size = check_image_size("digit_masks", image_size)
    train, held_out = canvases.digit_scenes(size=size, objects=objects, items=items, seed=seed, targets="mask")
    overrides = dict(num_labels=11, image_size=size)
    return Task("digits", train, held_out, overrides, images.MNIST_SOURCE, ("background", *"0123456789"))


def reviews(*, max_length: int = 2048, seed: int = 0) -> Task:
    """Positive and negative movie reviews, truncated to ``max_length`` ids."""
    train, held_out = (Texts(*part, length=max_length, seed=seed) for part in corpora.review_texts())
    overrides = dict(num_labels=2, max_length=max_length)
    return Task("reviews", train, held_out, overrides, corpora.REVIEWS_SOURCE, ("negative", "positive"))


def bible(*, max_length: int = 2048, seed: int = 0, rate: float = 0.15, visible_target_prob: float = 1.0) -> Task:
    """The King James Bible in windows of ``max_length`` bytes.

    ``texts.MaskedBytes`` explains ``rate`` and ``visible_target_prob``.
    """
    sizes: dict[str, Any] = dict(length=max_length, seed=seed, rate=rate, visible_target_prob=visible_target_prob)
    train, held_out = (MaskedBytes(text, **sizes) for text in corpora.bible_text())
    return Task("bible", train, held_out, dict(max_length=max_length), corpora.BIBLE_SOURCE)


def bible_next(*, max_length: int = 2048, predicted: int = 1024, seed: int = 0, short: float = 0.0) -> Task:
    """The King James Bible in windows of ``max_length`` bytes, of which the ``predicted`` last ones are targets.

    ``next_bytes.NextBytes`` explains ``short``.
    """
    train, held_out = (
        NextBytes(text, length=max_length, predicted=predicted, seed=seed, short=short) for text in corpora.bible_text()
    )
    overrides = dict(context=max_length, num_latents=predicted)
    return Task("bible_next", train, held_out, overrides, corpora.BIBLE_SOURCE)


def flow(
    *,
    image_size: Size = (368, 496),
    image_channels: int = 3,
    seed: int = 0,
    items: int = 4096,
    reach: float = 0.15,
    train_reach: float | None = None,
) -> Task:
    """Photos warped by flows of up to about ``reach`` of the frame's shorter side; ``train_reach`` in training."""
    size = check_image_size("flow", image_size)
    channels = check_channels("flow: image_channels", image_channels, (1, 3))
    options: dict[str, Any] = dict(items=items, seed=seed, reach=reach, train_reach=train_reach)
    train, held_out = warps.flow(image_size=size, channels=channels, **options)
    overrides = dict(image_size=size, image_channels=channels)
    return Task("flow", train, held_out, overrides, warps.PHOTOS_SOURCE)


@checked_flags
def clip(
    *,
    num_frames: int = 16,
    image_size: Size = 224,
    image_channels: int = 3,
    audio_samples: int | None = None,
    parts: int | None = None,
    gain: float = 1.0,
    augment: bool = False,
    seed: int = 0,
) -> Task:
    """Windows of the opening scene of a film with sound; the class is the part of the clip.

    ``folders.videos`` explains ``gain`` and ``augment``.
    """
    sizes: dict[str, Any] = dict(num_frames=num_frames, image_size=image_size, image_channels=image_channels)
    return videos(**sizes, audio_samples=audio_samples, parts=parts, gain=gain, augment=augment, seed=seed)


def sample_data() -> dict[str, tuple[str, ...]]:
    """Names of the sample data, with the recipes that read each.

    >>> sample_data()["reviews"]
    ('sequence_classification',)
    """
    readers: dict[str, tuple[str, ...]] = {}
    for recipe in names():
        for name in find("recipes", recipe).data:
            if name != PATH and name not in BENCHMARKS:
                readers[name] = (*readers.get(name, ()), recipe)
    return readers


def find_loader(entry: Recipe, source: str | Path) -> tuple[Any, tuple[Path, ...]]:
    """The loader of a recipe's data, and the path that it reads: a name, a path, or ``NAME:PATH``.

    Raises InputError for data that the recipe does not read.
    """
    readers, recipe = sample_data(), entry.name
    name, _, place = str(source).partition(":")
    if place and name in entry.data and name != PATH:
        if not _exists(Path(place)):
            raise InputError(f"no path {place!r}")
        return resolve(entry.data[name]), (Path(place),)
    if source in entry.data and source != PATH:
        if source in BENCHMARKS:
            raise InputError(f"{source} needs the path of its files: {source}:PATH")
        return resolve(entry.data[str(source)]), ()
    exists = _exists(Path(source))
    if source in readers and not exists:
        own = ", ".join(sorted({"a path" if name == PATH else name for name in entry.data})) or "none"
        known = ", ".join(readers[str(source)])
        raise InputError(f"{str(source)!r} is data for {known}, not for {recipe}. It reads: {own}")
    if PATH not in entry.data:
        raise InputError(f"recipe {recipe} declares no loader of paths; pass a perceiver_kit.data.task.Task")
    if not exists:
        raise InputError(f"no data and no path {str(source)!r}; {nearest(source, set(entry.data) - {PATH})}")
    return resolve(entry.data[PATH]), (Path(source),)


def open_task(
    source: str | Path,
    *,
    recipe: str,
    preset: str = "base",
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Task:
    """Load sample data by name, or the user's own by path, for a recipe.

    Sizes (``image_size``, ``max_length``, ``num_frames``, ``audio_samples``) default to those of the preset.

    Args:
        source: a name in ``sample_data()``, a path, or ``NAME:PATH`` for files in the form of a benchmark.
            ``perceiver_kit.data.folders`` documents the contents that each recipe's loader expects.
        recipe: the recipe that will read the data.
        preset: the preset whose sizes to use.
        parameters: of the recipe, that override the preset's.
        seed: the seed of all randomness.
        options: keywords of the loader.

    Raises UnknownName for an unknown recipe or option, InputError for unknown, unsuitable or unreadable data,
    MissingPackage if the data ship in a package that is not installed.
    """
    entry: Recipe = find("recipes", recipe)
    own = dict(parameters or {})
    parameters = entry.parameters(preset, own)
    loader, positional = find_loader(entry, source)
    known = [name for name, p in inspect.signature(loader).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            raise UnknownName(f"{source}: no option {option!r}; {nearest(option, {*known} - {'seed'})}")
    sizes = entry.data_sizes(parameters)
    given = {name: sizes[name] for name in known if name in sizes}
    task: Task = loader(*positional, **(given | options | {"seed": seed}))
    overrides = dict(task.overrides) | ({"labels": task.classes} if task.classes else {})
    overrides = {name: value for name, value in overrides.items() if name in parameters}
    read = task.processor or entry.make_processor(sizes | options | dict(task.overrides) | own)
    return replace(task, overrides=overrides, processor=read)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # the name is too long, or access is denied
        raise InputError(f"{short(str(path))} cannot be read: {error.strerror or error}") from error
