"""Text of which each token also knows those before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Int64
from torch import Tensor, nn

from ..checks import check_positive, check_sizes
from ..initialisation import learned
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine
from .text import TextTokens


@register("inputs")
class PastTokens(TextTokens):
    """Token ids (b, n) int64 below ``vocabulary``; to each row is added what ``ngrams`` that end at its token have.

    The last n ids, for each n in ``ngrams``, are hashed to one of ``buckets`` rows of a table. No row knows of later
    tokens, so a causal model may read them. Id 0 before the first token.

    Source of hashed n-grams: Byte Latent Transformer (Pagnoni et al. 2024), section 3.2.1.

    >>> PastTokens(262, 32, ngrams=(2, 3))(torch.zeros(2, 7, dtype=torch.int64)).rows.shape
    torch.Size([2, 7, 32])
    """

    def __init__(
        self,
        vocabulary: int,
        channels: int,
        *,
        ngrams: tuple[int, ...],
        buckets: int = 2**16,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "add",
    ) -> None:
        super().__init__(vocabulary, channels, grid=grid, positions=positions, combine=combine)
        check_positive("PastTokens", buckets=buckets)
        self.ngrams, self.buckets = check_sizes("PastTokens", "ngrams", ngrams), buckets
        self.table = nn.EmbeddingBag(buckets, channels, mode="sum", _weight=learned(buckets, channels))

    @property
    def history(self) -> int:
        """How many tokens before it a row knows."""
        return max(self.ngrams) - 1

    def embed(self, raw: Tensor, name: str) -> Tensor:
        rows = super().embed(raw, name)
        hashes = rearrange(hash_past(raw, self.ngrams, self.buckets), "b n grams -> (b n) grams")
        return rows + rearrange(self.table(hashes), "(b n) c -> b n c", b=raw.shape[0])


def hash_past(ids: Int64[Tensor, "b n"], sizes: tuple[int, ...], buckets: int) -> Int64[Tensor, "b n grams"]:
    """The bucket of the last so many ids at each place.

    >>> hash_past(torch.tensor([[7, 8, 9, 7, 8]]), (2,), 1000)[0, [1, 4]].unique().numel()
    1
    """
    hashes = []
    for size in sizes:
        padded, code = F.pad(ids, (size - 1, 0)), torch.full_like(ids, size)
        for start in range(size):  # products of int64 wrap
            code = (code ^ padded[:, start : start + ids.shape[1]]) * 0x9E3779B97F4A7C1
            code = code ^ (code >> 29)
        hashes.append(code % buckets)
    return torch.stack(hashes, -1)
