"""How attention is computed fast: ``attend`` equals ``Attention.formula`` within rounding.

Two choices are made for each call: which side is projected (``choose_side``) and which kernel computes the weighted
sum (``choose_kernel``). The measurements stand beside each choice. Attention maps never influence them: ``capture``
computes its own.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .activations import Gate, SquaredReLU
from .masks import Masks, by_query
from .plain import STOCK, can_checkpoint, is_plain
from .tiled_attention import one_tile, tiled

NO_MASKS = Masks()
Side = Literal["both", "queries", "keys"]
Kernel = Literal["fused", "tiled", "whole"]

# In training, the MLP's activations are recomputed in the backward pass for rows of at least this size. On a GPU the
# minimum is larger: with 2 MiB, training steps of the published image models at batch 8 took 225 to 267 ms on an H100;
# Hugging Face's models, which recompute nothing, took 128 to 142 ms.
RECOMPUTE_MIN_BYTES, GPU_RECOMPUTE_MIN_BYTES = 2**21, 2**28
# Memory budget for scores while competing queries are summed over.
COMPETE_MAX_BYTES = 2**24
# The widest head of torch's flash and cuDNN kernels on a GPU.
GPU_WIDEST_HEAD = 256
# A GPU's matrix units need 16-bit rows whose width is a multiple of this.
GPU_ALIGNMENT = 8


class Projections(NamedTuple):
    """The four linear layers of attention. Other modules, such as adapters, may replace them."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear


class KeyValues(NamedTuple):
    """Projected rows, split into heads, with keys rotated. The cache of generation holds these."""

    key: Float[Tensor, "b heads n e"]
    value: Float[Tensor, "b heads n f"]

    def rows(self) -> Float[Tensor, "b n 0"]:
        """Rows without channels, for checks of their number, batch size and device."""
        return rearrange(self.key[..., :0], "b heads n c -> b n (heads c)")

    def followed_by(self, other: KeyValues) -> KeyValues:
        """These rows, then the others."""
        return KeyValues(torch.cat([self.key, other.key], -2), torch.cat([self.value, other.value], -2))


# ---- which side is projected


def attend(
    queries: Float[Tensor, "#b m cq"],
    keys: Float[Tensor, "b n ck"],
    masks: Masks,
    layers: Projections,
    *,
    heads: int,
    scale: float,
    dropout: float,
) -> Float[Tensor, "b m cq"]:
    """Attention with these layers, in the order of products that ``choose_side`` finds cheapest."""
    side = choose_side(layers, queries.shape[1], keys.shape[1], heads=heads, dropout=dropout)
    if side == "queries":
        return _projecting_queries(queries, keys, masks, layers, scale)
    if side == "keys":
        return _projecting_keys(queries, keys, masks, layers, scale)
    # A generator, not local variables: q, k and v are freed before the output projection.
    qkv = (
        rearrange(rows, "b n (heads c) -> b heads n c", heads=heads)
        for rows in (layers.query(queries), layers.key(keys), layers.value(keys))
    )
    read = weighted_sum(*qkv, masks=masks, scale=scale, dropout=dropout)
    return layers.output(rearrange(read, "b heads m c -> b m (heads c)"))


def choose_side(layers: Projections, m: int, n: int, *, heads: int, dropout: float) -> Side:
    """The side to project for m queries over n keys: the one with the fewest multiply-adds.

    With one head, the scores are (x Wq)(y Wk)ᵀ = x (Wq Wkᵀ) yᵀ, and the output is softmax(scores) y Wv Wo. So all four
    layers can be applied to the m queries, or all to the n keys, instead of two to each. With all on the shorter side
    attention takes 1.8 times fewer multiply-adds in the decoder of optical flow, 200 times fewer in a classifier's.
    """
    # No choice while a graph is traced: sizes may be symbols.
    if heads > 1 or dropout > 0 or torch.compiler.is_compiling():
        return "both"
    if not all(is_plain(layer, {nn.Linear}) and layer.bias is not None for layer in layers):
        return "both"
    cq, ck, qk, v = layers.query.in_features, layers.key.in_features, layers.key.out_features, layers.value.out_features
    both = m * cq * qk + n * ck * (qk + v) + m * n * (qk + v) + m * v * cq
    only_queries = m * cq * qk + m * qk * ck + 2 * m * n * ck + m * ck * v + m * v * cq
    only_keys = n * ck * (qk + v) + n * qk * cq + n * v * cq + m * n * (2 * cq + 1)
    costs: list[tuple[int, Side]] = [(both, "both"), (only_queries, "queries"), (only_keys, "keys")]
    return min(costs)[1]


