"""Mean pooling of the latents, for outputs without queries."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from ..block import LEFT_OUT, Block
from ..checks import check_positive
from ..initialisation import linear
from ..registry import register


@register("decoders")
class MeanPool(Block):
    """The mean of the latents through a linear layer, the same for every query; queries may be empty.

    >>> MeanPool(64, out_channels=10)(torch.zeros(1, 1, 0), torch.randn(2, 8, 64)).shape
    torch.Size([2, 1, 10])
    """

    query_channels = 0

    fills: ClassVar = {
        name: lambda model, arguments: model.encoder.latent_dim for name in ("latent_dim", "out_channels")
    }

    def __init__(self, latent_dim: int = LEFT_OUT, *, out_channels: int = LEFT_OUT) -> None:
        super().__init__()
        check_positive("MeanPool", latent_dim=latent_dim, out_channels=out_channels)
        self.latent_dim, self.out_channels = latent_dim, out_channels
        self.project = linear(latent_dim, out_channels)

    def forward(self, queries: Float[Tensor, "#b o c"], latents: Float[Tensor, "b m d"]) -> Float[Tensor, "b o out"]:
        return self.project(latents.mean(1, keepdim=True)).expand(-1, queries.shape[1], -1)
