"""Causal models of equal width: ``causal_lm`` and GPT-2, as calls that generate tokens or compute logits to train on.

Both have rows and latents of 64 channels and two heads. ``causal_lm`` has a cross-attention and two layers of 256
latents, GPT-2 has three layers of as many rows as the context. GPT-2 is that of `transformers`, with its fused
attention and its own cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .models import Call
from .tasks import KIT

VOCABULARY, CHANNELS, HEADS, LAYERS, LATENTS = 262, 64, 2, 2, 256


def model(side: str, context: int) -> nn.Module:
    torch.manual_seed(0)
    if side == KIT:
        import perceiver_kit as kit

        sizes = dict(channels=CHANNELS, latent_dim=CHANNELS, cross_heads=HEADS, self_heads=HEADS, layers=LAYERS)
        return kit.build("causal_lm", preset="tiny", context=context, num_latents=LATENTS, **sizes).eval()
    import transformers

    config = transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=context,
        n_embd=CHANNELS,
        n_head=HEADS,
        n_layer=LAYERS + 1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    return transformers.GPT2LMHeadModel(config).eval()


def ids(context: int) -> Tensor:
    return torch.randint(VOCABULARY, (1, context))


def logits(made: Any, side: str, text: Tensor) -> dict[str, Tensor]:
    """Logits of all rows that predict: the last 256 of ``causal_lm``, all of GPT-2."""
    return made({"text": text}) if side == KIT else {"text": made(text, use_cache=False).logits}


def tokens(made: Any, side: str, text: Tensor, policy: str) -> tuple[Call, int]:
    """A call that generates after a full context, and the number of tokens that it generates.

    Policies are those of ``kit.generate``; for GPT-2, ``"recompute"`` is a pass without a cache and all others are its
    cache. What a cache holds has no effect on time, so GPT-2's is random: reading the prompt takes a pass.
    """
    context = text.shape[1]
    if side == KIT:
        from perceiver_kit.generation import next_logits

        if policy == "recompute":
            return lambda: next_logits(made, text), 1
        _, full = next_logits(made, text[:, :-1])
        if policy == "roll":
            return lambda: next_logits(made, text, cache=full, policy="roll"), 1
        free = min(LATENTS, context) // 2

        def refill() -> None:
            sequence, cache = text, full
            for _ in range(free):  # a pass, then tokens until the latents are in use
                _, cache = next_logits(made, sequence, cache=cache, policy="refill")
                sequence = torch.cat([sequence, text[:, :1]], 1)

        return refill, free
    if policy == "recompute":
        return lambda: made(text, use_cache=False, logits_to_keep=1), 1
    from transformers import DynamicCache

    cache = DynamicCache()
    for layer in range(LAYERS + 1):
        cache.update(
            *(torch.randn(1, HEADS, context - 1, CHANNELS // HEADS, device=text.device) for _ in range(2)), layer
        )

    def cached() -> None:
        made(text[:, -1:], past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return cached, 1
