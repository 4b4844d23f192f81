"""Loaded weights in a model with another number of classes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from ..block import with_arguments
from ..checking import check_positive
from ..errors import AssemblyError
from ..specs import build, spec
from .checkpoint import assign, shared_tensors


def with_classes(model: Any, num_labels: int) -> nn.Module:
    """The model with ``num_labels`` classes: its recipe's with this parameter, else its only output of classes changed.

    All tensors that fit are taken over; a warning names the others.
    """
    check_positive("load", num_labels=num_labels)
    note = model.recipe
    if note is not None and "num_labels" in note["parameters"] and _is_made_by(note, model):
        if note["parameters"]["num_labels"] == num_labels:
            return model
        names = {"labels": None} if "labels" in note["parameters"] else {}
        changed = note["parameters"] | {"num_labels": num_labels} | names
        new = build(note["name"], preset=note["preset"], **changed).train(model.training)
    else:
        blocks = {} if model.outputs is None else {name: model.outputs.blocks[name] for name in model.outputs.blocks}
        heads = [name for name, block in blocks.items() if "classes" in block.recorded]
        if len(heads) != 1:
            raise AssemblyError(
                f"load: num_labels needs a model with one output of classes, got {heads or 'none'}; load without it, "
                "then model.outputs.blocks[…] = Classify(…)"
            )
        [head] = heads
        if blocks[head].recorded["classes"] == num_labels:
            return model
        new = build(spec(model))
        new.train(model.training).outputs.blocks[head] = with_arguments(blocks[head], classes=num_labels)  # type: ignore
    transfer(model, new)
    return new


def transfer(old: nn.Module, new: nn.Module) -> list[str]:
    """Give ``new`` every tensor of ``old`` that has its name and shape; a warning names those that are new.

    Raises AssemblyError if no tensor fits.
    """
    theirs = {name: tensor for names, tensor in shared_tensors(old) for name in names}
    taken, fresh = {}, []
    for names, tensor in shared_tensors(new):
        match = theirs.get(names[0])
        if match is not None and match.shape == tensor.shape:
            taken[names] = match.detach()
        else:
            fresh.append(f"{names[0]} {tuple(tensor.shape)}")
            dtype = tensor.dtype if match is None or not match.is_floating_point() else match.dtype
            taken[names] = tensor.detach().to(dtype=dtype)
    if len(fresh) == len(taken):
        raise AssemblyError("no parameter of the loaded model fits the new one; take its sizes")
    with torch.no_grad():
        assign(new, taken)
    if fresh:
        warnings.warn(f"these parameters are new, with random values: {', '.join(fresh)}", stacklevel=4)
    return fresh


def _is_made_by(note: dict[str, Any], model: nn.Module) -> bool:
    with torch.device("meta"):
        made = build(note["name"], preset=note["preset"], **note["parameters"])
    return _without_names(spec(made)) == _without_names(spec(model))


def _without_names(document: dict[str, Any]) -> dict[str, Any]:
    arguments = {name: value for name, value in document["model"]["arguments"].items() if name != "labels"}
    return document["model"] | {"arguments": arguments}
