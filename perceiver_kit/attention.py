"""Attention as the paper writes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from .attention_backends import KeyValues, Projections, attend, competing, weighted_sum
from .checks import check_callable, check_choice, check_positive, check_probability
from .errors import AssemblyError
from .initialisation import linear
from .masks import Mask, Masks
from .observing import Observed

# The least default width of keys that are narrower than their queries.
NARROW = 16

# Makes a module for rows of a width: see variants.py.
Make = Callable[[int], nn.Module]
# Turns queries or keys (b, heads, n, c) by the positions (b or 1, n) of their rows: see variants.Rotary.
Turn = Callable[[Tensor, Tensor], Tensor]
# Rows to read, or what ``key_values`` made of them.
Keys = Float[Tensor, "b n ck"] | KeyValues
# Which linear layers of attention have biases.
Biases = Literal["all", "output", "none"]


class Attention(Observed):
    """Multi-head attention: queries (b, m, cq) read rows (b, n, ck) by softmax(q kᵀ / √c) v; the output is (b, m, cq).

    ``qk_channels`` is the width of q and k over all heads, ``v_channels`` that of v (default: ``qk_channels``). The
    default of ``qk_channels`` is ``key_channels``, as published, but at least 16, or ``query_channels`` if that is
    less: three channels could not be divided among heads. Queries of batch 1 serve every sample. With ``kv_heads``
    fewer than ``heads``, consecutive heads of queries share keys and values (grouped-query attention). ``qk_norm``
    makes a norm of the channels of each head of q, and one of k (``variants.py``). ``bias`` says which linear layers
    have biases: ``"all"``, ``"output"`` alone, or ``"none"``.

    ``mask`` is True where a row may be read: (b, n), or for each query (b, m, n), or (1, m, n) for the whole batch.
    With ``causal=True`` the last query is aligned with the last row: query i reads rows 0 to n - m + i, so m queries
    may be the last m of n rows. ``query_mask`` (b, m) is True where a query reads at all. The three combine. Masked
    rows have weight zero; a query that may read nothing has a weighted sum of zero (before the output projection).

    ``positions`` turns queries and keys by their positions, (m,) to (b, m) and (n,) to (b, n) at the call; by default
    rows are counted from 0 and the last query is aligned with the last row. ``keys`` may be ``key_values`` of rows, so
    that rows which are read again are projected once.

    With ``compete`` the softmax is taken over the queries first, as in slot attention: queries compete for rows, and
    each query's shares are then normalised over its rows. The queries of diffuse attention all read the average row;
    competing ones cannot.

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
        kv_heads: int | None = None,
        qk_norm: Make | None = None,
        bias: Biases = "all",
        compete: bool = False,
        dropout: float = 0.0,
        positions: Turn | None = None,
    ) -> None:
        super().__init__()
        check_positive("attention", query_channels=query_channels, key_channels=key_channels, heads=heads)
        qk_channels = _default_width(query_channels, key_channels, heads) if qk_channels is None else qk_channels
        v_channels = qk_channels if v_channels is None else v_channels
        kv_heads = heads if kv_heads is None else kv_heads
        check_positive("attention", kv_heads=kv_heads, qk_channels=qk_channels, v_channels=v_channels)
        check_probability("attention", dropout=dropout)
        check_callable("attention", qk_norm=qk_norm, positions=positions)
        check_choice("attention", "bias", bias, ("all", "output", "none"))
        for name, width in (("qk_channels", qk_channels), ("v_channels", v_channels)):
            if width % heads:
                raise AssemblyError(f"attention: {name} {width} must be divisible by its {heads} heads")
        if heads % kv_heads:
            raise AssemblyError(f"attention: its {heads} heads must be divisible by kv_heads {kv_heads}")
        self.heads, self.kv_heads, self.dropout, self.positions = heads, kv_heads, dropout, positions
        self.compete = compete
        qk, v = qk_channels // heads, v_channels // heads
        self.scale = 1 / math.sqrt(qk)
        self.query = linear(query_channels, qk_channels, bias=bias == "all")
        self.key = linear(key_channels, qk * kv_heads, bias=bias == "all")
        self.value = linear(key_channels, v * kv_heads, bias=bias == "all")
        self.output = linear(v_channels, query_channels, bias=bias != "none")
        self.query_norm: nn.Module = qk_norm(qk) if qk_norm else nn.Identity()
        self.key_norm: nn.Module = qk_norm(qk) if qk_norm else nn.Identity()
        # Whether scores are products of the linear layers alone, so that they may be associated either way.
        self.mergeable = kv_heads == heads and qk_norm is None and positions is None and not compete

    def weights(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Keys,
        mask: Mask | None = None,
        *,
        query_mask: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
        query_positions: Shaped[Tensor, "*#b m"] | None = None,
        key_positions: Shaped[Tensor, "*#b n"] | None = None,
    ) -> Float[Tensor, "b heads m n"]:
        """The attention map softmax(q kᵀ / √c): how much each query reads of each row, without dropout."""
        masks = Masks(mask, query_mask, causal)
        q, (k, _) = self._projected(queries, keys, masks, query_positions, key_positions)
        scores = self.scale * einsum(q, k, "b heads m c, b heads n c -> b heads m n")
        readable = masks.readable(queries, rows_of(keys))
        if readable is None:
            return scores.softmax(-1)
        readable = rearrange(readable, "b m n -> b 1 m n")
        # The lowest finite score, not -inf: a query that may read nothing would otherwise be NaN.
        return scores.masked_fill(~readable, torch.finfo(scores.dtype).min).softmax(-1) * readable

    def formula(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Keys,
        mask: Mask | None = None,
        *,
        query_mask: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
        query_positions: Shaped[Tensor, "*#b m"] | None = None,
        key_positions: Shaped[Tensor, "*#b n"] | None = None,
    ) -> Float[Tensor, "b m cq"]:
        """Attention by its definition, one line for each step."""
        options: dict[str, Any] = dict(query_positions=query_positions, key_positions=key_positions)
        weights = self.weights(queries, keys, mask, query_mask=query_mask, causal=causal, **options)
        weights = F.dropout(weights, self.dropout, self.training)
        v = (keys if isinstance(keys, KeyValues) else self.key_values(keys, key_positions)).value
        read = einsum(weights, v, "b heads m n, b heads n c -> b heads m c")
        return self.output(rearrange(read, "b heads m c -> b m (heads c)"))

    def forward(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Keys,
        mask: Mask | None = None,
        *,
        query_mask: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
        query_positions: Shaped[Tensor, "*#b m"] | None = None,
        key_positions: Shaped[Tensor, "*#b n"] | None = None,
    ) -> Float[Tensor, "b m cq"]:
        """Equal to ``formula`` within rounding."""
        masks = Masks(mask, query_mask, causal).checked(queries, rows_of(keys))
        dropout = self.dropout if self.training else 0.0
        if isinstance(keys, Tensor) and self.mergeable:
            layers = Projections(self.query, self.key, self.value, self.output)
            return attend(queries, keys, masks, layers, heads=self.heads, scale=self.scale, dropout=dropout)
        q, (k, v) = self._projected(queries, keys, masks, query_positions, key_positions)
        read = weighted_sum(q, k, v, masks=masks, scale=self.scale, dropout=dropout)
        return self.output(rearrange(read, "b heads m c -> b m (heads c)"))

    def key_values(
        self, keys: Float[Tensor, "b n ck"], key_positions: Shaped[Tensor, "*#b n"] | None = None
    ) -> KeyValues:
        """Rows as this attention reads them, for ``forward`` in their place."""
        if key_positions is None:
            key_positions = torch.arange(keys.shape[1], device=keys.device)
        k = rearrange(self.key(keys), "b n (kv c) -> b kv n c", kv=self.kv_heads)
        v = rearrange(self.value(keys), "b n (kv c) -> b kv n c", kv=self.kv_heads)
        k = self._turned(self.key_norm(k), key_positions)
        return KeyValues(*(repeat(x, "b kv n c -> b (kv g) n c", g=self.heads // self.kv_heads) for x in (k, v)))

    def _projected(
        self,
        queries: Tensor,
        keys: Keys,
        masks: Masks,
        query_positions: Tensor | None,
        key_positions: Tensor | None,
    ) -> tuple[Float[Tensor, "#b heads m e"], KeyValues]:
        read = keys if isinstance(keys, KeyValues) else self.key_values(keys, key_positions)
        if query_positions is None:
            m, n = queries.shape[1], read.key.shape[-2]
            query_positions = torch.arange(n - m, n, device=queries.device)
        q = rearrange(self.query(queries), "b m (heads c) -> b heads m c", heads=self.heads)
        q = self._turned(self.query_norm(q), query_positions)
        if self.compete:
            q, key = competing(q, read.key, masks, self.scale)
            read = read._replace(key=key)
        return q, read

    def _turned(self, rows: Float[Tensor, "b heads n e"], positions: Tensor) -> Float[Tensor, "b2 heads n e"]:
        return rows if self.positions is None else self.positions(rows, rearrange(positions, "... n -> (...) n"))


def rows_of(keys: Keys) -> Float[Tensor, "b n c"]:
    """Rows; of projected ones a tensor without channels, which has their number and batch."""
    return keys.rows() if isinstance(keys, KeyValues) else keys


def _default_width(query_channels: int, key_channels: int, heads: int) -> int:
    least = min(query_channels, NARROW)
    return key_channels if key_channels >= least else heads * math.ceil(least / heads)