def _projecting_queries(
    queries: Tensor, keys: Tensor, masks: Masks, layers: Projections, scale: float
) -> Float[Tensor, "b m cq"]:
    """All four layers on the side of the queries x: softmax((x Wq Wkᵀ) yᵀ) y, then Wv and Wo; the rows y stay raw.

    The key bias adds the same number to all scores of a query, which the softmax cancels. It stays in the graph: a
    parameter without a gradient stops distributed training. The weights of a query sum to one, so the value bias is
    added once, after the sum. Queries that may read nothing get no value bias.
    """
    q = rearrange(layers.query(queries) @ layers.key.weight, "b m c -> b 1 m c")
    rows = rearrange(keys, "b n c -> b 1 n c")
    read = rearrange(weighted_sum(q, rows, rows, masks=masks, scale=scale), "b 1 m c -> b m c")
    values = layers.value(read)
    reading = masks.reading(queries.shape[1], keys.shape[1], keys.device)
    if reading is not None:
        values = torch.where(rearrange(reading, "b m -> b m 1"), values, 0)
    return keep_in_graph(layers.output(values), layers.key.bias)


def _projecting_keys(
    queries: Tensor, keys: Tensor, masks: Masks, layers: Projections, scale: float
) -> Float[Tensor, "b m cq"]:
    """All four layers on the side of the keys y: softmax(x (y Wk Wqᵀ)ᵀ) (y Wv Wo); the queries x stay raw.

    The query bias adds a number to all scores of a key, which the softmax does not cancel. It becomes one more column
    of the keys, with ones in the queries: the fused kernel has no gradient for an additive mask.
    """
    k = layers.key(keys)
    bias = rearrange(k @ layers.query.bias, "b n -> b n 1")
    k = rearrange(torch.cat([k @ layers.query.weight, bias], -1), "b n c -> b 1 n c")
    v = rearrange(F.linear(layers.value(keys), layers.output.weight), "b n c -> b 1 n c")
    q = rearrange(F.pad(queries, (0, 1), value=1.0), "b m c -> b 1 m c")
    read = weighted_sum(q, k, v, masks=masks, scale=scale)
    return rearrange(read, "b 1 m c -> b m c") + layers.output.bias


def keep_in_graph(rows: Tensor, *parameters: Tensor) -> Tensor:
    """The same rows; these parameters, which do not affect them, get a zero gradient instead of none."""
    if not torch.is_grad_enabled():
        return rows
    return rows + sum(0.0 * parameter.sum() for parameter in parameters)


# ---- queries that compete for rows


