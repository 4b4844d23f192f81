"""The encoder of the hierarchical Perceiver (HiP): a U-Net of levels, each with latents for groups of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..activations import Activation
from ..attention import Factory
from ..block import Block
from ..checking import check_choice, check_positive, check_sizes, check_tensor, short
from ..errors import AssemblyError, InputError
from ..grouping import Order, groups_of, split_layout
from ..initialisation import deviation_by_rows, learned, linear
from ..layers import CrossAttentionLayer, SelfAttentionLayer
from ..masks import combine
from ..registry import register
from ..tokens import Layout, Tokens

MAX_LEVELS = 64

PerLevel = int | Sequence[int]
Skips = list[Tensor]  # (b, m, d) of each level


@register("encoders")
class HierarchicalEncoder(Block):
    """Groups of rows are read by latents of their own; level by level, groups merge into one and divide again.

    Level i has ``groups[i]`` groups of ``num_latents[i]`` latents of width ``widths[i]``. Its latents cross-attend to
    the latents of the level before, regrouped by a reshape (the first level: to the rows), then ``layers[i]``
    self-attentions follow inside each group. The middle level has one group. Each level after it adds the latents of
    its mirror image before the middle to its queries, as a U-Net does. Latents (b, groups · latents, d) of the last
    level leave the encoder, group by group; ``GroupedDecoder`` reads them.

    Modalities never share a group: each has one, and the others go to that with most rows a group. Every group is
    filled with zero rows, which are read. ``order="rows"`` cuts the flattened grid; ``"blocks"`` cuts it into compact
    blocks (``grouping.py``), since flattening separates neighbours of a grid. ``regroup="transpose"`` mixes all groups
    instead of merging neighbours. A number for each level may be given as one int for all.

    The input is ``Tokens``, or rows (b, n, c) of one modality. ``mask`` (b, n) is True where a row may be read. The
    result depends on the order of rows and on which modalities are there. InputError for more modalities than groups.
    The maps of ``capture_attention`` have samples and groups along their first axis.

    Source: Hierarchical Perceiver (Carreira et al. 2022); google-deepmind/hierarchical_perceiver.

    >>> encoder = HierarchicalEncoder(8, groups=(4, 1, 4), num_latents=(4, 8, 4), widths=(16, 32, 16), layers=1)
    >>> encoder(torch.randn(2, 100, 8)).shape
    torch.Size([2, 16, 16])
    """

    # Its groups depend on the order of rows and on which modalities are given: rows are not a set.
    reads_sets = False

    def __init__(
        self,
        channels: int,
        *,
        groups: Sequence[int],
        num_latents: PerLevel,
        widths: PerLevel,
        layers: PerLevel,
        cross_heads: PerLevel = 1,
        self_heads: PerLevel = 1,
        cross_widening: PerLevel = 1,
        self_widening: PerLevel = 4,
        regroup: Literal["reshape", "transpose"] = "reshape",
        order: Order = "rows",
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        activation: Activation = "squared_relu",
        norm: Factory | None = None,
        mlp: Factory | None = None,
    ) -> None:
        super().__init__()
        owner = "HierarchicalEncoder"
        check_positive(owner, channels=channels)
        check_choice(owner, "regroup", regroup, ("reshape", "transpose"))
        check_choice(owner, "order", order, ("rows", "blocks"))
        self.groups = check_sizes(owner, "groups", groups)
        count = len(self.groups)
        if count % 2 == 0 or not 3 <= count < MAX_LEVELS or self.groups[count // 2] != 1:
            expected = f"an odd number of levels from 3 to {MAX_LEVELS - 1}, the middle one with one group"
            raise AssemblyError(f"{owner}: groups must have {expected}, got {self.groups}")
        self.latents_per_group = _per_level(count, "num_latents", num_latents)
        self.widths = _per_level(count, "widths", widths)
        self.layers = _per_level(count, "layers", layers, least=0)
        heads = _per_level(count, "cross_heads", cross_heads), _per_level(count, "self_heads", self_heads)
        widening = (
            _per_level(count, "cross_widening", cross_widening),
            _per_level(count, "self_widening", self_widening),
        )
        self._check_levels()
        self.num_latents = self.groups[-1] * self.latents_per_group[-1]  # that leave the encoder
        self.channels, self.latent_dim = channels, self.widths[-1]
        self.regroup: Literal["reshape", "transpose"] = regroup
        self.order: Order = order
        shared = dict(dropout=dropout, residual_dropout=residual_dropout, activation=activation, norm=norm, mlp=mlp)
        self.levels: Any = nn.ModuleList(
            Level(
                channels if i == 0 else self.widths[i - 1],
                self.widths[i],
                groups=self.groups[i],
                latents=self.latents_per_group[i],
                skip=self.widths[count - 1 - i] if i > count // 2 else None,
                cross=dict(heads=heads[0][i], widening=widening[0][i], **shared),
                own=[dict(heads=heads[1][i], widening=widening[1][i], **shared)] * self.layers[i],
            )
            for i in range(count)
        )

    def _check_levels(self) -> None:
        count = len(self.groups)
        sizes = [*zip(self.groups, self.latents_per_group, strict=True)]
        for i in range(1, count):
            (groups, latents), after = sizes[i - 1], self.groups[i]
            if groups * latents % after:
                raise AssemblyError(
                    f"HierarchicalEncoder: the {groups} × {latents} latents of level {i - 1} must be divisible by the "
                    f"{after} groups of level {i}"
                )
            if i > count // 2 and sizes[i] != sizes[count - 1 - i]:
                raise AssemblyError(
                    f"HierarchicalEncoder: level {i} adds the latents of level {count - 1 - i}, so groups and "
                    f"num_latents must be equal, got {sizes[i]} and {sizes[count - 1 - i]}"
                )

    def forward(
        self, inputs: Tokens | Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b m d"]:
        rows, skips = self.down(inputs, mask)
        return self.up(self.middle(rows), skips)

    def down(
        self, inputs: Tokens | Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None = None
    ) -> tuple[Float[Tensor, "b k c2"], Skips]:
        """The levels before the middle: the rows that the middle level reads, and the latents of each level."""
        if not isinstance(inputs, Tokens):
            check_tensor(inputs, "inputs", f"b n {self.channels}")
            inputs = Tokens(inputs, Layout((("inputs", (inputs.shape[1],)),)))
        if inputs.rows.shape[-1] != self.channels:
            got = inputs.rows.shape[-1]
            raise InputError(f"HierarchicalEncoder: inputs must have {self.channels} channels, got {got}")
        mask = combine(mask, inputs.mask)
        assignment = groups_of(inputs.layout, self.groups[0], self.order)
        rows = split_layout(inputs.rows.to(self.levels[0].latents.dtype), inputs.layout, assignment)
        keep = None
        if mask is not None:  # zero rows that fill a group are read, as without a mask
            keep = rearrange(~split_layout(~mask, inputs.layout, assignment), "b groups n -> (b groups) n")
        skips: Skips = []
        for i, level in enumerate(self.levels[: len(self.groups) // 2]):
            rows = level(rows, mask=keep) if i == 0 else level(self._regrouped(rows, i))
            skips.append(rearrange(rows, "b groups m d -> b (groups m) d"))
        return rearrange(self._regrouped(rows, len(self.groups) // 2), "b 1 n c -> b n c"), skips

    def middle(self, rows: Float[Tensor, "b n c"]) -> Float[Tensor, "b m d"]:
        """The middle level, of one group."""
        latents = self.levels[len(self.groups) // 2](rearrange(rows, "b n c -> b 1 n c"))
        return rearrange(latents, "b 1 m d -> b m d")

    def up(self, latents: Float[Tensor, "b m d"], skips: Skips) -> Float[Tensor, "b k d2"]:
        """The levels after the middle."""
        rows = rearrange(latents, "b m d -> b 1 m d")
        for i in range(len(self.groups) // 2 + 1, len(self.groups)):
            rows = self.levels[i](self._regrouped(rows, i), skip=skips[len(self.groups) - 1 - i])
        return rearrange(rows, "b groups m d -> b (groups m) d")

    def _regrouped(self, rows: Float[Tensor, "b groups n c"], level: int) -> Float[Tensor, "b groups2 n2 c"]:
        pattern = "b (groups n) c" if self.regroup == "reshape" else "b (n groups) c"
        rows = rearrange(rows, f"b groups n c -> {pattern}")
        return rearrange(rows, "b (groups n) c -> b groups n c", groups=self.groups[level])

    def extra_repr(self) -> str:
        levels = zip(self.groups, self.latents_per_group, self.widths, self.layers, strict=True)
        return ", ".join(f"{g} groups × {m} latents × {d} ({n} layers)" for g, m, d, n in levels)


class Level(nn.Module):
    """Latents of every group cross-attend to its rows, then self-attend inside the group."""

    def __init__(
        self, channels: int, width: int, *, groups: int, latents: int, skip: int | None, cross: dict, own: list[dict]
    ) -> None:
        super().__init__()
        self.latents = learned(groups * latents, width, deviation=deviation_by_rows(groups * latents))
        self.skip: nn.Module = nn.Identity() if skip in (None, width) else linear(skip, width)  # type: ignore[arg-type]
        self.cross = CrossAttentionLayer(width, channels, **{"qk_channels": channels, **cross})  # as published
        self.transformer = nn.ModuleList(SelfAttentionLayer(width, **options) for options in own)

    def forward(
        self,
        rows: Float[Tensor, "b groups n c"],
        skip: Float[Tensor, "b m d"] | None = None,
        mask: Bool[Tensor, "bg n"] | None = None,
    ) -> Float[Tensor, "b groups k d2"]:
        b, groups = rows.shape[:2]
        queries = repeat(self.latents, "m d -> b m d", b=b)
        if skip is not None:
            queries = queries + self.skip(skip)
        queries = rearrange(queries, "b (groups m) d -> (b groups) m d", groups=groups)
        latents = self.cross(queries, rearrange(rows, "b groups n c -> (b groups) n c"), mask)
        for layer in self.transformer:
            latents = layer(latents)
        return rearrange(latents, "(b groups) m d -> b groups m d", groups=groups)


def _per_level(count: int, name: str, value: PerLevel, least: int = 1) -> tuple[int, ...]:
    """One number for each level."""
    if not isinstance(value, int | list | tuple):
        raise AssemblyError(f"HierarchicalEncoder: {name} must be an int, or one for each level, got {short(value)}")
    numbers = (value,) * count if isinstance(value, int) else tuple(value)
    for number in numbers:
        check_positive("HierarchicalEncoder", least=least, **{name: number})
    if len(numbers) != count:
        raise AssemblyError(f"HierarchicalEncoder: {name} must have {count} numbers, as groups has, got {numbers}")
    return numbers
