"""How attention is computed: one function decides, from what was measured; every way gives the same result."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Side = Literal["both", "queries", "keys"]
Kernel = Literal["fused", "tiled"]

# Scores that are in memory at one time in the tiled kernel, in bytes: a tile stays in the cache (1 to 16 MiB are
# within 10 % of each other, 32 MiB are 10 to 60 % slower). In training, scores up to MAX_SAVED_SCORE_BYTES are saved
# for the backward pass; larger ones are recomputed tile by tile.
TILE = 2**23
MAX_SAVED_SCORE_BYTES = 2**25
# Keys of one tile: with few queries over many keys, tiles of whole rows would read all keys again and again.
KEYS = 2048


class Plan(NamedTuple):
    """Which side's rows are projected, and by which kernel the weighted sum is computed."""

    side: Side
    kernel: Kernel


class SoftmaxState(NamedTuple):
    """Sums over some of the keys, in float32 at least: of weighted values, of weights, and which score has weight 1."""

    read: Float[Tensor, "b heads m f"]
    total: Float[Tensor, "b heads m 1"]
    top: Float[Tensor, "b heads m 1"]


def plan(
    m: int,
    n: int,
    *,
    query_channels: int,
    key_channels: int,
    qk_channels: int,
    v_channels: int,
    heads: int,
    dropout: float,
    dtype: torch.dtype,
    device: torch.device,
) -> Plan:
    """The quickest way for m queries over n keys. Nobody's wish for maps matters: ``capture`` computes its own.

    *Side.* With one head (x Wq)(y Wk)ᵀ = x (Wq Wkᵀ) yᵀ can be associated either way, and the output's weight joins
    the values' or not. Projecting only the short side saves the products with every row of the long one: 1.8 times
    fewer multiply-adds in the decoder of optical flow, 200 times in a classifier's. The counts decide.

    *Kernel.* See ``choose_kernel``. While a graph is traced, sizes may be symbols that must decide nothing.
    """
    if heads > 1 or dropout > 0 or torch.compiler.is_compiling():
        side, e, f = "both", qk_channels // heads, v_channels // heads
    else:
        cq, ck, qk, v = query_channels, key_channels, qk_channels, v_channels
        both = m * cq * qk + n * ck * (qk + v) + m * n * (qk + v) + m * v * cq
        queries = m * cq * qk + m * qk * ck + 2 * m * n * ck + m * ck * v + m * v * cq
        keys = n * ck * (qk + v) + n * qk * cq + n * v * cq + m * n * (2 * cq + 1)
        _, side = min((both, "both"), (queries, "queries"), (keys, "keys"))
        e, f = {"both": (qk, v), "queries": (ck, ck), "keys": (cq + 1, cq)}[side]
    return Plan(side, choose_kernel(e, f, dropout=dropout, dtype=dtype, device=device))


def choose_kernel(e: int, f: int, *, dropout: float, dtype: torch.dtype, device: torch.device) -> Kernel:
    """The kernel for heads of width ``e`` in queries and keys, ``f`` in values.

    ``"fused"`` is torch's, which holds no scores on any device. ``"tiled"`` is matmul, softmax, matmul in tiles.
    """
    # Elsewhere the fused kernels have all that the CPU's lacks. That is their documentation's word, not measured here.
    if device.type != "cpu" or torch.compiler.is_compiling():
        return "fused"
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    # The numbers below are GFLOP/s, fused against tiled, at published sizes on two threads of a Zen 4 whose matrix
    # products reach 190 in float32 and 420 in bfloat16 (torch 2.13).
    #
    # With dropout the fused kernel would hold all scores: 1.5 GB in each cross-attention of optical flow.
    if dropout > 0:
        return "tiled"
    # bfloat16: the fused kernel is no faster than in float32. Optical flow's decoder 184 : 348, encoder 173 : 278,
    # latents 127 : 174; latents of images 164 : 327, of text 80 : 247. In training, the decoder 144 : 250, the latents
    # of images 155 : 330, those of optical flow 127 : 106, the one loss.
    if dtype == torch.bfloat16:
        return "tiled"
    # Unequal widths: the fused kernel needs zeros in the narrower. Text, 32 and 160: 82 : 144, in training 72 : 142;
    # a folded video decoder, 198 and 1026: 87 : 159.
    if 2 * max(e, f) > 1.15 * (e + f):
        return "tiled"
    # Equal widths: optical flow's decoder 178 : 166, encoder 172 : 155, latents 139 : 99, in training 104 : 54; latents
    # of images 165 : 168, in training 123 : 124 with scores held.
    return "fused"


