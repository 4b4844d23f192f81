"""Everything a user can do wrong ends in one of this family, and each says what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PerceiverKitError(ValueError):
    """The family: ``except PerceiverKitError`` catches every mistake that the kit reports."""


class InputError(PerceiverKitError):
    """A tensor, mask, index or file given to a model or a transform is not what it reads."""


class AssemblyError(PerceiverKitError):
    """Blocks that do not fit together, or a block or recipe made with wrong arguments."""


class UnknownName(PerceiverKitError):
    """A recipe, block, preset, modality or keyword that does not exist."""


class CheckpointError(PerceiverKitError):
    """A checkpoint that is missing, damaged, not of this model, or cannot be written."""


class TrainingError(PerceiverKitError):
    """A training that cannot go on: a data worker that died, weights that are NaN. Its last checkpoint is whole."""


class MissingPackage(PerceiverKitError, ImportError):
    """An optional package that this call needs is not installed."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The hint that ends an error about a wrong name: the nearest right one and all that there are.

    >>> nearest("imgae", ["audio", "image"])
    "did you mean 'image'? There are: audio, image"
    """
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"{guess}There are: {', '.join(known) or 'none'}"
