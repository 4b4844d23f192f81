"""Other norms and MLPs for the layers. A variant makes a module for a width, and a spec can hold it.

Any callable from a width to a module does for ``norm=`` and ``mlp=``. A model has a spec only with registered ones.

>>> layer = SelfAttentionLayer(32, norm=variants.RMSNorm(), mlp=variants.GatedMLP(4, activation="silu"))
>>> layer(torch.randn(2, 5, 32)).shape
torch.Size([2, 5, 32])
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from torch import nn

from .activations import Activation
from .attention import MLP
from .block import check_flags
from .registry import register


class _Checked:
    """A dataclass whose flags are bools."""

    def __post_init__(self) -> None:
        check_flags(type(self).__name__, inspect.signature(type(self)), vars(self))


@register("variants")
@dataclass(frozen=True)
class LayerNorm(_Checked):
    """A layer norm with another ``eps``, or without biases.

    >>> variants.LayerNorm(bias=False)(32)
    LayerNorm((32,), eps=1e-05, elementwise_affine=True)
    """

    eps: float = 1e-5
    bias: bool = True

    def __call__(self, channels: int) -> nn.Module:
        return nn.LayerNorm(channels, eps=self.eps, bias=self.bias)


@register("variants")
@dataclass(frozen=True)
class RMSNorm:
    """Channels divided by their root mean square, times a learned scale.

    >>> variants.RMSNorm()(32)
    RMSNorm((32,), eps=1e-06, elementwise_affine=True)
    """

    eps: float = 1e-6

    def __call__(self, channels: int) -> nn.Module:
        return nn.RMSNorm(channels, eps=self.eps)


@register("variants")
@dataclass(frozen=True)
class PlainMLP(_Checked):
    """The MLP of the layers, with or without biases.

    >>> variants.PlainMLP(4, bias=False)(8)[0]
    Linear(in_features=8, out_features=32, bias=False)
    """

    widening: int = 4
    activation: Activation = "gelu"
    bias: bool = True

    def __call__(self, channels: int) -> nn.Module:
        return MLP(channels, widening=self.widening, activation=self.activation, bias=self.bias)


@register("variants")
@dataclass(frozen=True)
class GatedMLP(_Checked):
    """An MLP whose hidden channels are multiplied by as many activated ones: GEGLU, or SwiGLU with ``"silu"``.

    >>> variants.GatedMLP(4)(8)[0]
    Linear(in_features=8, out_features=64, bias=True)
    """

    widening: int = 4
    activation: Activation = "gelu"
    bias: bool = True

    def __call__(self, channels: int) -> nn.Module:
        return MLP(channels, widening=self.widening, activation=self.activation, bias=self.bias, gated=True)