def competing(
    q: Float[Tensor, "#b heads m e"], k: Float[Tensor, "b heads n e"], masks: Masks, scale: float
) -> tuple[Float[Tensor, "#b heads m e1"], Float[Tensor, "b heads n e1"]]:
    """Queries and keys with one more channel, which makes ordinary attention compute that of competing queries.

    With scores s[i, j] of query i and row j, a[i, j] = exp(s[i, j] - L[j]), where L[j] = log Σᵢ exp s[i, j]. The
    weights a[i, j] / Σⱼ a[i, j] are the softmax of s[i, j] - L[j] over rows. L is one number per row, so -L becomes a
    channel of the keys, with ones in the queries, and every kernel can be used.
    """
    m, n = q.shape[-2], k.shape[-2]
    readable = (
        masks.pairs(m, n, k.device) if masks.causal or (masks.rows is not None and masks.rows.ndim == 3) else None
    )
    if masks.queries is not None:
        reading = rearrange(masks.queries, "b m -> b m 1")
        readable = reading if readable is None else readable & reading
    readable = None if readable is None else rearrange(readable, "b m n -> b 1 m n").expand(-1, -1, m, n)

    def total(keys: Tensor, allowed: Tensor | None) -> Tensor:
        scores = scale * einsum(q, keys, "b heads m e, b heads n e -> b heads m n")
        if allowed is None:
            return scores.logsumexp(-2)
        sums = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).logsumexp(-2)
        return torch.where(allowed.any(-2), sums, 0)

    if torch.compiler.is_compiling() or k.shape[0] * k.shape[1] * m * n * k.element_size() <= COMPETE_MAX_BYTES:
        totals = total(k, readable)
    else:
        size = max(1, COMPETE_MAX_BYTES // (k.shape[0] * k.shape[1] * m * k.element_size()))
        masked = [None] * math.ceil(n / size) if readable is None else readable.split(size, -1)
        recompute = torch.is_grad_enabled() and can_checkpoint()
        run = (
            functools.partial(checkpoint, total, use_reentrant=False, preserve_rng_state=False) if recompute else total
        )
        parts = zip(k.split(size, -2), masked, strict=True)
        totals = torch.cat([run(*part) for part in parts], -1)
    return F.pad(q, (0, 1), value=1.0), torch.cat([k, rearrange(totals / -scale, "b heads n -> b heads n 1")], -1)


# ---- which kernel computes the weighted sum


def weighted_sum(
    q: Float[Tensor, "#b heads m e"],
    k: Float[Tensor, "b heads n e"],
    v: Float[Tensor, "b heads n f"],
    *,
    masks: Masks = NO_MASKS,
    scale: float,
    dropout: float = 0.0,
) -> Float[Tensor, "b heads m f"]:
    """softmax(scale · q kᵀ) v over the rows that each query may read; zeros where there are none."""
    m, n = q.shape[-2], k.shape[-2]
    if masks.causal and m == 1 and n > 0:  # a single query, as in cached generation, reads all rows
        masks = replace(masks, causal=False)
    # ``square``: torch's causal mask can be used. It aligns the first query with the first row, and allows no other
    # mask. ``not m != n`` is a bool even where sizes are symbols.
    square = masks.causal and masks.rows is None and not m != n  # noqa: SIM202
    triangle = masks.causal and not square
    kernel = choose_kernel(q.shape[-1], v.shape[-1], dropout=dropout, dtype=q.dtype, device=q.device, triangle=triangle)
    width = v.shape[-1]
    if q.is_cuda:
        q, k, v = (_aligned(rows) for rows in (q, k, v))
    if q.shape[0] != k.shape[0]:
        q = q.expand(k.shape[0], -1, -1, -1)
        if q.is_cuda and kernel == "fused":
            q = q.contiguous()  # cuDNN's kernel refuses expanded queries
    if kernel == "tiled":
        read = tiled(q, k, v, _without_empty(by_query(masks.rows)), scale, dropout, masks.causal)
    elif kernel == "whole":
        read = one_tile(q, k, v, _without_empty(masks.pairs(m, n, q.device)), scale, dropout)
    else:
        allowed = None if square else _without_empty(masks.pairs(m, n, q.device))
        read = _fused(q, k, v, allowed, scale, dropout, square)
    read = read[..., :width]
    reading = masks.reading(m, n, q.device)
    return read if reading is None else torch.where(rearrange(reading, "b m -> b 1 m 1"), read, 0)


def _aligned(rows: Tensor) -> Tensor:
    """Rows padded with zeros to a multiple of eight channels. The result is exact, and a GPU's kernels need this width.

    For other widths torch runs its unfused kernel. One call of optical flow's encoder (width 322, bfloat16, H100) then
    takes 16.4 ms and 3.9 GB; as plain products it takes 4.3 ms and 1.7 GB.
    """
    missing = -rows.shape[-1] % GPU_ALIGNMENT
    return F.pad(rows, (0, missing)) if missing else rows


def _without_empty(pairs: Bool[Tensor, "#b #m n"] | None) -> Bool[Tensor, "#b 1 #m n"] | None:
    """The mask, with fully masked queries reading all rows: no kernel returns NaN. ``weighted_sum`` zeroes them."""
    return None if pairs is None else rearrange(pairs | ~pairs.any(-1, keepdim=True), "b m n -> b 1 m n")


def choose_kernel(
    e: int, f: int, *, dropout: float, dtype: torch.dtype, device: torch.device, triangle: bool = False
) -> Kernel:
    """The kernel for heads of width ``e`` in queries and keys, ``f`` in values.

    ``"fused"`` is torch's kernel, which usually stores no scores. ``"tiled"`` is matmul, softmax, matmul in tiles of
    the scores; ``"whole"`` is the same without tiles, for a compiler. ``triangle``: a causal mask that torch's kernel
    would need as a tensor (m, n).
    """
    # On a GPU torch's flash and cuDNN kernels support heads up to 256 wide. Wider heads get its memory-efficient
    # kernel, which makes poor use of the matrix units. Milliseconds per call on an H100 in bfloat16, fused : tiled, by
    # width of the head:
    #   optical flow, decoder (512)   forward  6.8 : 2.9    with backward 248 : 8.8
    #   optical flow, encoder (322)           16.4 : 3.7                   42 : 11
    #   images, learned positions (512)        4.6 : 0.3                  9.2 : 1.9
    #   video, encoder (704)                   6.2 : 1.3                 15.6 : 4.4
    #   images, latents (128), batch 32       0.33 : 0.41                 2.0 : 1.9
    # Up to 256 the fused kernel is best, for causal masks too: FlexAttention (64) takes 0.19 ms beside 0.18, with
    # backward 1.11 beside 0.67. All figures: docs/kernels.json.
    if device.type == "cuda":
        if max(e, f) <= GPU_WIDEST_HEAD:
            return "fused"
        return "whole" if torch.compiler.is_compiling() else "tiled"
    # Other devices: torch documents fused kernels for dropout, bfloat16 and unequal widths. Not measured.
    if device.type != "cpu" or torch.compiler.is_compiling():
        return "fused"
    # On a CPU, torch converts a boolean mask to floats, as many as the scores of one head.
    if triangle:
        return "tiled"
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
    # The numbers below are GFLOP/s, fused : tiled, at published sizes on two threads of a Zen 4 whose matrix products
    # reach 190 in float32 and 420 in bfloat16 (torch 2.13).
    #
    # Dropout: the fused kernel would store all scores, 1.5 GB in each cross-attention of optical flow.
    if dropout > 0:
        return "tiled"
    # bfloat16: the fused kernel is no faster than in float32. Optical flow's decoder 184 : 348, encoder 173 : 278,
    # latents 127 : 174; latents of images 164 : 327, of text 80 : 247. In training the decoder 144 : 250, latents of
    # images 155 : 330. The exception is latents of optical flow in training, 127 : 106.
    if dtype == torch.bfloat16:
        return "tiled"
    # Unequal widths: the fused kernel pads the narrower with zeros. Text, 32 and 160: 82 : 144, in training 72 : 142;
    # a folded video decoder, 198 and 1026: 87 : 159.
    if 2 * max(e, f) > 1.15 * (e + f):
        return "tiled"
    # Equal widths: optical flow's decoder 178 : 166, encoder 172 : 155, latents 139 : 99, in training 104 : 54; latents
    # of images 165 : 168, in training 123 : 124 with scores saved.
    return "fused"


def _fused(
    q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, dropout: float, causal: bool
) -> Tensor:
    """The fused kernel of torch. On a CPU it needs equal widths of keys and values; padding with zeros is exact."""
    width = v.shape[-1]
    if q.shape[-1] != width and q.device.type == "cpu":
        # A multiple of four is faster: optical flow's decoder with 323 channels 179 GFLOP/s, with 324 188.
        wide = 4 * math.ceil(max(q.shape[-1], width) / 4)
        q, k, v = (F.pad(rows, (0, wide - rows.shape[-1])) for rows in (q, k, v))
    read = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=dropout, is_causal=causal, scale=scale)
    return read[..., :width]


