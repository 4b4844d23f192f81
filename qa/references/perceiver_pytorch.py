"""Reference numbers of perceiver-pytorch's three models, computed with the kit; the package gives their structure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import perceiver_pytorch
import torch
from torch import nn

from perceiver_kit.hub.perceiver_pytorch import from_perceiver_pytorch, perceiver_pytorch_state

from .comparing import Reference, Tensors


def run(file: Any) -> dict[str, float]:
    """The largest relative difference of each output and gradient in a ``perceiver_pytorch_*`` file."""
    reference = Reference(file)
    name = reference.config["model"].split()[-1]
    theirs: nn.Module = getattr(perceiver_pytorch, name)(**reference.config["options"])
    # A shared parameter has its gradient under its first name.
    own = {name for name, _ in theirs.named_parameters()}
    reference.parameters = {name: value for name, value in reference.parameters.items() if name in own}
    options: dict[str, Any] = {}
    if name == "PerceiverIO":
        options["queries"] = torch.zeros(1, theirs.decoder_cross_attn.norm.normalized_shape[0])  # type: ignore[union-attr, index]
    model = from_perceiver_pytorch(theirs, **options)
    state = perceiver_pytorch_state(theirs, reference.parameters)
    if options:
        state["queries.blocks.logits.positions.table"] = options["queries"]
    inputs = reference.inputs

    def call(model: Any) -> Tensors:
        data, mask = inputs.get("data", inputs.get("x")), inputs.get("mask")
        masks = None if mask is None else mask.flatten(1)
        encoded = model.encode(data if data.is_floating_point() else data.long(), mask=masks)  # type: ignore[union-attr]
        if name == "PerceiverIO" and "queries" in inputs:
            queries = inputs["queries"] if inputs["queries"].ndim == 3 else inputs["queries"][None]
            return {"out": model.outputs.blocks["logits"](model.decoder(queries, encoded.latents))}
        if model.outputs is None or name == "PerceiverIO":
            return {"out": encoded.latents}
        if name == "PerceiverLM" and mask is not None:
            # There a masked row still asks with its own token; here it is empty.
            encoded = replace(encoded, rows=model.encode(data.long()).rows)  # type: ignore[union-attr]
        [out] = model.decode(encoded).values()
        return {"out": out}

    return reference.compare(model, state, call)
