"""Activations of the MLP by name, and the two that torch does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .checking import check_choice

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "squared_relu"]


class SquaredReLU(nn.Module):
    """max(x, 0)², of Perceiver AR and HiP.

    >>> SquaredReLU()(torch.tensor([-2.0, 3.0]))
    tensor([0., 9.])
    """

    def forward(self, rows: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        return F.relu(rows).square()


class Gate(nn.Module):
    """The first half of the channels times the activation of the second half.

    >>> Gate(SquaredReLU())(torch.tensor([[5.0, 6.0, 1.0, -1.0]]))
    tensor([[5., 0.]])
    """

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, rows: Float[Tensor, "*n c2"]) -> Float[Tensor, "*n c"]:
        values, gates = rearrange(rows, "... (half c) -> half ... c", half=2)
        return values * self.activation(gates)


_MADE: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "squared_relu": SquaredReLU,
}


def make_activation(owner: str, name: Activation) -> nn.Module:
    """The activation of that name: GELU exact or in the tanh approximation of JAX, ReLU, SiLU, squared ReLU."""
    check_choice(owner, "activation", name, get_args(Activation))
    return _MADE[name]()
