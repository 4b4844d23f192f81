"""The decoder of Perceiver IO: each query cross-attends to the latents and gives one row of output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ..activations import Activation
from ..attention import Biases, Factory
from ..block import LEFT_OUT, Block
from ..checking import check_choice, check_positive
from ..errors import InputError
from ..grouping import Group, Order, groups_of
from ..initialisation import linear
from ..layers import CrossAttentionLayer
from ..observing import is_observed
from ..registry import register
from ..tokens import Grid, Layout


@register("decoders")
class Decoder(Block):
    """Each query cross-attends to the latents. If ``out_channels`` is given, a linear layer to that width follows.

    Queries do not interact: decoding some of them gives the same rows as decoding all. ``query_mask`` (b, o) is False
    for queries that read no latents, such as padding (the original code does this for text); by default every query
    reads. ``zero_output`` initialises the final linear layer to zero. ``query_residual`` adds the queries to what they
    read. ``norm``, ``mlp`` and ``widening`` are as in ``CrossAttentionLayer``.

    With ``groups`` > 1 the latents (b, groups · m, d) are in groups, as ``HierarchicalEncoder`` returns them. Queries
    that follow an input (one query for each of its rows) are divided into groups as the encoder divides these rows, and
    read the latents of their own group. ``groups`` and ``order`` (``grouping.py``) must be the encoder's. Other queries
    read all latents.

    Source: Perceiver IO (Jaegle et al. 2022), section 3.2; the groups: Hierarchical Perceiver (Carreira et al. 2022).

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
        norm: Factory | None = None,
        mlp: Factory | None = None,
        bias: Biases = "all",
        groups: int = 1,
        order: Order = "rows",
    ) -> None:
        super().__init__()
        check_positive("Decoder", query_channels=query_channels, latent_dim=latent_dim, groups=groups)
        check_choice("Decoder", "order", order, ("rows", "blocks"))
        self.query_channels, self.latent_dim, self.groups = query_channels, latent_dim, groups
        self.order: Order = order
        self.cross = CrossAttentionLayer(
            query_channels,
            latent_dim,
            heads=heads,
            qk_channels=qk_channels,
            v_channels=v_channels,
            bias=bias,
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

    def place(self, follows: str | None, grid: Grid, index: Tensor | None, layout: Layout) -> Mapping[str, Any]:
        """The options ``group`` and ``index`` of ``forward`` for queries that follow an input; none for other queries.

        ``index`` selects queries of the input's grid; None: all.
        """
        if follows is None or self.groups == 1:
            return {}
        own = groups_of(layout, self.groups, self.order)[follows]
        return {"group": Group(own.first, own.count, tuple(grid), self.order), "index": index}

    def forward(
        self,
        queries: Float[Tensor, "#b o c"],
        latents: Float[Tensor, "b m d"],
        *,
        query_mask: Bool[Tensor, "b o"] | None = None,
        group: Group | None = None,
        index: Int64[Tensor, "*b o"] | None = None,
    ) -> Float[Tensor, "b o out"]:
        if latents.shape[1] % self.groups:
            raise InputError(
                f"Decoder: the number of latents {latents.shape[1]} must be divisible by groups {self.groups}"
            )
        if group is None:
            rows = self.cross(queries, latents, query_mask=query_mask)
        # All queries, faster. Captured attention maps need the masked call below: one map over all groups' latents.
        elif index is None and not is_observed(self.cross) and not is_observed(self.cross.attention):
            rows = self._by_group(queries, latents, query_mask, group)
        else:
            index = torch.arange(queries.shape[1], device=queries.device) if index is None else index
            rows = self.cross(queries, latents, self._readable(index, latents, group), query_mask=query_mask)
        return rows if self.project is None else self.project(rows)

    def _by_group(
        self, queries: Tensor, latents: Tensor, query_mask: Tensor | None, group: Group
    ) -> Float[Tensor, "b o c"]:
        """Decode all queries of a grid. Groups are moved to the batch axis, so that no mask is needed."""
        b = latents.shape[0]
        read = rearrange(latents, "b (groups m) d -> b groups m d", groups=self.groups)
        read = rearrange(read[:, group.first : group.first + group.count], "b groups m d -> (b groups) m d")
        # Queries with batch size 1 are repeated for each sample.
        split = repeat(group.split(queries), "one groups o c -> (b one groups) o c", b=b // queries.shape[0])
        group_mask = None if query_mask is None else rearrange(group.split(query_mask), "b groups o -> (b groups) o")
        rows = self.cross(split, read, query_mask=group_mask)
        return group.join(rearrange(rows, "(b groups) o c -> b groups o c", b=b))

    def _readable(self, index: Tensor, latents: Tensor, group: Group) -> Bool[Tensor, "#b o m"]:
        """A mask, True where a latent belongs to the group of a query."""
        owner = repeat(
            torch.arange(self.groups, device=index.device),
            "groups -> (groups m)",
            m=latents.shape[1] // self.groups,
        )
        readable = rearrange(group.of(index), "... o -> ... o 1") == owner
        return readable if readable.ndim == 3 else rearrange(readable, "o m -> 1 o m")
