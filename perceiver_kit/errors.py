"""The exceptions of the kit. Each message names the argument, what was expected, what was passed, and a hint."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PerceiverKitError(ValueError):
    """Base class: ``except PerceiverKitError`` catches every error that the kit raises."""


class InputError(PerceiverKitError):
    """A tensor, mask, index or file that a model or a transform cannot read."""


class AssemblyError(PerceiverKitError):
    """Blocks that do not fit together, or wrong arguments of a block or recipe."""


class UnknownName(PerceiverKitError):
    """A recipe, block, preset, modality or keyword that does not exist."""


class CheckpointError(PerceiverKitError):
    """A checkpoint that is missing, damaged, of another model, or cannot be written."""


class TrainingError(PerceiverKitError):
    """Training that cannot continue, such as after a dead data worker or NaN weights. The last checkpoint is intact."""


class MissingPackage(PerceiverKitError, ImportError):
    """An optional package that this call needs is not installed."""


def nearest(name: object, known: Iterable[str]) -> str:
    """The hint for an unknown name: the nearest known name, and all of them.

    >>> nearest("imgae", ["audio", "image"])
    "did you mean 'image'? There are: audio, image"
    """
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1)
    guess = f"did you mean '{close[0]}'? " if close else ""
    return f"{guess}There are: {', '.join(known) or 'none'}"
