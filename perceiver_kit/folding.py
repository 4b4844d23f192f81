"""Whole outputs at inference: a decoder and an output as fewer products, equal within rounding.

Three parts are the same for every row of an output, so they are computed once: keys and values of the latents; what a
query's learned padding and the affine part of its norm add to scores; and the product of consecutive linear layers at
the end. Of the multiply-adds of a published video's 804,737 rows this saves 53 % (4.2 million a row without). Nothing
is cached between calls, so weights may change.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from .attention import Attention
from .attention_backends import weighted_sum
from .decoders import Decoder
from .layers import MLP, CrossAttentionLayer
from .outputs import Output
from .outputs.base import Affine
from .plain import is_plain

# The modules whose formulae are restated here; a decoder with any other is called.
FOLDABLE = {Decoder, CrossAttentionLayer, Attention, MLP, nn.Linear, nn.LayerNorm, nn.GELU, nn.Identity, nn.Dropout}
FOLDED_MLP = [nn.Linear, nn.GELU, nn.Linear]

Reader = Callable[[Float[Tensor, "#b k c"]], Float[Tensor, "b k d"]]


def fold(
    decoder: Any, output: Any, latents: Float[Tensor, "b m d"], padding: Float[Tensor, "1 p"] | None, rows: int
) -> Reader | None:
    """A function from queries before padding to the output's rows; None where folding is not exact or saves nothing.

    ``padding`` is the vector that ends every query, ``rows`` the number of queries. ``decoder`` may be any module.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not _is_foldable(decoder, output):
        return None
    last = output.affine()
    if last is not None and decoder.project is not None:
        last = _one_product(last, decoder.project, rows)
    if last is None:
        return None
    read, end = _fold_attention(decoder.cross, latents, padding, rows), _fold_end(decoder.cross, last, rows)
    return None if read is None else lambda queries: end(read(queries))


def _is_foldable(decoder: Any, output: Any) -> bool:
    """Stock modules in eval mode, without hooks or patches, and an output that its ``affine`` describes."""
    if type(decoder) is not Decoder or decoder.groups > 1:
        return False
    if not isinstance(output, Output) or _owner(output, "affine") is not _owner(output, "forward"):
        return False
    if any(part.training for part in (*decoder.modules(), *output.modules())):
        return False
    if not is_plain(decoder, FOLDABLE) or not is_plain(output, accept=None):
        return False
    cross, attention = decoder.cross, decoder.cross.attention
    if not attention.mergeable or type(cross.attention_gate) is not nn.Identity:
        return False
    if cross.mlp is None or [type(part) for part in cross.mlp.children()] != FOLDED_MLP:
        return False
    linears = [attention.query, attention.key, attention.value, attention.output, cross.mlp[0], cross.mlp[2]]
    if decoder.project is not None:
        linears.append(decoder.project)
    norms = [cross.query_norm, cross.key_norm, cross.mlp_norm]
    stock = all(type(part) is nn.Linear for part in linears) and all(type(part) is nn.LayerNorm for part in norms)
    return stock and all(part.bias is not None for part in (*linears, *norms))


def _owner(block: object, method: str) -> type:
    """The class that defines a method. A class that overrides ``forward`` alone is not what ``affine`` says."""
    return next(kind for kind in type(block).__mro__ if method in vars(kind))


def _one_product(outer: Affine, inner: nn.Linear, rows: int) -> Affine | None:
    """A linear layer followed by another as one, if that is less work for this many rows."""
    (out, middle), width = outer.weight.shape, inner.in_features
    if out * middle * width + rows * out * width >= rows * middle * (out + width):
        return None
    return Affine(outer.weight @ inner.weight, outer.bias + outer.weight @ inner.bias)


def _fold_end(cross: CrossAttentionLayer, last: Affine, rows: int) -> Reader:
    """After attention: the MLP with its residual, then the last linear layer."""
    widen, activation, narrow = cross.mlp.children()
    assert isinstance(narrow, nn.Linear)
    both = _one_product(Affine(last.weight, torch.zeros_like(last.bias)), narrow, rows)

    def end(read: Tensor) -> Tensor:
        hidden = activation(widen(cross.mlp_norm(read)))
        if both is None:
            return F.linear(read + narrow(hidden), *last)
        return F.linear(read, *last) + F.linear(hidden, *both)

    return end


def _fold_attention(cross: CrossAttentionLayer, latents: Tensor, padding: Tensor | None, rows: int) -> Reader | None:
    """Raw, unpadded queries of one head on keys that hold all else; None if that is not the least work.

    With x = (r, p), r a query and p its padding, and k a latent's key as it meets normalised queries,
    k · norm(x) = w·k · (r - mean) / deviation + (p w·k) / deviation - (Σ w·k) mean / deviation + bias·k,
    where the last three are three numbers of a query times three of a key.
    """
    attention, norm = cross.attention, cross.query_norm
    m, width = latents.shape[1], norm.normalized_shape[0]
    qk, v = attention.query.out_features, attention.value.out_features
    content = width - (0 if padding is None else padding.shape[-1])
    projected = rows * (width * (qk + v) + m * (qk + v))
    folded = rows * m * (content + 3 + width) + m * width * (qk + v)
    if attention.heads > 1 or cross.query_residual or content == 0 or folded > projected:
        return None
    normed_latents = cross.key_norm(latents)
    keys = attention.key(normed_latents)
    constant = keys @ attention.query.bias
    keys = keys @ attention.query.weight
    constant = constant + keys @ norm.bias
    keys = keys * norm.weight
    columns = [keys[..., :content], rearrange(constant, "b m -> b m 1")]
    if padding is not None:
        padded = keys[..., content:]
        columns += [padded @ rearrange(padding, "1 p -> p 1"), -padded.sum(-1, keepdim=True)]
    keys = rearrange(torch.cat(columns, -1), "b m c -> b 1 m c")
    # Weights sum to one: the bias may as well be in the values.
    values = F.linear(attention.value(normed_latents), attention.output.weight) + attention.output.bias
    values = rearrange(values, "b m c -> b 1 m c")

    def read(queries: Tensor) -> Tensor:
        wide = queries.to(torch.promote_types(keys.dtype, torch.float32))
        normed = _normalise(wide, padding, norm.eps).to(keys.dtype)
        found = weighted_sum(rearrange(normed, "b k c -> b 1 k c"), keys, values, scale=attention.scale)
        return rearrange(found, "b 1 k c -> b k c")

    return read


def _normalise(queries: Tensor, padding: Tensor | None, eps: float) -> Tensor:
    """Queries without their padding, normalised as with it; then 1, 1 / deviation and mean / deviation as columns."""
    content = queries.shape[-1]
    if padding is None:
        return F.pad(F.layer_norm(queries, (content,), eps=eps), (0, 1), value=1.0)
    width = content + padding.shape[-1]
    variance, mean = torch.var_mean(queries, -1, correction=0, keepdim=True)
    other_variance, other = torch.var_mean(padding.to(queries.dtype), correction=0)
    share = content / width
    variance = share * variance + (1 - share) * other_variance + share * (1 - share) * (mean - other) ** 2
    mean = share * mean + (1 - share) * other
    scale = (variance + eps).rsqrt()
    return torch.cat([(queries - mean) * scale, torch.ones_like(mean), scale, mean * scale], -1)
