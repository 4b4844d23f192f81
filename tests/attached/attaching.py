"""Adapters, hooks and parametrizations, put on the layers of a model."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..strategies import composite

LAYERS = (nn.Linear, nn.Conv2d, nn.Embedding)


class Wrapper(nn.Module):
    """A layer plus another of the same kind without bias, whose weight is ``delta``."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.delta = nn.Parameter(0.3 * torch.randn_like(base.weight))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, rows: Tensor) -> Tensor:
        base = self.base
        if isinstance(base, nn.Embedding):
            return base(rows) + F.embedding(rows, self.delta)
        if isinstance(base, nn.Linear):
            return base(rows) + F.linear(rows, self.delta)
        return base(rows) + F.conv2d(rows, self.delta, None, base.stride, base.padding, base.dilation, base.groups)


def wrap(model: nn.Module, name: str) -> Wrapper:
    """Put a wrapper in the place of a layer, wherever it is used."""
    layer = model.get_submodule(name)
    wrapper = Wrapper(layer)
    for alias in [alias for alias, other in model.named_modules(remove_duplicate=False) if other is layer]:
        model.set_submodule(alias, wrapper)
    return wrapper


@composite
def attach(draw: st.DrawFn, model: nn.Module) -> None:
    """Change some layers in place: hooks, adapters, parametrizations."""
    layers = [name for name, layer in model.named_modules() if isinstance(layer, (*LAYERS, nn.LayerNorm))]
    for name in draw(st.lists(st.sampled_from(layers), max_size=3, unique=True)) if layers else []:
        layer, kind = (
            model.get_submodule(name),
            draw(st.sampled_from(["hook", "pre-hook", "adapter", "parametrization"])),
        )
        if kind == "hook":
            layer.register_forward_hook(lambda module, args, output: 1.5 * output)
        elif kind == "pre-hook" and not isinstance(layer, nn.Embedding):
            layer.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))
        elif kind == "adapter" and not isinstance(layer, nn.LayerNorm):
            wrap(model, name)
        else:
            parametrize.register_parametrization(layer, "weight", Doubled())


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight
