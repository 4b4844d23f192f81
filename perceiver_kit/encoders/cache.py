"""The cache of a causal encoder: keys and values of earlier rows and latents, for the rows that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ..attention_backends import KeyValues


@dataclass(frozen=True)
class Cache:
    """Keys and values that later rows read: of input rows (``cross``) and of latents (``layers``), layer by layer.

    Columns of shorter samples start with padding: ``rows`` (b, n) and ``latents`` (b, m) are False there. ``position``
    (b,) is the position of the next row. ``length`` (b,) is the number of rows read, including rows that ``last`` has
    dropped. ``owner`` is the ``id`` of the encoder.
    """

    cross: tuple[KeyValues, ...]
    layers: tuple[KeyValues, ...]
    rows: Bool[Tensor, "b n"]
    latents: Bool[Tensor, "b m"]
    position: Int64[Tensor, "b"]
    length: Int64[Tensor, "b"]
    owner: int

    def last(self, rows: int, latents: int) -> Cache:
        """Keep only the last ``rows`` rows and the last ``latents`` latents."""
        dropped = (max(0, self.rows.shape[1] - rows), max(0, self.latents.shape[1] - latents))

        def cut(parts: tuple[KeyValues, ...], start: int) -> tuple[KeyValues, ...]:
            return tuple(KeyValues(part.key[:, :, start:], part.value[:, :, start:]) for part in parts)

        parts = dict(cross=cut(self.cross, dropped[0]), layers=cut(self.layers, dropped[1]))
        return replace(self, **parts, rows=self.rows[:, dropped[0] :], latents=self.latents[:, dropped[1] :])


class CacheBuilder:
    """Collects the keys and values of one pass, joined to those of the cache before it."""

    def __init__(self, past: Cache | None) -> None:
        self.past = past
        self.crosses: list[KeyValues] = []
        self.layers: list[KeyValues] = []

    def cross(self, new: KeyValues) -> KeyValues:
        """The keys and values that the next cross-attention reads: those of the cache, then the new ones."""
        past = None if self.past is None else self.past.cross[len(self.crosses)]
        self.crosses.append(new if past is None else past.followed_by(new))
        return self.crosses[-1]

    def layer(self, new: KeyValues) -> KeyValues:
        """The same for the next layer of self-attention."""
        past = None if self.past is None else self.past.layers[len(self.layers)]
        self.layers.append(new if past is None else past.followed_by(new))
        return self.layers[-1]

    def cache(
        self, rows: Bool[Tensor, "b n"], latents: Bool[Tensor, "b m"], count: Int64[Tensor, "b"], owner: int
    ) -> Cache:
        """The cache after a pass over ``count`` rows of each sample."""
        position = count if self.past is None else self.past.position + count
        length = count if self.past is None else self.past.length + count
        return Cache(tuple(self.crosses), tuple(self.layers), rows, latents, position, length, owner)


def all_of(mask: Bool[Tensor, "b n"] | None, b: int, n: int, device: torch.device) -> Bool[Tensor, "b n"]:
    """The mask; all True for None."""
    return torch.ones(b, n, dtype=torch.bool, device=device) if mask is None else mask
