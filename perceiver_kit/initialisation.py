"""Initial weights: linear layers by fan-in, as in the original code; tables of embeddings at deviation 0.02.

Fan-in scaling trains far better from scratch than a fixed 0.02 for everything: a small pixel Perceiver on 4,000
digits reached 90 % held-out accuracy against 31 % in equal time.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange, repeat
from torch import nn

from .checking import check_elements

# Standard deviation of a standard normal truncated at ±2.
_TRUNCATED = 0.87962566103423978


class _Undrawn(nn.Linear):
    """A linear layer before its weights are drawn. ``torch.nn.utils.skip_init`` would import sympy, which takes 1 s."""

    def reset_parameters(self) -> None:
        pass


def linear(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Linear:
    """A linear layer with truncated-normal weights of variance 1 / fan-in and zero biases."""
    check_elements("linear layer", in_channels, out_channels)
    layer: nn.Linear = _Undrawn(in_channels, out_channels, bias=bias)
    layer.__class__ = nn.Linear  # type: ignore[assignment]
    scale_by_fan_in(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def scale_by_fan_in(weight: torch.Tensor) -> None:
    """Fill a weight (out, in, …) from a truncated normal of variance 1 / fan-in."""
    _truncated_normal(weight, math.sqrt(1 / weight[0].numel()) / _TRUNCATED)


def deviation_by_rows(rows: int) -> float:
    """The ``deviation`` of ``learned`` that gives a table variance 1 / rows, as variance scaling does in JAX."""
    return math.sqrt(1 / rows) / _TRUNCATED


def learned(*shape: int, deviation: float = 0.02) -> nn.Parameter:
    """A learned table (latents, positions, queries, tokens): a normal of ``deviation``, truncated at two of them."""
    check_elements("learned parameter", *shape)
    parameter = nn.Parameter(torch.empty(shape))
    _truncated_normal(parameter, deviation)
    return parameter


def sines(grid: tuple[int, ...], channels: int, *, deviation: float = 0.02) -> nn.Parameter:
    """A learned table (positions, channels) that starts as sines and cosines along each axis of a grid.

    Frequencies are spaced logarithmically, from half a period per step to half a period per axis. Neighbouring
    positions start similar, and a step along an axis is the same linear map everywhere.

    >>> sines((28, 28), 64).shape
    torch.Size([784, 64])
    """
    if torch.get_default_device().type == "meta":  # kernels of this device would import torch._dynamo: 2 s
        return nn.Parameter(torch.empty(math.prod(grid), channels))
    waves = -(-channels // (2 * len(grid)))
    columns = []
    for axis, size in enumerate(grid):
        steps = torch.arange(size, dtype=torch.float32)[:, None]
        phases = steps * torch.logspace(0, -math.log10(max(size, 2)), waves, dtype=torch.float32) * math.pi
        columns.append(spread(torch.stack([phases.sin(), phases.cos()], dim=-1), axis, grid))
    # Axes alternate along the channels, so that cutting to ``channels`` takes equally from each.
    table = rearrange(columns, "axes ... waves pair -> (...) (waves axes pair)")[:, :channels]
    return nn.Parameter((table * (deviation * math.sqrt(2))).to(torch.get_default_dtype()))


def spread(table: torch.Tensor, axis: int, grid: tuple[int, ...]) -> torch.Tensor:
    """The table of one axis, (size, …), repeated over the other axes of a grid, without a copy.

    >>> spread(torch.zeros(4, 8), 1, (3, 4)).shape
    torch.Size([3, 4, 8])
    """
    names = [f"n{i}" for i in range(len(grid))]
    others = {name: size for i, (name, size) in enumerate(zip(names, grid, strict=True)) if i != axis}
    return repeat(table, f"{names[axis]} ... -> {' '.join(names)} ...", **others)


@torch.no_grad()
def _truncated_normal(tensor: torch.Tensor, deviation: float) -> None:
    # By the inverse distribution function: ten times faster than torch's rejection sampling, which takes half a minute
    # for the 200 million weights of the language models.
    if tensor.is_meta:
        return
    edge = math.erf(math.sqrt(2))
    tensor.uniform_(-edge, edge).erfinv_().mul_(deviation * math.sqrt(2))
