"""Other norms and MLPs for the layers, and rotary positions. A spec can hold each.

Any callable from a width to a module does for ``norm=`` and ``mlp=``, and any (rows (b, heads, n, c), positions (b or
1, n)) → rows for ``positions=``. A model has a spec only with registered ones.

>>> layer = SelfAttentionLayer(32, norm=variants.RMSNorm(), mlp=variants.GatedMLP(4, activation="silu"))
>>> layer(torch.randn(2, 5, 32)).shape
torch.Size([2, 5, 32])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .activations import Activation
from .block import Settings
from .checking import check_choice, check_number, check_probability
from .layers import MLP
from .registry import register


@register("variants")
@dataclass(frozen=True)
class LayerNorm(Settings):
    """A layer norm with another ``eps``, or without biases.

    >>> variants.LayerNorm(bias=False)(32).bias is None
    True
    """

    eps: float = 1e-5
    bias: bool = True

    def __call__(self, channels: int) -> nn.Module:
        return nn.LayerNorm(channels, eps=self.eps, bias=self.bias)


@register("variants")
@dataclass(frozen=True)
class RMSNorm(Settings):
    """Channels divided by their root mean square, times a learned scale.

    >>> variants.RMSNorm()(32)
    RMSNorm((32,), eps=1e-06, elementwise_affine=True)
    """

    eps: float = 1e-6

    def __call__(self, channels: int) -> nn.Module:
        return nn.RMSNorm(channels, eps=self.eps)


@register("variants")
@dataclass(frozen=True)
class NoNorm(Settings):
    """Rows as they are.

    >>> variants.NoNorm()(32)
    Identity()
    """

    def __call__(self, channels: int) -> nn.Module:
        return nn.Identity()


@register("variants")
@dataclass(frozen=True)
class PlainMLP(Settings):
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
class GatedMLP(Settings):
    """An MLP whose hidden channels are multiplied by as many activated ones: GEGLU, or SwiGLU with ``"silu"``.

    >>> variants.GatedMLP(4)(8)[0]
    Linear(in_features=8, out_features=64, bias=True)
    """

    widening: int = 4
    activation: Activation = "gelu"
    bias: bool = True

    def __call__(self, channels: int) -> nn.Module:
        return MLP(channels, widening=self.widening, activation=self.activation, bias=self.bias, gated=True)


@register("variants")
@dataclass(frozen=True)
class Rotary(Settings):
    """Rotary positions: pairs of neighbouring channels of a head are turned by angles that grow with the position.

    A score then depends on the distance of query and key alone. ``fraction`` of each head's channels are turned, in
    ``head_fraction`` of the heads, the first ones. Pair j of m turns by position / wavelength radians, where the
    wavelength grows from 1 to ``max_wavelength``, the last included, as max_wavelength^(j / (m - 1)). With
    ``spacing="open"`` the end is not included, max_wavelength^(j / m), as other models have it.

    Source: Perceiver AR (Hawthorne et al. 2022), google-research/perceiver-ar; RoFormer (Su et al. 2021) for "open".

    >>> layer = SelfAttentionLayer(32, heads=4, positions=variants.Rotary(max_wavelength=2048.0))
    >>> layer(torch.randn(2, 5, 32), row_positions=torch.arange(7, 12)).shape
    torch.Size([2, 5, 32])
    """

    max_wavelength: float = 10_000.0
    fraction: float = 0.5
    head_fraction: float = 1.0
    spacing: Literal["closed", "open"] = "closed"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("Rotary", above=0.0, max_wavelength=self.max_wavelength)
        check_probability("Rotary", fraction=self.fraction, head_fraction=self.head_fraction)
        check_choice("Rotary", "spacing", self.spacing, ("closed", "open"))

    def __call__(
        self, rows: Float[Tensor, "b heads n c"], positions: Shaped[Tensor, "#b2 n"]
    ) -> Float[Tensor, "b3 heads n c"]:
        heads, pairs = int(self.head_fraction * rows.shape[1]), int(rows.shape[-1] * self.fraction / 2)
        # Angles of long contexts are thousands of radians: float32 at least.
        exact = torch.promote_types(rows.dtype, torch.float32)
        steps = torch.arange(pairs, dtype=exact, device=rows.device)
        steps = steps / max(pairs - 1, 1) if self.spacing == "closed" else steps / max(pairs, 1)
        angles = rearrange(positions.to(exact), "b n -> b 1 n 1") * self.max_wavelength**-steps
        cos, sin = angles.cos().to(rows.dtype), angles.sin().to(rows.dtype)
        pair = rearrange(rows[:, :heads, :, : 2 * pairs], "b heads n (pairs two) -> two b heads n pairs", two=2)
        turned = [pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin]
        turned = rearrange(turned, "two b heads n pairs -> b heads n (pairs two)")
        rows = rows.expand(turned.shape[0], -1, -1, -1)
        turned = torch.cat([turned, rows[:, :heads, :, 2 * pairs :]], -1)
        return torch.cat([turned, rows[:, heads:]], 1)
