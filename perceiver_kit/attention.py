"""Attention as the paper writes it, and the two layers made of it: cross-attention and self-attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .activations import Activation, Gate, make_activation
from .attention_backends import Projections, attend, checkpointed_mlp
from .checks import check_flag, check_positive, check_probability
from .errors import AssemblyError, InputError
from .initialisation import linear
from .masks import Mask, Masks, for_all
from .observing import Observed

# Makes a module for rows of a width: see variants.py.
# The least default width of keys that are narrower than their queries.
NARROW = 16

Make = Callable[[int], nn.Module]


class Attention(Observed):
    """Multi-head attention: queries (b, m, cq) read rows (b, n, ck) by softmax(q kᵀ / √c) v; the output is (b, m, cq).

    ``qk_channels`` is the width of q and k over all heads, ``v_channels`` that of v (default: ``qk_channels``). The
    default of ``qk_channels`` is ``key_channels``, as published, but at least 16, or ``query_channels`` if that is
    less: three channels could not be divided among heads. Queries of batch 1 serve every sample.

    ``mask`` is True where a row may be read: (b, n), or for each query (b, m, n), or (1, m, n) for the whole batch.
    With ``causal=True`` the last query is aligned with the last row: query i reads rows 0 to n - m + i, so m queries
    may be the last m of n rows. ``query_mask`` (b, m) is True where a query reads at all. The three combine. Masked
    rows have weight zero; a query that may read nothing has a weighted sum of zero (before the output projection).

    ``formula`` is the definition. ``forward`` computes the same faster (``attention_backends.py``).

    Source: Perceiver IO (Jaegle et al. 2022), appendix E.

    >>> attention = Attention(16, 32, heads=4, v_channels=8)
    >>> attention(torch.zeros(1, 5, 16), torch.randn(2, 7, 32)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        query_channels: int,
        key_channels: int,
        *,
        heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_positive("attention", query_channels=query_channels, key_channels=key_channels, heads=heads)
        qk_channels = _default_width(query_channels, key_channels, heads) if qk_channels is None else qk_channels
        v_channels = qk_channels if v_channels is None else v_channels
        check_positive("attention", qk_channels=qk_channels, v_channels=v_channels)
        check_probability("attention", dropout=dropout)
        for name, width in (("qk_channels", qk_channels), ("v_channels", v_channels)):
            if width % heads:
                raise AssemblyError(f"attention: {name} {width} must be divisible by its {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.scale = 1 / math.sqrt(qk_channels // heads)
        self.query = linear(query_channels, qk_channels)
        self.key = linear(key_channels, qk_channels)
        self.value = linear(key_channels, v_channels)
        self.output = linear(v_channels, query_channels)

    def weights(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Float[Tensor, "b n ck"],
        mask: Mask | None = None,
        *,
        query_mask: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b heads m n"]:
        """The attention map softmax(q kᵀ / √c): how much each query reads of each row, without dropout."""
        q = rearrange(self.query(queries), "b m (heads c) -> b heads m c", heads=self.heads)
        k = rearrange(self.key(keys), "b n (heads c) -> b heads n c", heads=self.heads)
        scores = self.scale * einsum(q, k, "b heads m c, b heads n c -> b heads m n")
        readable = Masks(mask, query_mask, causal).readable(queries, keys)
        if readable is None:
            return scores.softmax(-1)
        readable = rearrange(readable, "b m n -> b 1 m n")
        # The lowest finite score, not -inf: a query that may read nothing would otherwise be NaN.
        return scores.masked_fill(~readable, torch.finfo(scores.dtype).min).softmax(-1) * readable

    def formula(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Float[Tensor, "b n ck"],
        mask: Mask | None = None,
        *,
        query_mask: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b m cq"]:
        """Attention by its definition, one line for each step."""
        weights = self.weights(queries, keys, mask, query_mask=query_mask, causal=causal)
        weights = F.dropout(weights, self.dropout, self.training)
        v = rearrange(self.value(keys), "b n (heads c) -> b heads n c", heads=self.heads)
        read = einsum(weights, v, "b heads m n, b heads n c -> b heads m c")
        return self.output(rearrange(read, "b heads m c -> b m (heads c)"))

    def forward(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Float[Tensor, "b n ck"],
        mask: Mask | None = None,
        *,
        query_mask: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b m cq"]:
        """Equal to ``formula`` within rounding."""
        masks = Masks(mask, query_mask, causal).checked(queries, keys)
        layers = Projections(self.query, self.key, self.value, self.output)
        dropout = self.dropout if self.training else 0.0
        return attend(queries, keys, masks, layers, heads=self.heads, scale=self.scale, dropout=dropout)


class MLP(nn.Sequential):
    """Each row by itself: widen, activation, narrow. ``gated``: twice as wide, one half multiplies the other.

    >>> MLP(32, widening=4)(torch.randn(2, 5, 32)).shape
    torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        widening: int = 1,
        activation: Activation = "gelu",
        gated: bool = False,
        bias: bool = True,
    ) -> None:
        check_flag("MLP", gated=gated, bias=bias)
        check_positive("MLP", channels=channels, widening=widening)
        middle = make_activation("MLP", activation)
        super().__init__(
            linear(channels, widening * channels * (2 if gated else 1), bias=bias),
            Gate(middle) if gated else middle,
            linear(widening * channels, channels, bias=bias),
        )


class CrossAttentionLayer(Observed):
    """Queries (b, m, cq) read rows (b, n, ck); an MLP follows. Both have a layer norm before and a residual around.

    With ``query_residual=False`` the attention output replaces the queries instead of being added to them. Masks are
    those of ``Attention``. The content of rows that no query may read, even NaN, never changes the result. Queries of
    batch 1 serve every sample. ``norm`` and ``mlp`` make another norm and MLP (``variants.py``); an ``mlp`` replaces
    ``widening`` and ``activation``.

    >>> CrossAttentionLayer(16, 32)(torch.zeros(1, 5, 16), torch.randn(2, 7, 32)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        query_channels: int,
        key_channels: int,
        *,
        heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        query_residual: bool = True,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        activation: Activation = "gelu",
        norm: Make | None = None,
        mlp: Make | None = None,
    ) -> None:
        super().__init__()
        check_flag("CrossAttentionLayer", query_residual=query_residual)
        self.query_residual = query_residual
        norm = norm or nn.LayerNorm
        self.query_norm: Any = norm(query_channels)
        self.key_norm: Any = norm(key_channels)
        _check_carries("CrossAttentionLayer", query_channels=self.query_norm, key_channels=self.key_norm)
        self.attention = Attention(
            query_channels, key_channels, heads=heads, qk_channels=qk_channels, v_channels=v_channels, dropout=dropout
        )
        self.dropout = residual_drop(residual_dropout)
        self.mlp_norm = norm(query_channels)
        self.mlp: Any = mlp(query_channels) if mlp else MLP(query_channels, widening=widening, activation=activation)

    def forward(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Float[Tensor, "b n ck"],
        mask: Mask | None = None,
        *,
        query_mask: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "b m cq"]:
        if keys.shape[1] == 0 or queries.shape[1] == 0:
            raise InputError(f"attention of {queries.shape[1]} queries over {keys.shape[1]} rows: neither may be empty")
        Masks(mask, query_mask, causal).checked(queries, keys)
        if mask is not None:
            # Zero masked rows before the norm: a NaN in them would give NaN gradients.
            keys = torch.where(rearrange(for_all(mask), "b n -> b n 1"), keys, 0)
        read = self.attention(self.query_norm(queries), self.key_norm(keys), mask, query_mask=query_mask, causal=causal)
        rows = self.dropout(read)
        if self.query_residual:
            rows = queries + rows
        return rows + self.dropout(checkpointed_mlp(self.mlp_norm, self.mlp, rows))


class SelfAttentionLayer(Observed):
    """Rows (b, m, d) read each other; an MLP follows. Both have a layer norm before and a residual around.

    ``mask`` is (b, m), or (1, m, m) or (b, m, m) with an entry for each reading row and each read one; with
    ``causal=True`` each row reads itself and those before it. A masked row is not read, but reads. ``norm`` and
    ``mlp`` are as in ``CrossAttentionLayer``.

    >>> SelfAttentionLayer(32, heads=8)(torch.randn(2, 5, 32)).shape
    torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        activation: Activation = "gelu",
        norm: Make | None = None,
        mlp: Make | None = None,
    ) -> None:
        super().__init__()
        norm = norm or nn.LayerNorm
        self.norm = norm(channels)
        _check_carries("SelfAttentionLayer", channels=self.norm)
        self.attention = Attention(
            channels, channels, heads=heads, qk_channels=qk_channels, v_channels=v_channels, dropout=dropout
        )
        self.dropout = residual_drop(residual_dropout)
        self.mlp_norm = norm(channels)
        self.mlp = mlp(channels) if mlp else MLP(channels, widening=widening, activation=activation)

    def forward(
        self, rows: Float[Tensor, "b m d"], mask: Mask | None = None, *, causal: bool = False
    ) -> Float[Tensor, "b m d"]:
        Masks(mask, causal=causal).checked(rows, rows)
        normed = keys = self.norm(rows)
        if mask is not None:
            keys = torch.where(rearrange(for_all(mask), "b m -> b m 1"), keys, 0)
        rows = rows + self.dropout(self.attention(normed, keys, mask, causal=causal))
        return rows + self.dropout(checkpointed_mlp(self.mlp_norm, self.mlp, rows))


def residual_drop(probability: float) -> nn.Module:
    """Dropout on a layer's output before it is added; the identity for a probability of zero."""
    check_probability("residual", dropout=probability)
    return nn.Dropout(probability) if probability else nn.Identity()


def _default_width(query_channels: int, key_channels: int, heads: int) -> int:
    least = min(query_channels, NARROW)
    return key_channels if key_channels >= least else heads * math.ceil(least / heads)


def _check_carries(owner: str, /, **norms: nn.Module) -> None:
    """Raise AssemblyError for a layer norm of one channel: its output is the same for every input."""
    for name, norm in norms.items():
        if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (1,):
            raise AssemblyError(
                f"{owner}: {name} must be at least 2, got 1: a layer norm of one channel gives the same for all "
                "values; add positions, or padding by Inputs(min_padding=8) or Queries(min_padding=8)"
            )
