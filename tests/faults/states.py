"""Models of different sizes, so that a mixture of two files is noticed."""

from __future__ import annotations

import functools

import torch
from torch import nn

import perceiver_kit as kit


@functools.cache
def state(number: int) -> nn.Module:
    """Model ``number``; no two share a value."""
    torch.manual_seed(number)
    sizes = dict(num_latents=2 + number % 3, layers=number % 2, channels=8, qk_channels=8, v_channels=16)
    return kit.build("masked_lm", preset="tiny", max_length=16, latent_dim=16, decoder_qk_channels=8, **sizes)
