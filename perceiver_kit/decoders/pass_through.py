"""No decoder: the queries are the rows already, such as latents as they are."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..block import Block
from ..checking import check_positive
from ..registry import register


@register("decoders")
class PassThrough(Block):
    """The queries as they are, for ``LatentQuery``: an output row for each latent.

    >>> PassThrough(64)(torch.zeros(2, 8, 64), torch.randn(2, 8, 64)).shape
    torch.Size([2, 8, 64])
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_positive("PassThrough", latent_dim=latent_dim)
        self.query_channels = self.latent_dim = self.out_channels = latent_dim

    def forward(self, queries: Float[Tensor, "b o d"], latents: Float[Tensor, "b m d"]) -> Float[Tensor, "b o d"]:
        return queries
