"""Learned vectors that pad modalities of different widths to a common one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .block import Block
from .initialisation import learned
from .modalities import ByModality


class LearnedVector(nn.Module):
    """One learned row: the padding of a modality to the common width, or its mask token."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.vector = learned(1, channels)

    def forward(self, rows: Float[Tensor, "*b n c"]) -> Float[Tensor, "*b n d"]:
        """The vector expanded to these rows, without a copy."""
        return self.vector.expand(*rows.shape[:-1], -1)


def common_width(blocks: Mapping[str, Block], min_padding: int) -> tuple[int, ByModality]:
    """The width that all modalities are padded to, and the learned padding of each narrower one."""
    widths = {name: int(block.channels) for name, block in blocks.items()}  # type: ignore[arg-type]
    channels = max(widths.values()) + min_padding
    return channels, ByModality({name: LearnedVector(channels - w) for name, w in widths.items() if w < channels})


def pad(rows: Float[Tensor, "*b n c"], padding: ByModality, name: str) -> Float[Tensor, "*b n d"]:
    """Rows of a modality at the common width."""
    return torch.cat([rows, padding[name](rows).to(rows.dtype)], dim=-1) if name in padding else rows
