"""Multi-head attention as Perceiver IO defines it."""

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
from .checking import check_callable, check_choice, check_flag, check_positive, check_probability
from .errors import AssemblyError
from .initialisation import linear
from .masks import Mask, Masks
from .observing import Observed

# For rows of few channels, the least default width of q and k (see ``Attention``).
MIN_WIDTH = 16

# A function from a number of channels to a module, such as a norm or an MLP: see variants.py.
Factory = Callable[[int], nn.Module]
# Rotates queries or keys (b, heads, n, c) by the positions (b or 1, n) of their rows: see variants.Rotary.
Rotate = Callable[[Tensor, Tensor], Tensor]
# The rows to read, or the result of ``key_values(rows)``.
Keys = Float[Tensor, "b n ck"] | KeyValues
# Which linear layers of attention have biases.
Biases = Literal["all", "output", "none"]


class Attention(Observed):
    """Multi-head attention: queries (b, m, cq) read rows (b, n, ck) by softmax(q kᵀ / √c) v; the output is (b, m, cq).

    q is a linear map of the queries, k and v are linear maps of the rows, and c is the width of one head.
    ``qk_channels`` is the width of q and k over all heads, ``v_channels`` the width of v (default: ``qk_channels``). By
    default ``qk_channels`` is ``key_channels``, as in the original code. Narrow rows are the exception: if
    ``key_channels`` is less than min(16, ``query_channels``), the default is that number, rounded up to a multiple of
    ``heads``. Queries with batch size 1 are used for every sample. With fewer ``kv_heads`` than ``heads``, consecutive
    heads of q share one head of k and v (grouped-query attention). ``qk_norm`` is a function that builds a norm for a
    width (``variants.py``): one norm is applied to each head of q, another to each head of k. ``bias`` says which
    linear layers have biases: ``"all"``, ``"output"`` only, or ``"none"``.

    ``mask`` is True where a row may be read: (b, n), or for each query (b, m, n), or (1, m, n) for the whole batch.
    With ``causal=True`` the last query is aligned with the last row: query i reads rows 0 to n - m + i, as if the m
    queries were the last m of the n rows. ``query_mask`` (b, m) is False for queries that read nothing. A query reads a
    row only if all three masks allow it. Masked rows have weight zero. The weighted sum of a query that may read
    nothing is zero (before the output projection).

    ``positions`` is a rotary position embedding of q and k (``variants.Rotary``). ``forward`` takes ``query_positions``
    (m,) or (b, m) and ``key_positions`` (n,) or (b, n); by default the rows have positions 0 to n - 1, the queries
    n - m to n - 1. Pass ``key_values(rows, key_positions)`` in place of the rows to project them once when they are
    read several times.

    With ``compete`` the queries compete for rows, as in slot attention: a softmax over the queries i divides row j into
    shares a[i, j], and query i gives row j the weight a[i, j] / Σₗ a[i, l]. Then queries differ in what they read.
    Without competition, queries whose weights are nearly uniform all read nearly the average row.

    ``formula`` is the definition. ``forward`` computes the same result, faster (``attention_backends.py``).

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
        qk_norm: Factory | None = None,
        bias: Biases = "all",
        compete: bool = False,
        dropout: float = 0.0,
        positions: Rotate | None = None,
    ) -> None:
        super().__init__()
        check_flag("attention", compete=compete)
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
                raise AssemblyError(f"attention: {name} {width} must be divisible by heads {heads}")
        if heads % kv_heads:
            raise AssemblyError(f"attention: heads {heads} must be divisible by kv_heads {kv_heads}")
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
        # Without grouped heads, norms, rotation or competition (x Wq)(y Wk)ᵀ = x (Wq Wkᵀ) yᵀ. Then both layers may be
        # applied to the side that has fewer rows: see attention_backends.py.
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
        """The attention map: the weight of each row for each query, with masks, without dropout."""
        masks = Masks(mask, query_mask, causal)
        q, (k, _) = self._projected(queries, keys, masks, query_positions, key_positions)
        scores = self.scale * einsum(q, k, "b heads m c, b heads n c -> b heads m n")
        readable = masks.readable(queries, rows_of(keys))
        if readable is None:
            return scores.softmax(-1)
        readable = rearrange(readable, "b m n -> b 1 m n")
        # Masked scores are the lowest finite number: with -inf, a query that may read nothing would have NaN weights.
        # This way its weights are uniform, and the product with ``readable`` sets them to zero.
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
        """The definition: ``weights``, dropout, weighted sum, output projection."""
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
        """Compute ``formula`` faster; the results differ by rounding only."""
        masks = Masks(mask, query_mask, causal).checked(queries, rows_of(keys))
        dropout = self.dropout if self.training else 0.0
        if isinstance(keys, Tensor) and self.mergeable:  # ``attend`` chooses the cheapest order of matrix products
            layers = Projections(self.query, self.key, self.value, self.output)
            return attend(queries, keys, masks, layers, heads=self.heads, scale=self.scale, dropout=dropout)
        q, (k, v) = self._projected(queries, keys, masks, query_positions, key_positions)
        read = weighted_sum(q, k, v, masks=masks, scale=self.scale, dropout=dropout)
        return self.output(rearrange(read, "b heads m c -> b m (heads c)"))

    def key_values(
        self, keys: Float[Tensor, "b n ck"], key_positions: Shaped[Tensor, "*#b n"] | None = None
    ) -> KeyValues:
        """Project rows to keys and values, which ``forward`` takes in place of the rows."""
        if key_positions is None:
            key_positions = torch.arange(keys.shape[1], device=keys.device)
        k = rearrange(self.key(keys), "b n (kv c) -> b kv n c", kv=self.kv_heads)
        v = rearrange(self.value(keys), "b n (kv c) -> b kv n c", kv=self.kv_heads)
        k = self._rotated(self.key_norm(k), key_positions)
        return KeyValues(*(repeat(x, "b kv n c -> b (kv g) n c", g=self.heads // self.kv_heads) for x in (k, v)))

    def _projected(
        self,
        queries: Tensor,
        keys: Keys,
        masks: Masks,
        query_positions: Tensor | None,
        key_positions: Tensor | None,
    ) -> tuple[Float[Tensor, "#b heads m e"], KeyValues]:
        kv = keys if isinstance(keys, KeyValues) else self.key_values(keys, key_positions)
        if query_positions is None:
            m, n = queries.shape[1], kv.key.shape[-2]
            query_positions = torch.arange(n - m, n, device=queries.device)
        q = rearrange(self.query(queries), "b m (heads c) -> b heads m c", heads=self.heads)
        q = self._rotated(self.query_norm(q), query_positions)
        if self.compete:  # one more channel of q and k subtracts log Σᵢ exp(score), over queries, from a row's scores
            q, key = competing(q, kv.key, masks, self.scale)
            kv = kv._replace(key=key)
        return q, kv

    def _rotated(self, rows: Float[Tensor, "b heads n e"], positions: Tensor) -> Float[Tensor, "b2 heads n e"]:
        return rows if self.positions is None else self.positions(rows, rearrange(positions, "... n -> (...) n"))


def rows_of(keys: Keys) -> Float[Tensor, "b n c"]:
    """The rows. For projected keys and values: a tensor (b, n, 0), for checks of batch size and number of rows."""
    return keys.rows() if isinstance(keys, KeyValues) else keys


def _default_width(query_channels: int, key_channels: int, heads: int) -> int:
    minimum = min(query_channels, MIN_WIDTH)
    return key_channels if key_channels >= minimum else heads * math.ceil(minimum / heads)
