"""Text as token ids."""

from __future__ import annotations

from torch import Tensor, nn

from ..checks import check_positive, check_tensor, checks_values
from ..errors import InputError
from ..initialisation import learned
from ..positions import Positions
from ..registry import register
from ..tokens import Grid
from .base import Combine, Input


@register("inputs")
class TextTokens(Input):
    """Token ids (b, n) int64 below ``vocabulary``, each embedded as a row of ``channels``.

    >>> TextTokens(262, 32)(torch.zeros(2, 7, dtype=torch.int64)).rows.shape
    torch.Size([2, 7, 32])
    """

    def __init__(
        self,
        vocabulary: int,
        channels: int,
        *,
        grid: Grid | None = None,
        positions: Positions | None = None,
        combine: Combine = "add",
    ) -> None:
        check_positive("TextTokens", vocabulary=vocabulary, channels=channels)
        super().__init__(channels, grid=grid, positions=positions, combine=combine)
        self.vocabulary = vocabulary
        self.embedding = nn.Embedding(vocabulary, channels, _weight=learned(vocabulary, channels))

    @property
    def raw_axes(self) -> str:
        return "b n"

    def embed(self, raw: Tensor, name: str) -> Tensor:
        check_tensor(raw, name, self.raw_axes, kind="int64", hint="token ids, such as kit.ByteTokenizer makes")
        if checks_values(raw):
            self.check_values(raw, name)
        return self.embedding(raw)

    def check_values(self, raw: Tensor, name: str) -> None:
        low, high = (int(bound) for bound in raw.aminmax())
        if low < 0 or high >= self.vocabulary:
            raise InputError(f"{name} must be ids from 0 to {self.vocabulary - 1}, got {low} to {high}")
