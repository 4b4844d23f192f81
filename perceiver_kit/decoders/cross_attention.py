"""The decoder of Perceiver IO: each query cross-attends to the latents and gives one row of output."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..activations import Activation
from ..attention import CrossAttentionLayer, Make
from ..block import LEFT_OUT, Block
from ..checks import check_positive
from ..initialisation import linear
from ..registry import register


@register("decoders")
class Decoder(Block):
    """Each query cross-attends to the latents; a linear layer to ``out_channels`` follows, if given.

    Queries do not interact: decoding a subset of them gives the same rows. ``query_mask`` (b, o) is True where a query
    reads the latents, as the original's decoder has for padded text; without it all do. ``zero_output`` initialises the
    final linear layer to zero. ``norm`` and ``mlp`` make other norms and MLPs, as in ``CrossAttentionLayer``.

    Source: Perceiver IO (Jaegle et al. 2022), section 3.2.

    >>> Decoder(10, 64, out_channels=3)(torch.zeros(1, 7, 10), torch.randn(2, 8, 64)).shape
    torch.Size([2, 7, 3])
    """

    fills: ClassVar = {
        "query_channels": lambda model, arguments: model.queries.channels,
        "latent_dim": lambda model, arguments: model.encoder.latent_dim,
    }

    def __init__(
        self,
        query_channels: int = LEFT_OUT,
        latent_dim: int = LEFT_OUT,
        *,
        out_channels: int | None = None,
        heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        query_residual: bool = False,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        zero_output: bool = False,
        activation: Activation = "gelu",
        norm: Make | None = None,
        mlp: Make | None = None,
    ) -> None:
        super().__init__()
        check_positive("Decoder", query_channels=query_channels, latent_dim=latent_dim)
        self.query_channels, self.latent_dim = query_channels, latent_dim
        self.cross = CrossAttentionLayer(
            query_channels,
            latent_dim,
            heads=heads,
            qk_channels=qk_channels,
            v_channels=v_channels,
            widening=widening,
            query_residual=query_residual,
            dropout=dropout,
            residual_dropout=residual_dropout,
            activation=activation,
            norm=norm,
            mlp=mlp,
        )
        if out_channels is not None:
            check_positive("Decoder", out_channels=out_channels)
        self.out_channels = query_channels if out_channels is None else out_channels
        self.project = None if out_channels is None else linear(query_channels, out_channels)
        if zero_output and self.project is not None:
            nn.init.zeros_(self.project.weight)

    def forward(
        self,
        queries: Float[Tensor, "#b o c"],
        latents: Float[Tensor, "b m d"],
        *,
        query_mask: Bool[Tensor, "b o"] | None = None,
    ) -> Float[Tensor, "b o out"]:
        rows = self.cross(queries, latents, query_mask=query_mask)
        return rows if self.project is None else self.project(rows)
