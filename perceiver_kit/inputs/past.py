"""Text of which each token also knows those before it."""

from __future__ import annotations

from ..checking import check_positive, check_sizes
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
        ngrams = check_sizes("PastTokens", "ngrams", ngrams)
        check_positive("PastTokens", buckets=buckets)
        super().__init__(
            vocabulary, channels, ngrams=ngrams, buckets=buckets, grid=grid, positions=positions, combine=combine
        )

    @property
    def history(self) -> int:
        """How many tokens before it a row knows."""
        return max(self.ngrams) - 1

    def before(self, size: int) -> int:
        return size - 1
