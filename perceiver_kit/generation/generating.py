"""``generate``: a loop that computes the logits of the next token and samples it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ..data.sampling import generator
from ..errors import InputError
from ..flags import checked_flags
from .checks import Policy, causal_parts, check_policy, check_roll, check_sampling, checked_ids, checked_stops
from .reading import next_logits
from .sampling import left_padded, penalised, pieces, sampled

Prompt = str | Sequence[int] | Tensor


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
    """Continue a prompt. Returns the new tokens: text for text, ids for ids, a list for a list of prompts.

    Each prompt of a batch is continued as it would be alone; their lengths may differ. An untrained ``causal_lm`` gives
    all tokens the same probability. With ``temperature=0`` it returns an empty text: the first id, padding, each time.

    Args:
        model: a causal model in evaluation mode, such as ``causal_lm``.
        prompt: a text (for models of bytes), ids (n,), or a list of either. 1 to ``context`` tokens.
        length: the number of new tokens, fewer where one of ``stop`` comes first.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: sample from the ``top_k`` likeliest tokens.
        top_p: sample from the likeliest tokens, the fewest whose probabilities sum to at least this (nucleus).
        repetition_penalty: for tokens that have occurred, divides positive logits and multiplies negative ones.
        stop: ids that end a sequence; they are not part of it.
        seed: each prompt has a generator of its own, seeded by this and its place in the batch.
        policy: what happens when the cache is full: see ``perceiver_kit.generation``.
        free: the latents that ``refill`` leaves free (default: half).
        stream: return an iterator over the new tokens, as they are generated.

    Raises InputError for a model that is not causal or in training mode, an empty or too long prompt, ids outside the
    vocabulary, and numbers out of range.

    >>> model = build("causal_lm", preset="tiny").eval()
    >>> len(generate(model, torch.tensor([5, 6, 7]), length=4, seed=0))
    4
    """
    [name], encoder = causal_parts(model)
    vocabulary = model.inputs.blocks[name].vocabulary  # type: ignore[union-attr, operator]
    device = next(model.parameters()).device
    many = isinstance(prompt, list | tuple) and (not prompt or not all(isinstance(item, int) for item in prompt))
    prompts: Any = prompt if many else [prompt]
    text = any(isinstance(each, str) for each in prompts)
    if text and not all(isinstance(each, str) for each in prompts):
        raise InputError("prompt must be all texts or all ids, got both; encode the texts: kit.ByteTokenizer()")
    sequences = [checked_ids(each, i, vocabulary, encoder.context) for i, each in enumerate(prompts)]
    if not sequences:
        raise InputError("prompt must be at least one prompt, got none")
    check_sampling(length, temperature, top_k, top_p, repetition_penalty, seed)
    ends = checked_stops(stop, vocabulary)
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    randoms = [generator(seed, row) for row in range(len(sequences))]
    check_policy(encoder, policy, free)
    check_roll(encoder, policy, max(map(len, sequences)) + length - 1)

    def steps() -> Iterator[list[int | None]]:
        ids, mask, cache = *left_padded(sequences, device), None
        running = [True] * len(sequences)
        for _ in range(length):
            logits, cache = next_logits(model, ids, mask, cache, policy=policy, free=free)
            if repetition_penalty != 1:
                logits = penalised(logits, ids, mask, repetition_penalty)
            new = sampled(logits, randoms, temperature, top_k, top_p)
            running = [on and token not in ends for on, token in zip(running, new.tolist(), strict=True)]
            yield [token if on else None for on, token in zip(running, new.tolist(), strict=True)]
            if not any(running):
                return
            ids = torch.cat([ids, rearrange(new, "b -> b 1")], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)

    found = pieces(steps(), len(sequences), text)
    if stream:
        return found if many else (piece[0] for piece in found if piece[0])
    parts = [*zip(*found, strict=True)]
    whole = ["".join(part) if text else [token for piece in part for token in piece] for part in parts]
    whole = whole if text else [torch.tensor(tokens, dtype=torch.int64) for tokens in whole]
    return whole if many else whole[0]
