"""Content of any kind through a linear layer."""

from __future__ import annotations

from torch import Tensor

from ..checking import check_positive
from ..errors import AssemblyError
from ..initialisation import linear
from ..plain import match_dtype
from ..positions import Positions
from ..registry import register
from .base import Combine, Input


@register("inputs")
class Embedded(Input):
    """The content of another input block through a linear layer to ``channels``; positions follow.

    >>> Embedded(Features(3), 16)(torch.zeros(2, 7, 3)).rows.shape
    torch.Size([2, 7, 16])
    """

    def __init__(
        self, content: Input, channels: int, *, positions: Positions | None = None, combine: Combine = "concat"
    ) -> None:
        check_positive("Embedded", channels=channels)
        if not isinstance(content, Input) or content.positions is not None:
            raise AssemblyError(
                f"Embedded: content must be an input block without positions, got {content}; give them to Embedded"
            )
        super().__init__(channels, axes=content.axes, grid=content.grid, positions=positions, combine=combine)
        self.content = content
        self.embedding = linear(content.content_channels, channels)

    @property
    def raw_axes(self) -> str:
        return self.content.raw_axes

    def masked(self, raw: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        return self.content.masked(raw, mask)

    def check_values(self, raw: Tensor, name: str) -> None:
        self.content.check_values(raw, name)

    def embed(self, raw: Tensor, name: str) -> Tensor:
        return self.embedding(match_dtype(self.content.embed(raw, name), self.embedding))