# ---- the MLP in training


def checkpointed_mlp(norm: nn.Module, mlp: nn.Module, rows: Float[Tensor, "b m c"]) -> Float[Tensor, "b m c"]:
    """``mlp(norm(rows))``; in training, non-matmul activations are recomputed in the backward pass.

    Each of two checkpoints ends with a linear layer, and only what comes before it is recomputed. At published size a
    training step on one image needs 0.87 instead of 1.06 GiB and takes as long. Small rows are not recomputed.
    """
    least = GPU_RECOMPUTE_MIN_BYTES if rows.is_cuda else RECOMPUTE_MIN_BYTES
    large = torch.is_grad_enabled() and rows.numel() * rows.element_size() >= least
    if not large or torch.compiler.is_compiling() or not _is_mlp(mlp) or not is_plain(norm) or not can_checkpoint():
        return mlp(norm(rows))
    widen, activation, narrow = mlp.children()
    recompute = functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
    hidden = recompute(lambda rows: widen(norm(rows)), rows)
    return recompute(lambda hidden: narrow(activation(hidden)), hidden)


def _is_mlp(mlp: nn.Module) -> bool:
    """True for a plain sequence of three modules, as in ``MLP``."""
    if not isinstance(mlp, nn.Sequential) or type(mlp).forward is not nn.Sequential.forward or len(mlp) != 3:
        return False
    return is_plain(mlp, STOCK | {type(mlp), SquaredReLU, Gate})
