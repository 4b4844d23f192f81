"""Mean pooling of the latents, for outputs without queries."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..attention import Factory
from ..block import LEFT_OUT, Block
from ..checking import check_positive
from ..initialisation import linear
from ..registry import register


@register("decoders")
class MeanPool(Block):
    """The mean of the latents, the same for every query; queries may be empty.

    ``norm`` makes a norm of the mean (``variants.py``); a linear layer to ``out_channels`` follows, if given.

    >>> MeanPool(64, out_channels=10)(torch.zeros(1, 1, 0), torch.randn(2, 8, 64)).shape
    torch.Size([2, 1, 10])
    """

    query_channels = 0

    fills: ClassVar = {"latent_dim": lambda model, arguments: model.encoder.latent_dim}

    def __init__(
        self, latent_dim: int = LEFT_OUT, *, out_channels: int | None = None, norm: Factory | None = None
    ) -> None:
        super().__init__()
        self.out_channels = latent_dim if out_channels is None else out_channels
        check_positive("MeanPool", latent_dim=latent_dim, out_channels=self.out_channels)
        self.latent_dim = latent_dim
        self.norm: nn.Module = nn.Identity() if norm is None else norm(latent_dim)
        self.project = None if out_channels is None else linear(latent_dim, out_channels)

    def forward(self, queries: Float[Tensor, "#b o c"], latents: Float[Tensor, "b m d"]) -> Float[Tensor, "b o out"]:
        mean = self.norm(latents.mean(1, keepdim=True))
        rows = mean if self.project is None else self.project(mean)
        return rows.expand(-1, queries.shape[1], -1)
