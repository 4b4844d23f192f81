"""Compares outputs and gradients of the kit with a file of numbers from an original implementation.

The kit's parameters are functions of the original's (transposed, split, reordered), so one backward pass gives the
gradients under the original's names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

Tensors = dict[str, Tensor]


class Reference:
    """A file: its configuration, and parameters, inputs, outputs and gradients by name."""

    def __init__(self, file: str | Path) -> None:
        with np.load(file) as arrays:
            self.config: dict[str, Any] = json.loads(str(arrays["config"]))
            self.found = found = {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "config"}

        def part(prefix: str) -> Tensors:
            return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}

        self.parameters = {name: value.requires_grad_() for name, value in part("params/").items()}
        self.inputs = {
            name: value.requires_grad_() if value.is_floating_point() else value for name, value in part("in/").items()
        }
        self.outputs, self.gradients = part("out/"), part("grad/")

    def compare(
        self, model: nn.Module, state: Mapping[str, Tensor], call: Callable[[Any], Tensors], scalar: str = "loss"
    ) -> dict[str, float]:
        """Differences of outputs, each relative to its largest value, and of gradients, relative to their largest.

        ``state`` holds the parameters of the model; every one of the file must be in use.
        """
        outputs = functional_call(_Called(model.eval(), call), {f"model.{name}": state[name] for name in state})
        if scalar not in outputs:
            outputs[scalar] = sum((value.square().mean() for value in outputs.values()), start=torch.zeros(()))
        assert outputs.keys() == self.outputs.keys(), f"outputs {[*outputs]}, but the file has {[*self.outputs]}"
        named = {f"params/{name}": value for name, value in self.parameters.items()}
        named |= {f"in/{name}": value for name, value in self.inputs.items() if value.is_floating_point()}
        found = torch.autograd.grad(outputs[scalar], [*named.values()], allow_unused=True)
        unused = [name for name, value in zip(named, found, strict=True) if value is None]
        assert not unused, f"parameters or inputs without effect: {unused}"
        gradients = dict(zip(named, found, strict=True))
        largest = max(float(value.abs().max()) for value in self.gradients.values())
        differences = {f"out/{name}": relative(outputs[name], value) for name, value in self.outputs.items()}
        return differences | {
            f"grad/{name}": relative(gradients[name], value, largest) for name, value in self.gradients.items()
        }

    def gradient_differences(self, scalar: Tensor, prefix: str) -> dict[str, float]:
        """The largest difference of the gradients of a scalar under this prefix, relative to the largest of them."""
        wanted = {name.removeprefix(prefix): value for name, value in self.found.items() if name.startswith(prefix)}
        named = {f"params/{name}": value for name, value in self.parameters.items()}
        named |= {f"in/{name}": value for name, value in self.inputs.items() if value.is_floating_point()}
        read = [named[name] for name in wanted]  # fixed tables have no gradient: zero
        gradients = torch.autograd.grad(scalar, read, retain_graph=True, materialize_grads=True)
        largest = max(float(value.abs().max()) for value in wanted.values())
        pairs = zip(wanted, gradients, strict=True)
        return {f"{prefix}{name}": relative(value, wanted[name], largest) for name, value in pairs}


class _Called(nn.Module):
    def __init__(self, model: nn.Module, call: Callable[[Any], Tensors]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self) -> Tensors:
        return self.call(self.model)


def relative(found: Tensor, wanted: Tensor, largest: float | None = None) -> float:
    """The largest difference, relative to the largest value of what is wanted, or to ``largest``."""
    assert found.shape == wanted.shape, f"shape {tuple(found.shape)}, but the file has {tuple(wanted.shape)}"
    found, wanted = found.detach().double(), wanted.double()
    largest = float(wanted.abs().max()) if largest is None else largest
    return float((found - wanted).abs().max()) / max(largest, 1e-12)


def from_haiku(model: nn.Module, parameters: Mapping[str, Tensor], names: Mapping[str, str]) -> Tensors:
    """The state of a model from Haiku's parameters; ``names`` maps modules or parameters, ours → theirs."""
    leaves = {nn.Linear: {"weight": "w", "bias": "b"}, nn.LayerNorm: {"weight": "scale", "bias": "offset"}}
    state: Tensors = {}
    for name, _ in model.named_parameters():
        if name in names:
            state[name] = parameters[names[name]]
            continue
        module, _, leaf = name.rpartition(".")
        if module in names:
            kind = type(model.get_submodule(module))
            value = parameters[f"{names[module]}/{leaves[kind][leaf]}"]
            state[name] = value.T if value.ndim == 2 else value
    return state
