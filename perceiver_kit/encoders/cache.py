"""What a causal encoder keeps of the rows that it has read, for those that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ..attention_backends import KeyValues


@dataclass(frozen=True)
class Cache:
    """What later rows read of earlier ones: keys and values of the input rows and of the latents, layer by layer.

    Of a sample that began later or was shorter, the first columns are not ``rows`` (b, n) or ``latents`` (b, m).
    ``position`` (b,) is that of the next row, ``length`` (b,) the number of rows read, with those that are no longer
    held, and ``owner`` the identity of the encoder.
    """

    cross: tuple[KeyValues, ...]
    layers: tuple[KeyValues, ...]
    rows: Bool[Tensor, "b n"]
    latents: Bool[Tensor, "b m"]
    position: Int64[Tensor, "b"]
    length: Int64[Tensor, "b"]
    owner: int

    def last(self, rows: int, latents: int) -> Cache:
        """Only so many of the newest rows and latents."""
        held = (max(0, self.rows.shape[1] - rows), max(0, self.latents.shape[1] - latents))

        def cut(parts: tuple[KeyValues, ...], start: int) -> tuple[KeyValues, ...]:
            return tuple(KeyValues(part.key[:, :, start:], part.value[:, :, start:]) for part in parts)

        parts = dict(cross=cut(self.cross, held[0]), layers=cut(self.layers, held[1]))
        return replace(self, **parts, rows=self.rows[:, held[0] :], latents=self.latents[:, held[1] :])


class Kept:
    """Keys and values of one pass, each after those of the cache."""

    def __init__(self, past: Cache | None) -> None:
        self.past = past
        self.crossed: list[KeyValues] = []
        self.layers: list[KeyValues] = []

    def cross(self, new: KeyValues) -> KeyValues:
        """All that the next cross-attention reads: the keys and values of its new rows, and those before them."""
        past = None if self.past is None else self.past.cross[len(self.crossed)]
        self.crossed.append(new if past is None else past.followed_by(new))
        return self.crossed[-1]

    def layer(self, new: KeyValues) -> KeyValues:
        """All that the next layer of self-attention reads."""
        past = None if self.past is None else self.past.layers[len(self.layers)]
        self.layers.append(new if past is None else past.followed_by(new))
        return self.layers[-1]

    def cache(
        self, rows: Bool[Tensor, "b n"], latents: Bool[Tensor, "b m"], count: Int64[Tensor, "b"], owner: int
    ) -> Cache:
        """The cache after a pass over ``count`` rows of each sample."""
        position = count if self.past is None else self.past.position + count
        length = count if self.past is None else self.past.length + count
        return Cache(tuple(self.crossed), tuple(self.layers), rows, latents, position, length, owner)


def all_of(mask: Bool[Tensor, "b n"] | None, b: int, n: int, device: torch.device) -> Bool[Tensor, "b n"]:
    """The mask, all True where none is given."""
    return torch.ones(b, n, dtype=torch.bool, device=device) if mask is None else mask
