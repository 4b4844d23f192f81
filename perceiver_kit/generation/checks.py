"""Argument checks of ``generate`` and ``next_logits``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ..checking import check_choice, check_number, check_positive, check_seed, describe_value, short
from ..data.bytes import ByteTokenizer
from ..decoders import PassThrough
from ..encoders import Cache, CausalEncoder
from ..errors import AssemblyError, InputError
from ..inputs import TextTokens
from ..model import PerceiverIO
from ..queries import LatentQuery

Policy = Literal["recompute", "refill", "roll"]
POLICIES = ("recompute", "refill", "roll")


def causal_parts(model: Any) -> tuple[list[str], CausalEncoder]:
    """The name of the text input in a list, and the encoder; InputError for a model that cannot generate."""
    problem = None
    if not isinstance(model, PerceiverIO) or not isinstance(model.encoder, CausalEncoder):
        problem = f"its encoder must be a CausalEncoder, got {describe_value(getattr(model, 'encoder', model))}"
    elif any(not isinstance(block, TextTokens) for block in _blocks(model.inputs)) or len(model.inputs.blocks) != 1:
        problem = f"it must have one input, TextTokens, got {', '.join(model.inputs.blocks)}"
    elif any(block.positions is not None for block in _blocks(model.inputs)):
        problem = "the positions must be those of its CausalEncoder, but the input has its own"
    elif not isinstance(model.decoder, PassThrough) or len(model.queries.blocks) != 1:  # type: ignore[union-attr]
        problem = "it must have one output, of LatentQuery and PassThrough"
    elif any(not isinstance(block, LatentQuery) for block in _blocks(model.queries)):
        problem = "its output must follow a LatentQuery"
    elif model.training:
        problem = "it is in training mode: call model.eval()"
    if problem is not None:
        raise InputError(f"generate: the model must be causal and ready: {problem}")
    return [*model.inputs.blocks], model.encoder


def _blocks(container: Any) -> list[Any]:
    return [container.blocks[name] for name in container.blocks]


def checked_ids(prompt: object, number: int, vocabulary: int, context: int) -> Int64[Tensor, "n"]:
    """The ids of prompt ``number``; InputError for one that the model cannot read."""
    if isinstance(prompt, str):
        if vocabulary != ByteTokenizer.vocab_size:
            raise InputError(
                f"prompt {number} is text, but the model's vocabulary of {vocabulary} is not that of bytes: give ids"
            )
        prompt = ByteTokenizer(max_length=None, parse_special=False).encode(prompt, special=False)
    try:
        ids = torch.as_tensor(prompt).cpu() if len(prompt) else torch.zeros(0, dtype=torch.int64)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        ids = torch.zeros(())
    if ids.ndim != 1 or ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"prompt {number} must be text or ids (n,) int64, got {describe_value(prompt)}")
    if not len(ids):
        raise InputError(f"prompt {number} is empty; give at least one token, such as a line break")
    if len(ids) > context:
        raise InputError(f"prompt {number} has {len(ids)} tokens, more than the model's context of {context}")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise InputError(f"prompt {number} must be ids from 0 to {vocabulary - 1}, got {low} to {high}")
    return ids.long()


def checked_stops(stop: object, vocabulary: int) -> frozenset[int]:
    """The ids that end a sequence; InputError for ids outside the vocabulary."""
    ids = stop.tolist() if isinstance(stop, Tensor) else stop
    good = isinstance(ids, Collection) and all(type(i) is int and 0 <= i < vocabulary for i in ids)
    if not good:
        raise InputError(f"generate: stop must be a list of ids from 0 to {vocabulary - 1}, got {short(stop)}")
    return frozenset(ids)  # type: ignore[arg-type]


def check_sampling(
    length: int, temperature: float, top_k: int | None, top_p: float | None, penalty: float, seed: int | None
) -> None:
    """Raise InputError for a sampling argument that is out of range."""
    try:
        check_positive("generate", length=length)
        check_number("generate", temperature=temperature)
        check_number("generate", above=0.0, repetition_penalty=penalty)
        if top_k is not None:
            check_positive("generate", top_k=top_k)
        if seed is not None:
            check_seed("generate", seed)
    except AssemblyError as error:
        raise InputError(str(error)) from None
    if top_p is not None and not (type(top_p) in (int, float) and 0 < top_p <= 1):
        raise InputError(f"generate: top_p must be in (0, 1], got {top_p!r}")


def latents_left_free(encoder: CausalEncoder, free: int | None) -> int:
    """How many latents ``refill`` leaves free: ``free``, or half of those that can be in use."""
    return capacity(encoder) // 2 if free is None else free


def capacity(encoder: CausalEncoder) -> int:
    """The largest number of latents in use: ``num_latents``, or ``context`` if that is less."""
    return min(encoder.num_latents, encoder.context)


def check_policy(encoder: CausalEncoder, policy: str, free: int | None) -> None:
    """Raise InputError for an unknown policy, or ``free`` out of range."""
    try:
        check_choice("generate", "policy", policy, POLICIES)
        check_positive("generate", free=latents_left_free(encoder, free), least=0)
    except AssemblyError as error:
        raise InputError(str(error)) from None
    if policy == "refill" and not latents_left_free(encoder, free) < capacity(encoder):
        raise InputError(f"generate: free must be below the {capacity(encoder)} latents in use, got {free}")


def check_roll(encoder: CausalEncoder, policy: str, total: int) -> None:
    """Raise InputError for policy "roll" if ``total`` tokens exceed the context of added (not rotary) positions."""
    if policy == "roll" and encoder.positions is not None and total > encoder.context:
        raise InputError(
            f"generate: {total} tokens are more than the context of {encoder.context}, past which positions added to "
            "the rows are undefined: policy 'roll' needs rotary positions; use 'refill' or 'recompute'"
        )


def check_latents(encoder: CausalEncoder, latents: object) -> None:
    """Raise InputError for a number of latents below one."""
    try:
        check_positive("generate", latents=1 if latents is None else latents)  # type: ignore[arg-type]
    except AssemblyError as error:
        raise InputError(str(error)) from None


def checked_padding(ids: object, mask: object) -> Bool[Tensor, "b n"]:
    """The mask; all True for None. InputError if it is not padding on the left."""
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 2:
        raise InputError(f"ids must be int64 (b, n), got {describe_value(ids)}")
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != ids.shape:
        raise InputError(f"mask must be bool {tuple(ids.shape)}, as the ids, got {describe_value(mask)}")
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()) or not bool(mask[:, -1:].all()):
        raise InputError("mask may be False at the left only, for padding, but it ends with False or has holes")
    return mask


def tokens_after(encoder: CausalEncoder, cache: object, lengths: Int64[Tensor, "b"]) -> int:
    """The number of new tokens: those after the tokens that the cache has read."""
    if not isinstance(cache, Cache):
        raise InputError(f"cache must be a Cache returned by next_logits, got {describe_value(cache)}")
    if cache.owner != id(encoder):
        raise InputError("cache is of another model: start with cache=None")
    if len(cache.position) != len(lengths):
        raise InputError(f"cache is of a batch of {len(cache.position)}, but ids have a batch of {len(lengths)}")
    fewest, most = (int(count) for count in (lengths - cache.length).aminmax())
    if fewest < 1 or fewest < most:
        raise InputError(
            "ids must be the whole sequences, each longer than those of the cache by the same number of tokens, "
            f"got {lengths.tolist()} tokens for a cache of {cache.length.tolist()}"
        )
    return most