def weighted_sum(
    q: Float[Tensor, "#b heads m e"],
    k: Float[Tensor, "b heads n e"],
    v: Float[Tensor, "b heads n f"],
    *,
    mask: Bool[Tensor, "b n"] | None,
    scale: float,
    dropout: float = 0.0,
    kernel: Kernel,
) -> Float[Tensor, "b heads m f"]:
    """Values summed with weights softmax(scale · q kᵀ) over the rows that may be read; zeros where none may be."""
    q = q.expand(k.shape[0], -1, -1, -1)
    compute = _fused if kernel == "fused" else _tiled
    if mask is None:
        return compute(q, k, v, None, scale, dropout)
    # A row with nothing to read reads everything, for finite numbers, and is then set to zero.
    readable = mask.any(-1)[:, None, None, None]
    read = compute(q, k, v, mask[:, None, None, :] | ~readable, scale, dropout)
    return torch.where(readable, read, 0)


def _fused(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float) -> Tensor:
    """The kernel of torch. On a CPU it needs equal widths: zeros add nothing to a product, so padding is exact."""
    width = v.shape[-1]
    if q.shape[-1] != width and q.device.type == "cpu":
        # Up to a multiple of four: optical flow's decoder with 323 columns 179 GFLOP/s, with 324 188.
        wide = 4 * math.ceil(max(q.shape[-1], width) / 4)
        q, k, v = (F.pad(rows, (0, wide - rows.shape[-1])) for rows in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout, scale=scale)[..., :width]


def _tiled(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float) -> Tensor:
    """The formula in tiles of some samples, some queries and some keys; in training, of few scores, at once."""
    b, heads, m, _ = q.shape
    n = k.shape[-2]
    if q.dtype != torch.float32:
        # Products in bfloat16 copy heads that lie side by side, again for every tile: latents of optical flow
        # 130 : 168 GFLOP/s, of images 267 : 305. In float32 a copy is no gain.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    samples, rows, keys = b, m, n
    again = training and b * heads * m * n * q.element_size() > MAX_SAVED_SCORE_BYTES
    if again or not training:
        keys = min(n, KEYS)
        of_a_query = heads * keys * q.element_size()
        rows = min(m, max(1, TILE // of_a_query))
        samples = max(1, TILE // (rows * of_a_query))
    parts = []
    # ``split``, not slices: the gradient of a slice is as large as what it was cut from.
    mask_chunks = [None] * b if allowed is None else allowed.split(samples)
    for some_q, some_k, some_v, mask_chunk in zip(
        q.split(samples), k.split(samples), v.split(samples), mask_chunks, strict=False
    ):
        read = [_rows(part, some_k, some_v, mask_chunk, scale, dropout, keys, again) for part in some_q.split(rows, -2)]
        parts.append(read[0] if len(read) == 1 else torch.cat(read, -2))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rows(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float, keys: int, again: bool
) -> Tensor:
    """Some queries over all keys, ``keys`` of them at a time; computed ``again`` for the backward pass, or held."""

    def compute(tile: Callable, *tensors: Tensor | None) -> Any:
        if not again:
            return tile(*tensors, scale, dropout)
        return checkpoint(tile, *tensors, scale, dropout, use_reentrant=False, preserve_rng_state=dropout > 0)

    if k.shape[-2] <= keys:
        return compute(_normalised, q, k, v, allowed)
    tiles = zip(k.split(keys, -2), v.split(keys, -2), _split(allowed, keys, -1), strict=False)
    sums = functools.reduce(_joined, (compute(_unnormalised, q, *tile) for tile in tiles))
    return (sums.read / sums.total).to(v.dtype)


def _split(allowed: Tensor | None, size: int, dim: int) -> Iterable[Tensor | None]:
    return itertools.repeat(None) if allowed is None else allowed.split(size, dim)


def _joined(one: SoftmaxState, other: SoftmaxState) -> SoftmaxState:
    """Sums over some keys and over others as sums over all of them."""
    highest = torch.maximum(one.top, other.top)
    a, b = (one.top - highest).exp(), (other.top - highest).exp()
    return SoftmaxState(one.read * a + other.read * b, one.total * a + other.total * b, highest)


def _scores(q: Tensor, k: Tensor, allowed: Tensor | None, scale: float) -> Tensor:
    scores = (q * scale) @ k.mT
    # The lowest finite number, since a tile may have nothing to read: infinities would make NaN of it.
    return scores if allowed is None else scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)


def _normalised(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float
) -> Float[Tensor, "b heads m f"]:
    scores = _scores(q, k, allowed, scale)
    weights = scores.softmax(-1) if scores.requires_grad else torch.softmax(scores, -1, out=scores)
    return F.dropout(weights, dropout) @ v


def _unnormalised(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float
) -> SoftmaxState:
    scores = _scores(q, k, allowed, scale)
    top = scores.detach().amax(-1, keepdim=True)
    weights = (scores - top).exp() if scores.requires_grad else scores.sub_(top).exp_()
    wide = torch.promote_types(scores.dtype, torch.float32)
    total = weights.sum(-1, keepdim=True, dtype=wide)
    return SoftmaxState((F.dropout(weights, dropout) @ v).to(wide), total, top.to(wide))
