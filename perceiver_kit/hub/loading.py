"""``load``: one entrance to the kit's own checkpoints, to Hugging Face's, and to the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checking import check_class_names, describe_value, short
from ..errors import CheckpointError
from ..registry import ZOO, names
from ..specs import build
from .checkpoint import CONFIG, WEIGHTS, assign, check_tensors, load_kit, open_weights, shared_tensors
from .files import read_json
from .heads import with_classes
from .huggingface import REPOSITORY, from_hub, load_huggingface
from .zoo import PREFIX, in_zoo, place


def load(
    source: str | os.PathLike,
    *,
    num_labels: int | None = None,
    device: str | torch.device = "cpu",
    **parameters: Any,
) -> nn.Module:
    """A model in evaluation mode, with the dtypes that were saved, from one of four places.

    A directory that ``kit.save`` wrote; a directory in Hugging Face's Perceiver format (its config.json says
    ``"model_type": "perceiver"``); the hub's id of either, such as ``"deepmind/language-perceiver"``, from the local
    cache where it is there; or ``"zoo:NAME"``, a trained model of the package, whose 16-bit weights become float32:
    ``kit.list("zoo")`` names them.

    Strict: raises CheckpointError, naming the file or tensor, for a file that is missing or damaged and for a tensor
    that is missing, unexpected or of another shape. All is checked before any tensor is read, and nothing is ever
    unpickled: a ``.bin`` is refused.

    ``parameters`` are those of the model's recipe that do not change its weights, such as ``dropout=0.1`` or
    ``conv_padding="same"``.
    ``num_labels`` gives the model another number of classes: a new head on loaded weights. A warning names the
    parameters that are new; class names are dropped. ``labels``, of recipes with classes, names them: the number
    follows.

    >>> import tempfile
    >>> directory = save(build("multimodal_autoencoding", preset="tiny"), tempfile.mkdtemp())
    >>> load(directory).training
    False
    """
    if not isinstance(source, str | os.PathLike):
        raise CheckpointError(f"load takes a directory or the id of a hub repository, got {describe_value(source)}")
    directory = place(source)
    try:
        there, known = directory.is_dir(), directory.exists()
    except OSError as error:  # a name longer than any, or a folder that may not be looked into
        raise CheckpointError(f"{short(str(source))} cannot be read: {error.strerror or error}") from error
    if not known and isinstance(source, str) and REPOSITORY.fullmatch(source):
        directory = from_hub(source)
    elif not there:
        hint = f"; did you mean '{PREFIX}{source}'?" if str(source) in names(ZOO) else ""
        raise CheckpointError(
            f"{str(source)!r} is neither a directory nor the id of a hub repository, owner/name{hint}"
        )
    config = {} if is_ours(directory) else read_json(directory / CONFIG)
    ours = not config or "perceiver_kit" in config
    model = load_kit(directory) if ours else load_huggingface(directory, config)
    model = model.float() if in_zoo(source) else model
    if num_labels is None and parameters.get("labels") is not None:
        num_labels = len(check_class_names("load: labels", parameters["labels"]))
    model = model if num_labels is None else with_classes(model, num_labels)
    return (_rebuilt(model, parameters) if parameters else model).to(device)


def _rebuilt(model: nn.Module, parameters: Mapping[str, Any]) -> nn.Module:
    """What the model's recipe makes with other parameters, with the model's weights."""
    note: Any = getattr(model, "recipe", None)
    if not note:
        raise CheckpointError(f"load: {', '.join(parameters)} are parameters of a recipe, but none made this model")
    other = build(note["name"], preset=note["preset"], **{**note["parameters"], **parameters})
    tensors = dict(shared_tensors(model))
    wanted, found = (
        {names[0]: tuple(tensor.shape) for names, tensor in groups}
        for groups in (shared_tensors(other), tensors.items())
    )
    check_tensors(wanted, found, f"load: with {', '.join(parameters)} changed, the checkpoint")
    assign(other, tensors)
    if "processor" in vars(model):
        other.processor = model.processor
    return other.eval()


def is_ours(directory: Path) -> bool:
    """Whether ``save`` wrote it, by what the weights say themselves."""
    if not (directory / WEIGHTS).is_file():
        return False
    with open_weights(directory / WEIGHTS) as weights:
        return "perceiver_kit" in (weights.metadata() or {})
