"""Generation with causal models: prompts in, tokens that follow out, with a cache that is exact while it has room.

A cache holds keys and values of everything read so far. Until ``num_latents`` latents are in use, cached and uncached
logits agree. Past that the policy says what is computed; they cannot all agree, since a kept latent has read latents
that a new pass does not have:

=============  ======================================================  ================================================
policy         past ``num_latents`` latents, or ``context`` rows        a token costs
=============  ======================================================  ================================================
``recompute``  a pass over the last ``context`` tokens for each token   a pass; exact
``refill``     a pass that leaves ``free`` latents free, then cached    a pass in ``free`` tokens; fewer latents read
``roll``       the oldest latents and rows fall out                     a row; latents hold what fell out of reach
=============  ======================================================  ================================================

The model holds no state: a cache is given to each call and returned by it.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor, nn

from .checks import check_choice, check_number, check_positive, check_seed, describe_value, short
from .data.bytes import BYTE_OFFSET, ByteTokenizer
from .data.sampling import generator
from .decoders import PassThrough
from .encoders import Cache, CausalEncoder
from .errors import AssemblyError, InputError
from .flags import checked_flags
from .inputs import TextTokens
from .model import PerceiverIO
from .queries import LatentQuery
from .tokens import Encoded, Layout, Tokens

Policy = Literal["recompute", "refill", "roll"]
Prompt = str | Sequence[int] | Tensor
POLICIES = ("recompute", "refill", "roll")


@checked_flags
def generate(
    model: nn.Module,
    prompt: Prompt | Sequence[Prompt],
    *,
    length: int = 100,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop: Sequence[int] = (),
    seed: int | None = None,
    policy: Policy = "refill",
    free: int | None = None,
    stream: bool = False,
) -> Any:
    """The tokens that follow a prompt: text for text, ids for ids, a list for a list of prompts.

    Each prompt of a batch is continued as it would be alone; their lengths may differ. An untrained ``causal_lm`` gives
    all tokens one probability, and its likeliest token, the first, is padding: an empty text.

    Args:
        model: a causal model in evaluation mode, such as ``causal_lm``.
        prompt: a text (of models of bytes), ids (n,), or a list of either. 1 to ``context`` tokens.
        length: the number of new tokens, fewer where one of ``stop`` comes first.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: sample from so many of the likeliest tokens.
        top_p: sample from the fewest tokens that have this probability together.
        repetition_penalty: divides positive logits of tokens that have occurred, multiplies negative ones.
        stop: ids that end a sequence; they are not part of it.
        seed: of the random numbers; each prompt has its own from the seed and its place in the batch.
        policy: what happens when the cache is full: see ``perceiver_kit.generation``.
        free: the latents that ``refill`` leaves free (default: half).
        stream: an iterator over what follows, as it is generated, instead of the whole.

    Raises InputError for a model that is not causal or in training mode, an empty or too long prompt, ids outside the
    vocabulary, and numbers out of range.

    >>> model = build("causal_lm", preset="tiny").eval()
    >>> len(generate(model, torch.tensor([5, 6, 7]), length=4, seed=0))
    4
    """
    [name], encoder = _causal_parts(model)
    vocabulary = model.inputs.blocks[name].vocabulary  # type: ignore[union-attr, operator]
    device = next(model.parameters()).device
    many = isinstance(prompt, list | tuple) and (not prompt or not all(isinstance(item, int) for item in prompt))
    prompts: Any = prompt if many else [prompt]
    text = any(isinstance(each, str) for each in prompts)
    if text and not all(isinstance(each, str) for each in prompts):
        raise InputError("prompt must be all texts or all ids, got both; encode the texts: kit.ByteTokenizer()")
    sequences = [_ids(each, i, vocabulary, encoder.context) for i, each in enumerate(prompts)]
    if not sequences:
        raise InputError("prompt must be at least one prompt, got none")
    _check_sampling(length, temperature, top_k, top_p, repetition_penalty, seed)
    ends = _stops(stop, vocabulary)
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    randoms = [generator(seed, row) for row in range(len(sequences))]
    _check_policy(encoder, policy, free)
    _check_roll(encoder, policy, max(map(len, sequences)) + length - 1)

    def steps() -> Iterator[list[int | None]]:
        ids, mask, cache = *_left_padded(sequences, device), None
        running = [True] * len(sequences)
        for _ in range(length):
            logits, cache = next_logits(model, ids, mask, cache, policy=policy, free=free)
            if repetition_penalty != 1:
                logits = _penalised(logits, ids, mask, repetition_penalty)
            new = _sampled(logits, randoms, temperature, top_k, top_p)
            running = [on and token not in ends for on, token in zip(running, new.tolist(), strict=True)]
            yield [token if on else None for on, token in zip(running, new.tolist(), strict=True)]
            if not any(running):
                return
            ids = torch.cat([ids, rearrange(new, "b -> b 1")], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)

    pieces = _pieces(steps(), len(sequences), text)
    if stream:
        return pieces if many else (piece[0] for piece in pieces if piece[0])
    parts = [*zip(*pieces, strict=True)]
    whole = ["".join(part) if text else [token for piece in part for token in piece] for part in parts]
    whole = whole if text else [torch.tensor(tokens, dtype=torch.int64) for tokens in whole]
    return whole if many else whole[0]


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

    ``ids`` are the whole sequences, padded on the left where ``mask`` is False. With a cache, only the tokens after it
    are read, one by one. ``latents`` is the number that read a first call (default: as many as there are). No cache is
    given back for a model whose rows change when others follow.

    Raises InputError for a mask that is not padding on the left, and a cache of another model, of another batch or of
    no fewer tokens.

    >>> model = build("causal_lm", preset="tiny").eval()
    >>> logits, cache = next_logits(model, torch.tensor([[5, 6, 7]]))
    >>> again, _ = next_logits(model, torch.tensor([[5, 6, 7, 8]]), cache=cache)
    >>> again.shape
    torch.Size([1, 262])
    """
    [name], encoder = _causal_parts(model)
    _check_policy(encoder, policy, free)
    _check_latents(encoder, latents)
    mask = _checked_padding(ids, mask)
    lengths = mask.sum(1)
    rows = lengths.clamp(max=encoder.context)
    count = rows.clamp(max=encoder.places if latents is None else latents)
    if cache is not None:
        for later in range(_tokens_after(encoder, cache, lengths) - 1, 0, -1):
            _, cache = next_logits(model, ids[:, :-later], mask[:, :-later], cache, policy=policy, free=free)
        assert cache is not None
        rows_held, latents_held = cache.rows.sum(1), cache.latents.sum(1)
        full = (latents_held >= encoder.num_latents) | (rows_held >= encoder.context)
        if policy == "roll" or not bool(full.any()):
            cache = cache.last(encoder.context - 1, encoder.num_latents - 1)
            return _read(model, name, ids, mask, lengths, new=1, cache=cache)
        if policy == "refill":
            room = _free(encoder, free)
            count = torch.where(full, _capacity(encoder) - room, latents_held + 1)
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
    """The logits after the last token. With ``new``, only so many are read; hashes see those before them.

    The cache is of sequences of ``lengths``, of which ``ids`` may be the end.
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


# ---- tokens


def _left_padded(sequences: list[Tensor], device: torch.device) -> tuple[Int64[Tensor, "b n"], Bool[Tensor, "b n"]]:
    longest = max(map(len, sequences))
    # Any id does for padding, which is not read.
    padded = [torch.cat([each.new_zeros(longest - len(each)), each]) for each in sequences]
    start = torch.tensor([longest - len(each) for each in sequences])
    mask = torch.arange(longest) >= rearrange(start, "b -> b 1")
    return torch.stack(padded).to(device), mask.to(device)


def _penalised(
    logits: Float[Tensor, "b v"], ids: Int64[Tensor, "b n"], mask: Bool[Tensor, "b n"], penalty: float
) -> Float[Tensor, "b v"]:
    logits = logits.double()  # where a large penalty does not overflow
    occurred = torch.zeros_like(logits).scatter_add(1, ids, mask.to(logits.dtype)) > 0
    return torch.where(occurred, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _sampled(
    logits: Float[Tensor, "b v"],
    randoms: list[Generator],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> Int64[Tensor, "b"]:
    if bool(logits.isnan().any()):
        raise InputError("generate: the model's logits are NaN; are its weights finite?")
    if temperature == 0:
        return logits.argmax(-1)
    most = torch.finfo(torch.float64).max
    sorted_logits, order = logits.double().clamp(-most, most).sort(-1, descending=True)
    probabilities = ((sorted_logits - sorted_logits[:, :1]) / temperature).softmax(-1)
    if top_k is not None:
        probabilities[:, top_k:] = 0
    if top_p is not None:  # a token is kept while those before it fall short
        before = (probabilities / probabilities.sum(-1, keepdim=True)).cumsum(-1).roll(1, -1)
        before[:, 0] = 0
        probabilities = probabilities.where(before < top_p, 0)
    # One uniform number for each row, of its own generator: what a row draws does not depend on the others.
    draws = torch.stack([torch.rand(1, generator=random, dtype=torch.float64) for random in randoms]).to(logits.device)
    total = probabilities.cumsum(-1)
    picked = (total <= draws * total[:, -1:]).sum(-1, keepdim=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    return rearrange(order.gather(-1, torch.minimum(picked, last)), "b 1 -> b")


def _pieces(steps: Iterator[list[int | None]], rows: int, text: bool) -> Iterator[list[Any]]:
    """What each step adds to each row: text, once its bytes are whole characters, or a list of ids."""
    decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(rows)]
    for tokens in steps:
        if not text:
            yield [[] if token is None else [token] for token in tokens]
            continue
        parts = [b"" if token is None or token < BYTE_OFFSET else bytes([token - BYTE_OFFSET]) for token in tokens]
        yield [decoder.decode(part) for decoder, part in zip(decoders, parts, strict=True)]
    if text and any(ends := [decoder.decode(b"", final=True) for decoder in decoders]):
        yield ends


# ---- checks


def _causal_parts(model: Any) -> tuple[list[str], CausalEncoder]:
    """The name of the text, and the encoder; InputError for a model that cannot generate."""
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


def _ids(prompt: object, number: int, vocabulary: int, context: int) -> Int64[Tensor, "n"]:
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


def _stops(stop: object, vocabulary: int) -> frozenset[int]:
    ids = stop.tolist() if isinstance(stop, Tensor) else stop
    good = isinstance(ids, Collection) and all(type(i) is int and 0 <= i < vocabulary for i in ids)
    if not good:
        raise InputError(f"generate: stop must be a list of ids from 0 to {vocabulary - 1}, got {short(stop)}")
    return frozenset(ids)  # type: ignore[arg-type]


def _check_sampling(
    length: int, temperature: float, top_k: int | None, top_p: float | None, penalty: float, seed: int | None
) -> None:
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


def _free(encoder: CausalEncoder, free: int | None) -> int:
    return _capacity(encoder) // 2 if free is None else free


def _capacity(encoder: CausalEncoder) -> int:
    """The latents that can be in use: no more than there are rows."""
    return min(encoder.num_latents, encoder.context)


def _check_policy(encoder: CausalEncoder, policy: str, free: int | None) -> None:
    try:
        check_choice("generate", "policy", policy, POLICIES)
        check_positive("generate", free=_free(encoder, free), least=0)
    except AssemblyError as error:
        raise InputError(str(error)) from None
    if policy == "refill" and not _free(encoder, free) < _capacity(encoder):
        raise InputError(f"generate: free must be below the {_capacity(encoder)} latents in use, got {free}")


def _check_roll(encoder: CausalEncoder, policy: str, total: int) -> None:
    if policy == "roll" and encoder.positions is not None and total > encoder.context:
        raise InputError(
            f"generate: {total} tokens are more than the context of {encoder.context}, past which positions that are "
            "added to the rows cannot roll: use policy 'refill' or 'recompute'"
        )


def _check_latents(encoder: CausalEncoder, latents: object) -> None:
    try:
        check_positive("generate", latents=1 if latents is None else latents)  # type: ignore[arg-type]
    except AssemblyError as error:
        raise InputError(str(error)) from None


def _checked_padding(ids: object, mask: object) -> Bool[Tensor, "b n"]:
    """The mask, all True where none is given."""
    if not isinstance(ids, Tensor) or ids.dtype != torch.int64 or ids.ndim != 2:
        raise InputError(f"ids must be int64 (b, n), got {describe_value(ids)}")
    if mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != ids.shape:
        raise InputError(f"mask must be bool {tuple(ids.shape)}, as the ids, got {describe_value(mask)}")
    if bool((mask[:, :-1] & ~mask[:, 1:]).any()) or not bool(mask[:, -1:].all()):
        raise InputError("mask must be False at padding on the left alone, but it ends with False or has holes")
    return mask


def _tokens_after(encoder: CausalEncoder, cache: object, lengths: Int64[Tensor, "b"]) -> int:
    """The number of tokens that follow those of the cache."""
    if not isinstance(cache, Cache):
        raise InputError(f"cache must be a Cache that next_logits gave back, got {describe_value(cache)}")
    if cache.owner != id(encoder):
        raise InputError("cache is of another model: begin without one")
    if len(cache.position) != len(lengths):
        raise InputError(f"cache is of a batch of {len(cache.position)}, but ids are of {len(lengths)}")
    fewest, most = (int(count) for count in (lengths - cache.length).aminmax())
    if fewest < 1 or fewest < most:
        raise InputError(
            "ids must be the whole sequences, all longer than those of the cache by the same number of tokens, "
            f"got {lengths.tolist()} tokens for a cache of {cache.length.tolist()}"
        )
    return most
