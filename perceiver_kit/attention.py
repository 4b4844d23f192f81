"""Attention between two sets of rows, and the two blocks made of it: cross-attend and self-attend."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention_backends import Kernel, plan, weighted_sum
from .checks import check_choice, check_positive, check_probability
from .errors import AssemblyError, InputError
from .initialisation import linear

Gelu = Literal["exact", "tanh"]

# Rows of so many bytes or more are worth computing again what is cheap, instead of holding it until the backward pass.
RECOMPUTE_MIN_BYTES = 2**21
again = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)


class Attention(nn.Module):
    """Multi-head attention from queries (b, m, cq) to keys and values (b, n, ck); the output is (b, m, cq).

    ``qk_channels`` is the width of queries and keys together over all heads, the width of the keys' side unless
    given; ``v_channels`` that of the values, ``qk_channels`` unless given. Queries of batch 1 serve every sample.
    A masked row is not read; where nothing may be read, the weighted sum is zero (before the output projection).

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
        qk_channels = key_channels if qk_channels is None else qk_channels
        v_channels = qk_channels if v_channels is None else v_channels
        check_positive("attention", heads=heads, qk_channels=qk_channels, v_channels=v_channels)
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

    def forward(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Float[Tensor, "b n ck"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b m cq"]:
        dropout = self.dropout if self.training else 0.0
        side, kernel = plan(
            queries.shape[1],
            keys.shape[1],
            query_channels=self.query.in_features,
            key_channels=self.key.in_features,
            qk_channels=self.query.out_features,
            v_channels=self.value.out_features,
            heads=self.heads,
            dropout=dropout,
            dtype=queries.dtype,
            device=queries.device,
        )
        if side == "queries":
            return self._projecting_queries(queries, keys, mask, kernel)
        if side == "keys":
            return self._projecting_keys(queries, keys, mask, kernel)
        # Without names, so that they are gone when the output is made.
        heads = (
            rearrange(rows, "b n (heads c) -> b heads n c", heads=self.heads)
            for rows in (self.query(queries), self.key(keys), self.value(keys))
        )
        read = weighted_sum(*heads, mask=mask, scale=self.scale, dropout=dropout, kernel=kernel)
        return self.output(rearrange(read, "b heads m c -> b m (heads c)"))

    def _projecting_queries(self, queries: Tensor, keys: Tensor, mask: Tensor | None, kernel: Kernel) -> Tensor:
        """Queries take on the keys' projection and rows are read raw; the values' projection follows the sum.

        The key bias adds one number to all scores of a query, which the softmax cancels: it only stays in the graph,
        since a parameter without a gradient stops distributed training. Weights sum to one, so the value bias is
        added after the sum, except where nothing may be read.
        """
        q = self.query(queries) @ self.key.weight
        rows = keys[:, None]
        read = self.value(weighted_sum(q[:, None], rows, rows, mask=mask, scale=self.scale, kernel=kernel)[:, 0])
        if mask is not None:
            read = torch.where(mask.any(-1)[:, None, None], read, 0)
        return keep_in_graph(self.output(read), self.key.bias)

    def _projecting_keys(self, queries: Tensor, keys: Tensor, mask: Tensor | None, kernel: Kernel) -> Tensor:
        """Keys take on the queries' projection, values the output's; queries are used raw.

        The query bias adds a number to all scores of a key, which does not cancel: it is a column of keys, beside a
        column of ones in the queries, because the fused kernel has no gradient for an additive mask.
        """
        k = self.key(keys)
        k = torch.cat([k @ self.query.weight, (k @ self.query.bias)[..., None]], -1)[:, None]
        v = F.linear(self.value(keys), self.output.weight)[:, None]
        q = F.pad(queries, (0, 1), value=1.0)[:, None]
        return weighted_sum(q, k, v, mask=mask, scale=self.scale, kernel=kernel)[:, 0] + self.output.bias


def keep_in_graph(rows: Tensor, *parameters: Tensor) -> Tensor:
    """The same rows, with parameters that do not change them kept in the graph: a zero gradient instead of none."""
    if not torch.is_grad_enabled():
        return rows
    return rows + sum(0.0 * parameter.sum() for parameter in parameters)


def mlp(channels: int, widening: int, gelu: Gelu) -> nn.Sequential:
    """Two linear layers with GELU between: exact, or jax's tanh approximation."""
    check_positive("feed-forward", channels=channels, widening=widening)
    check_choice("feed-forward", "gelu", gelu, ("exact", "tanh"))
    return nn.Sequential(
        linear(channels, widening * channels),
        nn.GELU(approximate="none" if gelu == "exact" else "tanh"),
        linear(widening * channels, channels),
    )


def checkpointed_mlp(norm: nn.Module, layers: nn.Module, rows: Float[Tensor, "b m c"]) -> Float[Tensor, "b m c"]:
    """``layers(norm(rows))``; in training, what is no product is not held for the backward pass but computed again.

    Each checkpoint ends with the product that needs what comes before it, which is all that is computed again. At
    published size an image's step of training holds 0.87 instead of 1.06 GiB and takes as long. Smaller rows are not
    worth it, and torch.func does not allow it.
    """
    plain = type(layers) is nn.Sequential and not (layers._forward_hooks or layers._forward_pre_hooks)
    large = torch.is_grad_enabled() and rows.numel() * rows.element_size() >= RECOMPUTE_MIN_BYTES
    if not (plain and large) or torch.compiler.is_compiling() or not _may_hold_hooks():
        return layers(norm(rows))
    widen, gelu, narrow = layers.children()
    hidden = again(lambda rows: widen(norm(rows)), rows)
    return again(lambda hidden: narrow(gelu(hidden)), hidden)


def _may_hold_hooks() -> bool:
    torch_c: Any = torch._C  # there is no public way to ask
    return torch_c._autograd._saved_tensors_hooks_is_enabled()


class CrossAttentionLayer(nn.Module):
    """Queries (b, m, cq) read rows (b, n, ck), then a feed-forward layer; both normalised first.

    Without ``query_residual`` the result is what was read, not added to the queries. What masked rows hold, even
    NaN, never matters. Queries of batch 1 serve every sample.

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
        gelu: Gelu = "exact",
    ) -> None:
        super().__init__()
        self.query_residual = query_residual
        self.query_norm, self.key_norm = nn.LayerNorm(query_channels), nn.LayerNorm(key_channels)
        self.attention = Attention(
            query_channels, key_channels, heads=heads, qk_channels=qk_channels, v_channels=v_channels, dropout=dropout
        )
        self.dropout = residual_drop(residual_dropout)
        self.mlp_norm = nn.LayerNorm(query_channels)
        self.mlp = mlp(query_channels, widening, gelu)

    def forward(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Float[Tensor, "b n ck"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b m cq"]:
        if keys.shape[1] == 0 or queries.shape[1] == 0:
            raise InputError(f"attention of {queries.shape[1]} queries over {keys.shape[1]} rows: neither may be empty")
        if mask is not None:
            # Before the norm: its gradient at a NaN would be NaN even for a weight of zero.
            keys = torch.where(mask[..., None], keys, 0)
        rows = self.dropout(self.attention(self.query_norm(queries), self.key_norm(keys), mask))
        if self.query_residual:
            rows = queries + rows
        return rows + self.dropout(checkpointed_mlp(self.mlp_norm, self.mlp, rows))


class SelfAttentionLayer(nn.Module):
    """Rows (b, m, d) read each other, then a feed-forward layer; both normalised first and added.

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
        gelu: Gelu = "exact",
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = Attention(
            channels, channels, heads=heads, qk_channels=qk_channels, v_channels=v_channels, dropout=dropout
        )
        self.dropout = residual_drop(residual_dropout)
        self.mlp_norm = nn.LayerNorm(channels)
        self.mlp = mlp(channels, widening, gelu)

    def forward(self, rows: Float[Tensor, "b m d"]) -> Float[Tensor, "b m d"]:
        normed = self.norm(rows)
        rows = rows + self.dropout(self.attention(normed, normed))
        return rows + self.dropout(checkpointed_mlp(self.mlp_norm, self.mlp, rows))


def residual_drop(probability: float) -> nn.Module:
    """Dropout of what a layer adds; nothing at all for a probability of zero."""
    check_probability("residual", dropout=probability)
    return nn.Dropout(probability) if probability else nn.Identity()
