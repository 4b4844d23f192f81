"""The kit's own checkpoints: a directory of ``config.json`` (the spec) and ``model.safetensors`` (the numbers).

The header of the weights holds a copy of the spec, and one rename puts them in place: a killed save leaves the old or
the new model, never a mixture. ``config.json`` is the readable copy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from ..errors import CheckpointError, PerceiverKitError
from ..specs import build, spec
from .cards import CARD, model_card
from .files import read_json, write_atomically

CONFIG, WEIGHTS = "config.json", "model.safetensors"
# Safetensors' names for the dtypes of parameters and of counters.
FLOATS, INTEGERS = ("F64", "F32", "F16", "BF16"), ("I64", "I32", "I16", "I8", "U8", "BOOL")


def save(model: nn.Module, directory: str | os.PathLike, *, card: Mapping[str, Any] | None = None) -> Path:
    """Write a model to a directory, which is made if need be; an earlier model there stays good until the last step.

    ``card`` also writes a model card, README.md: its ``"text"``, in Markdown, with how to load the model and its stages
    below, and the entries that the hub reads from a card, such as ``license``, ``datasets`` and ``tags``. Without it a
    README.md there stays as it is.

    Raises AssemblyError for a model without a spec, CheckpointError where nothing, or a name in it, can be written, and
    UnknownName for an entry of the card that the hub does not read.

    >>> import tempfile
    >>> path = save(build("multimodal_autoencoding", preset="tiny"), tempfile.mkdtemp())
    >>> sorted(file.name for file in path.iterdir())
    ['config.json', 'model.safetensors']
    >>> card = {"text": "Twins of a clip.", "license": "cc-by-4.0"}
    >>> len((save(build("multimodal_autoencoding", preset="tiny"), path, card=card) / "README.md").read_text()) > 500
    True
    """
    config = json.dumps(spec(model), indent=1, ensure_ascii=False)
    if any("\ud800" <= letter <= "\udfff" for letter in config):
        raise CheckpointError("save: a name in this model has half of a surrogate pair, which UTF-8 cannot write")
    tensors = {names[0]: tensor.detach().cpu().contiguous() for names, tensor in shared_tensors(model)}
    directory = Path(directory)
    beside = {} if card is None else {directory / CARD: model_card(model, directory.resolve().name, card)}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        weights = to_bytes(tensors, metadata={"perceiver_kit": config, "format": "pt"})
        write_atomically({directory / WEIGHTS: weights, directory / CONFIG: config.encode(), **beside})
    except OSError as error:
        raise CheckpointError(f"cannot save to {directory}: {error.strerror or error}") from error
    return directory


def load_kit(directory: Path) -> nn.Module:
    """The model of a directory that ``save`` wrote."""
    with open_weights(directory / WEIGHTS) as weights:
        config = (weights.metadata() or {}).get("perceiver_kit") or json.dumps(read_json(directory / CONFIG))
        try:
            document = json.loads(config)
            with torch.device("meta"):
                model = build(document)
        except (PerceiverKitError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(f"{directory}: its spec does not build: {error}") from error
        if any(True for _ in _unsaved_buffers(model)):
            check_weights(model, weights, str(directory / WEIGHTS))  # before memory is allocated
            model = build(document)  # blocks compute such buffers, which the meta device cannot
        return fill(model, weights, str(directory / WEIGHTS)).eval()


def fill(model: nn.Module, weights: Any, source: str, names: Mapping[str, str] | None = None) -> nn.Module:
    """A model with every tensor from an open safetensors file, where it may have other ``names``.

    All names, shapes and types are checked before any tensor is read.
    """
    check_weights(model, weights, source, names)
    groups = shared_tensors(model)
    names = {ours[0]: ours[0] for ours, _ in groups} if names is None else names
    # Copied: tensors in the file are unaligned, and unaligned products differ in the last digit.
    assign(model, {ours: weights.get_tensor(names[ours[0]]).clone() for ours, _ in groups})
    return model


def check_weights(model: nn.Module, weights: Any, source: str, names: Mapping[str, str] | None = None) -> None:
    """An open file has the tensors of a model, of its shapes and kinds; else a CheckpointError. Nothing is read."""
    groups = {ours[0] if names is None else names[ours[0]]: tensor for ours, tensor in shared_tensors(model)}
    slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
    check_tensors(
        {name: tuple(tensor.shape) for name, tensor in groups.items()},
        {name: tuple(part.get_shape()) for name, part in slices.items()},
        source,
    )
    for name, tensor in groups.items():
        kinds, found = FLOATS if tensor.is_floating_point() else INTEGERS, slices[name].get_dtype()
        if found not in kinds:
            raise CheckpointError(f"{source} has {name} as {found}; it must be one of {', '.join(kinds)}")


def assign(model: nn.Module, tensors: Mapping[tuple[str, ...], Tensor]) -> None:
    """Put tensors in the place of a model's own; those with several names become one parameter again."""
    for names, tensor in tensors.items():
        old = _attribute(model, names[0])
        new = nn.Parameter(tensor, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else tensor
        for name in names:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, new)


def check_tensors(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Refuse a checkpoint with a missing, unexpected or mis-shaped tensor, naming the first few of each."""
    problems = [
        ("lacks", [name for name in wanted if name not in found]),
        ("has unexpected", [name for name in found if name not in wanted]),
        (
            "has mis-shaped",
            [
                f"{name} {found[name]} instead of {shape}"
                for name, shape in wanted.items()
                if name in found and found[name] != shape
            ],
        ),
    ]
    said = [
        f"{verb} {', '.join(which[:3])}{f' and {len(which) - 3} more' if len(which) > 3 else ''}"
        for verb, which in problems
        if which
    ]
    if said:
        raise CheckpointError(f"{source} {'; '.join(said)}")


def open_weights(path: Path) -> Any:
    """An open safetensors file, its header checked; CheckpointError for one that is missing or damaged.

    safetensors opens it twice, for the header and for the tensors: where another process has saved in between, the two
    would be of different models, so it is opened again.
    """
    while True:
        if not path.is_file():
            raise CheckpointError(f"no checkpoint at {path}")
        before = _version(path)
        try:
            weights = safe_open(path, framework="pt")
        except (SafetensorError, OSError, RuntimeError) as error:
            if _version(path) == before:
                raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
        else:
            if _version(path) == before:
                return weights


def _version(path: Path) -> tuple[int, int, int] | None:
    """Which file this path now is; None for none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def shared_tensors(model: nn.Module) -> list[tuple[tuple[str, ...], Tensor]]:
    """Every saved tensor once, with all the names it has in the model."""
    names: dict[int, list[str]] = {}
    tensors = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return [(tuple(same), tensors[same[0]]) for same in names.values()]


def _unsaved_buffers(model: nn.Module) -> Any:
    saved = model.state_dict(keep_vars=True)
    return (name for name, _ in model.named_buffers() if name not in saved)


def _attribute(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    return getattr(model.get_submodule(path), leaf)
