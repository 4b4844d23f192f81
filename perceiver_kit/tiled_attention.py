"""Attention in tiles of the scores, where torch's fused kernel is slow or stores all scores."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Bytes of scores in one tile. On a CPU a tile should fit its cache: tiles of 1 to 16 MiB differ by less than 10 %, and
# 32 MiB are 10 to 60 % slower. On a GPU large products are faster: optical flow's decoder on an H100 takes 3.2 ms in
# tiles of 64 MiB, 3.0 in tiles of 512 MiB, 2.9 without tiles.
TILE_BYTES, GPU_TILE_BYTES = 2**23, 2**29
# Keys of one tile on a CPU. Tiles over all keys would have few queries each, and each would read all keys.
TILE_KEYS = 2048
# In training, scores up to this size are saved for the backward pass; larger ones are recomputed tile by tile. For
# optical flow's decoder on an H100 recomputation takes 11.2 ms instead of 8.8, and 0.6 GB less.
MAX_SAVED_SCORE_BYTES, GPU_MAX_SAVED_SCORE_BYTES = 2**25, 2**29


class SoftmaxState(NamedTuple):
    """An unfinished softmax over some of the keys, in float32 or wider.

    ``top`` is the largest score, ``total`` is Σ exp(score - top), ``read`` is Σ exp(score - top) · value.
    """

    read: Float[Tensor, "b heads m f"]
    total: Float[Tensor, "b heads m 1"]
    top: Float[Tensor, "b heads m 1"]


def tiled(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float, causal: bool
) -> Tensor:
    """The formula of attention in tiles of samples, queries and keys, so that few scores are in memory at once.

    ``allowed`` is a mask (b or 1, 1, m or 1, n). With ``causal``, query i reads keys 0 to n - m + i; tiles that no
    query reads are skipped.
    """
    b, heads, m, _ = q.shape
    n = k.shape[-2]
    tile_bytes, saved_bytes = (
        (GPU_TILE_BYTES, GPU_MAX_SAVED_SCORE_BYTES) if q.is_cuda else (TILE_BYTES, MAX_SAVED_SCORE_BYTES)
    )
    if q.dtype != torch.float32 and not q.is_cuda:
        # bfloat16 products copy strided heads, once per tile. One copy here is faster: latents of optical flow 168
        # instead of 130 GFLOP/s, of images 305 instead of 267. In float32 it is not.
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    training = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    samples, rows, keys = b, m, n
    recompute = training and b * heads * m * n * q.element_size() > saved_bytes
    if recompute or not training:
        keys = min(n, max(1, tile_bytes // (heads * q.element_size())) if q.is_cuda else TILE_KEYS)
        bytes_per_query = heads * keys * q.element_size()
        rows = min(m, max(1, tile_bytes // bytes_per_query))
        samples = max(1, tile_bytes // (rows * bytes_per_query))
    read_chunks = []
    # ``split``, not slices: each slice would have a gradient as large as the whole tensor.
    for q_chunk, k_chunk, v_chunk, mask_chunk in zip(
        q.split(samples), k.split(samples), v.split(samples), _split(allowed, samples, 0), strict=False
    ):
        # The last key that the first query of each tile reads.
        last_keys = itertools.count(n - m, rows) if causal else itertools.repeat(None)
        read = [
            _all_keys(some, k_chunk, v_chunk, mask, scale, dropout, keys, recompute, last_key)
            for some, mask, last_key in zip(
                q_chunk.split(rows, -2), _split(mask_chunk, rows, -2), last_keys, strict=False
            )
        ]
        read_chunks.append(read[0] if len(read) == 1 else torch.cat(read, -2))
    return read_chunks[0] if len(read_chunks) == 1 else torch.cat(read_chunks)


def _all_keys(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Tensor | None,
    scale: float,
    dropout: float,
    keys: int,
    recompute: bool,
    last_key: int | None,
) -> Tensor:
    """Some queries over all keys, in tiles of ``keys`` keys."""

    def compute(tile: Callable, *arguments: Tensor | int | None) -> Any:
        if not recompute:
            return tile(*arguments, scale, dropout)
        return checkpoint(tile, *arguments, scale, dropout, use_reentrant=False, preserve_rng_state=dropout > 0)

    if k.shape[-2] <= keys:
        return compute(_one_tile, q, k, v, allowed, last_key)
    tiles = zip(k.split(keys, -2), v.split(keys, -2), _split(allowed, keys, -1), strict=False)
    states = []
    for number, tile in enumerate(tiles):
        last = None if last_key is None else last_key - number * keys
        # A tile that no query reads is skipped, except the first, so that there is a result.
        if number == 0 or last is None or last + q.shape[-2] > 0:
            states.append(compute(_partial_softmax, q, *tile, last))
    state = functools.reduce(_join, states)
    return (state.read / state.total).to(v.dtype)


def _split(allowed: Tensor | None, size: int, dim: int) -> Iterable[Tensor | None]:
    return itertools.repeat(allowed) if allowed is None or allowed.shape[dim] == 1 else allowed.split(size, dim)


def _join(one: SoftmaxState, other: SoftmaxState) -> SoftmaxState:
    top = torch.maximum(one.top, other.top)
    a, b = (one.top - top).exp(), (other.top - top).exp()
    return SoftmaxState(one.read * a + other.read * b, one.total * a + other.total * b, top)


def _scores(q: Tensor, k: Tensor, allowed: Tensor | None, last_key: int | None, scale: float) -> Tensor:
    """Scores of one tile. ``last_key`` is the index in the tile of the last key that its first query may read.

    None: no causal mask.
    """
    scores = (q * scale) @ k.mT
    if last_key is not None and last_key + 1 < k.shape[-2]:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril(last_key)
        allowed = causal if allowed is None else allowed & causal
    # The lowest finite number, not -inf: a fully masked tile would give NaN.
    return scores if allowed is None else scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)


def one_tile(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float
) -> Float[Tensor, "b heads m f"]:
    """Attention without tiles: all scores are in memory at once."""
    return _one_tile(q, k, v, allowed, None, scale, dropout)


def _one_tile(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, last_key: int | None, scale: float, dropout: float
) -> Float[Tensor, "b heads m f"]:
    scores = _scores(q, k, allowed, last_key, scale)
    weights = scores.softmax(-1) if scores.requires_grad else torch.softmax(scores, -1, out=scores)
    return F.dropout(weights, dropout) @ v


def _partial_softmax(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, last_key: int | None, scale: float, dropout: float
) -> SoftmaxState:
    scores = _scores(q, k, allowed, last_key, scale)
    top = scores.detach().amax(-1, keepdim=True)
    weights = (scores - top).exp() if scores.requires_grad else scores.sub_(top).exp_()
    wide = torch.promote_types(scores.dtype, torch.float32)
    total = weights.sum(-1, keepdim=True, dtype=wide)
    return SoftmaxState((F.dropout(weights, dropout) @ v).to(wide), total, top.to(wide))
