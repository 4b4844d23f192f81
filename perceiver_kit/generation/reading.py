"""Logits of the next token, by a full pass or by one step with a cache, depending on the policy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ..encoders import Cache
from ..tokens import Encoded, Layout, Tokens
from .checks import (
    Policy,
    capacity,
    causal_parts,
    check_latents,
    check_policy,
    checked_padding,
    latents_left_free,
    tokens_after,
)


@torch.no_grad()
def next_logits(
    model: nn.Module,
    ids: Int64[Tensor, "b n"],
    mask: Bool[Tensor, "b n"] | None = None,
    cache: Cache | None = None,
    *,
    policy: Policy = "refill",
    free: int | None = None,
    latents: int | None = None,
) -> tuple[Float[Tensor, "b v"], Cache | None]:
    """Logits of the token that follows each sequence, and the cache for the next call.

    ``ids`` are the whole sequences, padded on the left where ``mask`` is False. With a cache, only the new tokens are
    read, one by one. ``latents`` is the number of latents of a call without a cache (default: as many as possible).
    The cache is None for a model whose earlier rows or latents change when rows follow (``CausalEncoder.cacheable``).

    Raises InputError for a mask that is not padding on the left, and for a cache of another model, of another batch
    size, or of sequences that are not shorter.

    >>> model = build("causal_lm", preset="tiny").eval()
    >>> logits, cache = next_logits(model, torch.tensor([[5, 6, 7]]))
    >>> again, _ = next_logits(model, torch.tensor([[5, 6, 7, 8]]), cache=cache)
    >>> again.shape
    torch.Size([1, 262])
    """
    [name], encoder = causal_parts(model)
    check_policy(encoder, policy, free)
    check_latents(encoder, latents)
    mask = checked_padding(ids, mask)
    lengths = mask.sum(1)
    rows = lengths.clamp(max=encoder.context)
    count = rows.clamp(max=encoder.places if latents is None else latents)
    if cache is not None:
        for later in range(tokens_after(encoder, cache, lengths) - 1, 0, -1):
            _, cache = next_logits(model, ids[:, :-later], mask[:, :-later], cache, policy=policy, free=free)
        assert cache is not None
        rows_held, latents_held = cache.rows.sum(1), cache.latents.sum(1)
        full = (latents_held >= encoder.num_latents) | (rows_held >= encoder.context)
        if policy == "roll" or not bool(full.any()):
            cache = cache.last(encoder.context - 1, encoder.num_latents - 1)
            return _read(model, name, ids, mask, lengths, new=1, cache=cache)
        if policy == "refill":
            room = latents_left_free(encoder, free)
            count = torch.where(full, capacity(encoder) - room, latents_held + 1)
            window = encoder.context - room
            rows = torch.where(rows_held >= encoder.context, window, rows_held + 1)
            count = torch.minimum(count, rows)
    longest = int(rows.max())
    ids, mask = ids[:, -longest:], mask[:, -longest:]
    mask = mask & (torch.arange(longest, 0, -1, device=ids.device) <= rearrange(rows, "b -> b 1"))
    return _read(model, name, ids, mask, lengths, latents=count)


def _read(
    model: Any, name: str, ids: Tensor, mask: Tensor, lengths: Tensor, *, new: int | None = None, **options: Any
) -> tuple[Tensor, Cache | None]:
    """Logits of the token after the last one, and the cache. With ``new``, only the last ``new`` tokens are encoded.

    Earlier ``ids`` are still needed to hash n-grams. ``ids`` may be the ends of sequences, whose full ``lengths`` are
    recorded in the cache.
    """
    if new is not None:
        known = new + getattr(model.inputs.blocks[name], "history", 0)
        ids, mask = ids[:, -known:], mask[:, -known:]
    ids = ids.where(mask, 0)
    tokens, _ = model.inputs({name: ids}, None if bool(mask.all()) else {name: mask})
    if new is not None:
        tokens = Tokens(tokens.rows[:, -new:], Layout(((name, (new,)),)))
    if model.encoder.cacheable:
        latents, cache = model.encoder.extend(tokens, **options)
        cache = replace(cache, length=lengths)
    else:
        latents, cache = model.encoder(tokens), None
    out = model.decode(Encoded(latents[:, -1:], tokens.layout, (name,)))
    return rearrange(next(iter(out.values())), "b 1 v -> b v"), cache
