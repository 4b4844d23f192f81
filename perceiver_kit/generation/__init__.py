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

from .generating import Prompt, generate
from .reading import Policy, next_logits

__all__ = ["Policy", "Prompt", "generate", "next_logits"]
