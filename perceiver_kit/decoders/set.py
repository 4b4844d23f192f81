"""A decoder for sets: queries read each other before they read the latents."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..activations import Activation
from ..attention import Factory
from ..block import LEFT_OUT, Block
from ..checking import check_positive
from ..initialisation import linear
from ..layers import CrossAttentionLayer, SelfAttentionLayer
from ..registry import register
from .cross_attention import Decoder


@register("decoders")
class SetDecoder(Block):
    """``layers`` in which queries read each other, then the latents; a linear layer to ``out_channels`` if given.

    For outputs that must differ from each other, such as the objects of an image: a query sees what the others found.
    The rows depend on all queries, so ``at`` and ``chunk`` are refused. ``query_mask`` (b, o) is True where a query
    exists: others neither read nor are read.

    Source: DETR (Carion et al. 2020), section 3.2, here with layer norms before each layer.

    >>> SetDecoder(12, 64, layers=2, heads=2)(torch.zeros(1, 7, 12), torch.randn(2, 8, 64)).shape
    torch.Size([2, 7, 12])
    """

    mixes_rows = True

    fills: ClassVar = Decoder.fills

    def __init__(
        self,
        query_channels: int = LEFT_OUT,
        latent_dim: int = LEFT_OUT,
        *,
        layers: int = 2,
        out_channels: int | None = None,
        heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        widening: int = 1,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        activation: Activation = "gelu",
        norm: Factory | None = None,
        mlp: Factory | None = None,
    ) -> None:
        super().__init__()
        check_positive("SetDecoder", query_channels=query_channels, latent_dim=latent_dim)
        check_positive("SetDecoder", layers=layers, most=1024)
        self.query_channels, self.latent_dim = query_channels, latent_dim
        options = dict(
            heads=heads,
            qk_channels=query_channels if qk_channels is None else qk_channels,
            v_channels=v_channels,
            widening=widening,
            dropout=dropout,
            residual_dropout=residual_dropout,
            activation=activation,
            norm=norm,
            mlp=mlp,
        )
        self.own = nn.ModuleList(SelfAttentionLayer(query_channels, **options) for _ in range(layers))  # type: ignore[arg-type]
        self.cross = nn.ModuleList(
            CrossAttentionLayer(query_channels, latent_dim, **options)  # type: ignore[arg-type]
            for _ in range(layers)
        )
        if out_channels is not None:
            check_positive("SetDecoder", out_channels=out_channels)
        self.out_channels = query_channels if out_channels is None else out_channels
        self.project = None if out_channels is None else linear(query_channels, out_channels)

    def forward(
        self,
        queries: Float[Tensor, "#b o c"],
        latents: Float[Tensor, "b m d"],
        *,
        query_mask: Bool[Tensor, "b o"] | None = None,
    ) -> Float[Tensor, "b o out"]:
        rows = queries.expand(latents.shape[0], -1, -1)
        for own, cross in zip(self.own, self.cross, strict=True):
            rows = cross(own(rows, query_mask), latents, query_mask=query_mask)
        return rows if self.project is None else self.project(rows)
