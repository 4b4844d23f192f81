"""Generation with causal models: continue prompts token by token, with a cache of keys and values.

Each new token adds a row and a latent to the cache, which is full at ``num_latents`` latents or ``context`` rows. Until
then its logits equal those of a pass, which encodes the sequence without a cache. When it is full, ``policy`` decides:

- ``recompute``: each new token is a pass over the last ``context`` tokens. Exact, and the slowest.
- ``refill``: a pass with ``free`` fewer latents, after which the next ``free`` tokens fit the cache. Tokens cost less,
  but fewer latents read the rows.
- ``roll``: each new token replaces the oldest latent and row. The fastest, but kept latents have read dropped rows.

The model holds no state: each call takes a cache and returns one.
"""

from .generating import Prompt, generate
from .reading import Policy, next_logits

__all__ = ["Policy", "Prompt", "generate", "next_logits"]
