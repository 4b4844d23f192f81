"""The causal encoder of Perceiver AR: each latent belongs to one of the last rows and reads no later row."""

from __future__ import annotations

from typing import Any, Literal

import torch
from einops import rearrange, reduce, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ..activations import Activation, make_activation
from ..attention import Factory, Rotate
from ..block import Block
from ..checking import check_choice, check_positive, check_probability, check_tensor, checks_values
from ..errors import AssemblyError, InputError
from ..initialisation import learned, linear
from ..layers import CrossAttentionLayer, SelfAttentionLayer
from ..masks import Masks, combine
from ..plain import match_dtype
from ..positions import Positions, check_positions
from ..registry import register
from ..tokens import Tokens, take_rows
from .cache import Cache, CacheBuilder, all_of
from .latent import MAX_LAYERS

Start = Literal["linear", "mlp", "learned", "shared"]
Count = Literal["forward", "back"]


@register("encoders")
class CausalEncoder(Block):
    """Rows (b, n, channels) → latents (b, m, d) of the last m rows, m ≤ ``num_latents``. No latent reads a later row.

    Each latent starts as a map of its row, cross-attends to the rows up to its own, and passes through ``layers``
    layers of causal self-attention and a norm. With fewer rows than ``num_latents`` there are fewer latents. More than
    ``context`` rows are an error.

    ``mask`` (b, n), or the mask in ``Tokens``, may hide padding on the left or, as published, on the right, and rows
    between. The last latent belongs to the last row that is not hidden. Latents of hidden rows are zero and never read.

    Positions are integers: the row's number from 0 (``count="forward"``); its distance from the last row (``"back"``,
    as published); or ``index`` at the call. Distances from the last row grow whenever a row follows, so that a cache
    then needs rotary positions. ``positions`` are features of the integers, on a grid of ``context``, that are added to
    the rows; ``rotary`` rotates queries and keys (``variants.Rotary``). A latent has the position of its row plus
    ``query_offset``. Counting starts at ``first_position``.

    Args:
        channels: width of the rows.
        num_latents: the largest number of latents.
        latents_per_position: latents of each row; the row's output is their mean. m counts rows.
        latent_dim: width of the latents.
        layers: layers of self-attention.
        context: the largest number of rows.
        query: how latents start: ``"linear"`` or ``"mlp"`` map of the row, ``"learned"`` one by one, or ``"shared"``.
        cross_after: indices of layers after which another cross-attention, with weights of its own, reads the rows.
        query_residual: add the output of each cross-attention to the latents, instead of replacing them.
        row_dropout: in training, the probability that a row is hidden from all latents.
        latent_dropout: in training, the probability that a latent is hidden from those after it.
        cross_qk_channels: width of queries and keys in cross-attention (default: ``channels``).
        dropout: dropout of attention weights.
        residual_dropout: dropout of the output of each layer.

    Source: Perceiver AR (Hawthorne et al. 2022), google-research/perceiver-ar.

    >>> encoder = CausalEncoder(32, num_latents=8, latent_dim=64, layers=2, context=100)
    >>> encoder(torch.randn(2, 100, 32)).shape, encoder(torch.randn(2, 3, 32)).shape
    (torch.Size([2, 8, 64]), torch.Size([2, 3, 64]))
    """

    # The order of rows matters.
    reads_sets = False

    def __init__(
        self,
        channels: int,
        *,
        num_latents: int,
        latent_dim: int,
        layers: int,
        context: int,
        latents_per_position: int = 1,
        query: Start = "linear",
        positions: Positions | None = None,
        rotary: Rotate | None = None,
        count: Count = "forward",
        first_position: int = 0,
        query_offset: int = 0,
        cross_after: tuple[int, ...] = (),
        cross_heads: int = 1,
        self_heads: int = 1,
        cross_qk_channels: int | None = None,
        cross_widening: int = 4,
        self_widening: int = 4,
        query_residual: bool = True,
        row_dropout: float = 0.0,
        latent_dropout: float = 0.0,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        activation: Activation = "squared_relu",
        norm: Factory | None = None,
        mlp: Factory | None = None,
    ) -> None:
        super().__init__()
        owner = "CausalEncoder"
        check_positive(owner, channels=channels, num_latents=num_latents, latent_dim=latent_dim, context=context)
        check_positive(owner, layers=layers, least=0, most=MAX_LAYERS)
        check_positive(owner, latents_per_position=latents_per_position)
        check_positive(owner, first_position=first_position, query_offset=query_offset, least=0)
        check_choice(owner, "query", query, ("linear", "mlp", "learned", "shared"))
        check_choice(owner, "count", count, ("forward", "back"))
        check_probability(owner, row_dropout=row_dropout, latent_dropout=latent_dropout)
        if num_latents % latents_per_position:
            raise AssemblyError(
                f"{owner}: num_latents {num_latents} must be divisible by latents_per_position {latents_per_position}"
            )
        if not isinstance(cross_after, tuple | list) or not all(
            isinstance(i, int) and 0 <= i < layers for i in cross_after
        ):
            raise AssemblyError(f"{owner}: cross_after must name layers from 0 to {layers - 1}, got {cross_after!r}")
        if positions is not None:
            check_positions(owner, positions)
            if positions.channels != channels:
                raise AssemblyError(
                    f"{owner}: positions of {positions.channels} channels cannot be added to rows of {channels}"
                )
        self.channels, self.num_latents, self.latent_dim, self.layers = channels, num_latents, latent_dim, layers
        self.context, self.per_position, self.query, self.count = context, latents_per_position, query, count
        self.places = num_latents // latents_per_position
        self.positions, self.rotary, self.query_offset = positions, rotary, query_offset
        self.first_position = first_position
        self.row_dropout, self.latent_dropout = row_dropout, latent_dropout
        self.start: nn.Module | None = None
        self.latents: nn.Parameter | None = None
        if query in ("learned", "shared"):
            self.latents = learned(num_latents if query == "learned" else 1, latent_dim)
        else:
            more = [(linear(latent_dim, latent_dim), make_activation(owner, activation)) for _ in range(2)]
            parts = [part for pair in more for part in pair] if query == "mlp" else []
            self.start = nn.Sequential(linear(channels, latent_dim), *parts)
        # Added to the latents of one row, so that they start different.
        self.apart = learned(latents_per_position, latent_dim) if latents_per_position > 1 else None
        shared: dict[str, Any] = dict(residual_dropout=residual_dropout, dropout=dropout, activation=activation)
        shared |= dict(norm=norm, mlp=mlp, positions=rotary)
        self.cross_after = tuple(cross_after)
        self.cross = nn.ModuleList(
            CrossAttentionLayer(
                latent_dim,
                channels,
                heads=cross_heads,
                qk_channels=channels if cross_qk_channels is None else cross_qk_channels,
                widening=cross_widening,
                query_residual=query_residual,
                **shared,
            )
            for _ in range(1 + len(cross_after))
        )
        self.transformer = nn.ModuleList(
            SelfAttentionLayer(latent_dim, heads=self_heads, widening=self_widening, **shared) for _ in range(layers)
        )
        self.norm: Any = (norm or nn.LayerNorm)(latent_dim)

    @property
    def cacheable(self) -> bool:
        """Whether earlier keys and latents stay the same when rows follow, so that they can be cached."""
        counted_from_start = self.count == "forward" or self.positions is None
        return counted_from_start and self.per_position == 1 and self.query != "learned"

    def forward(
        self,
        inputs: Tokens | Float[Tensor, "b n c"],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        index: Int64[Tensor, "#b n"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        return self._encode(inputs, mask, index=index)[0]

    def extend(
        self,
        inputs: Tokens | Float[Tensor, "b n c"],
        mask: Bool[Tensor, "b n"] | None = None,
        *,
        cache: Cache | None = None,
        latents: int | Int64[Tensor, "b"] | None = None,
    ) -> tuple[Float[Tensor, "b m d"], Cache]:
        """Encode rows that follow those of ``cache``. Returns their latents, and a cache of all rows so far.

        ``latents`` is the number of latents of these rows, for all samples or for each (default: ``num_latents``). The
        cache grows with every call: cut it with ``Cache.last``.
        """
        if not self.cacheable:
            raise InputError(
                "CausalEncoder: no cache: positions counted back, learned queries and several latents per position "
                "change with every new row"
            )
        found, kept = self._encode(inputs, mask, cache=cache, latents=latents, keep=True)
        assert kept is not None
        return found, kept

    def _encode(
        self,
        inputs: Tokens | Tensor,
        mask: Tensor | None,
        *,
        index: Tensor | None = None,
        cache: Cache | None = None,
        latents: int | Tensor | None = None,
        keep: bool = False,
    ) -> tuple[Tensor, Cache | None]:
        rows, mask, index, first = self._aligned(inputs, mask, index)
        b, n, _ = rows.shape
        column = torch.arange(n, device=rows.device)
        if index is None:
            index = self._index(column, first, cache, keep)
        if self.positions is not None:
            rows = rows + self._features(self.positions, index).to(rows.dtype)
        places, valid = self._latent_rows(rows, mask, self.places if latents is None else latents)
        place, turn = (
            repeat(each, "b m -> b (m k)", k=self.per_position)
            for each in (rearrange(column[n - places :], "m -> 1 m"), index[:, n - places :] + self.query_offset)
        )
        found = self._initial_latents(rows[:, n - places :])
        read_rows, read_latents = mask, valid
        if cache is not None:
            read_rows = torch.cat([cache.rows, all_of(mask, b, n, rows.device)], 1)
            read_latents = torch.cat([cache.latents, all_of(valid, b, places, rows.device)], 1)
        cross_mask = self._drop(self.row_dropout, rows, read_rows)
        self_mask = self._drop(self.latent_dropout, found, read_latents)
        # causal=True is not enough where several latents of one row read each other, or a dropped latent reads itself.
        several, own = self.per_position > 1, self_mask is not read_latents
        if several:
            cross_mask = _up_to(place, rearrange(column, "n -> 1 n"), cross_mask)
        if several or own:
            itself = torch.eye(place.shape[1], dtype=torch.bool, device=rows.device)
            self_mask = _up_to(place, place, self_mask) | itself
        turns = {} if self.rotary is None else dict(query_positions=turn)
        if turns and not keep:
            turns["key_positions"] = index
        kept = CacheBuilder(cache)

        def cross(layer: Any, latents: Tensor) -> Tensor:
            keys = kept.cross(layer.key_values(rows, mask, index)) if keep else rows
            return layer(latents, keys, cross_mask, causal=not several, **turns)

        found = cross(self.cross[0], found)
        others = iter(self.cross[1:])
        for number, layer in enumerate(self.transformer):
            options = {} if self.rotary is None else dict(row_positions=turn)
            if keep:
                options["keys"] = kept.layer(layer.key_values(found, turn))  # type: ignore[operator]
            found = layer(found, self_mask, causal=not (several or own), **options)
            for _ in range(self.cross_after.count(number)):
                found = cross(next(others), found)
        found = self.norm(found)
        if valid is not None:
            found = torch.where(rearrange(valid, "b m -> b m 1"), found, 0)
        found = reduce(found, "b (m k) d -> b m d", "mean", k=self.per_position)
        if not keep:
            return found, None
        count = torch.full((b,), n, device=rows.device)
        count = count if first is None else count - rearrange(first, "b 1 -> b")
        rows_held, latents_held = all_of(read_rows, b, n, rows.device), all_of(read_latents, b, places, rows.device)
        return found, kept.cache(rows_held, latents_held, count, id(self))

    def _index(
        self, column: Int64[Tensor, "n"], first: Int64[Tensor, "b 1"] | None, cache: Cache | None, keep: bool
    ) -> Int64[Tensor, "#b n"]:
        """Positions of the rows, counted from each sample's first row (in the cache, if any) or back from the last."""
        index = rearrange(column, "n -> 1 n")
        index = index if first is None else (index - first).clamp(min=0)
        index = index if cache is None else index + rearrange(cache.position, "b -> b 1")
        if self.count == "back":
            # Negated numbers from the front have the same differences, and stay the same when rows follow.
            index = -index if keep else rearrange(len(column) - 1 - column, "n -> 1 n")
        return index + self.first_position

    def _latent_rows(
        self, rows: Float[Tensor, "b n c"], mask: Bool[Tensor, "b n"] | None, count: int | Int64[Tensor, "b"]
    ) -> tuple[int, Bool[Tensor, "b mk"] | None]:
        """The number of last rows that have latents, and which latents are valid; None: all."""
        n = rows.shape[1]
        places = min(n, int(count.max()) if isinstance(count, Tensor) else count)
        valid = None if mask is None else mask[:, n - places :]
        if isinstance(count, Tensor):
            chosen = torch.arange(places, 0, -1, device=rows.device) <= rearrange(count, "b -> b 1")
            valid = chosen if valid is None else valid & chosen
        return places, None if valid is None else repeat(valid, "b m -> b (m k)", k=self.per_position)

    def _aligned(
        self, inputs: Tokens | Tensor, mask: Tensor | None, index: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Rows, mask and index with padding moved to the left: every sample then ends in the last column.

        Also the column of each sample's first row (b, 1); None without a mask.
        """
        rows, own = (inputs.rows, inputs.mask) if isinstance(inputs, Tokens) else (inputs, None)
        check_tensor(rows, "inputs", f"b n {self.channels}")
        rows = match_dtype(rows, self.cross)
        b, n, _ = rows.shape
        if n > self.context:
            raise InputError(f"CausalEncoder: {n} rows are more than its context of {self.context}")
        mask = combine(Masks(mask).checked(rows, rows).rows, own)
        if mask is None:
            return rows, None, index, None
        column = torch.arange(n, device=rows.device)
        end = reduce(mask * (column + 1), "b n -> b 1", "max")
        source = (column + end) % n
        mask = take_rows(mask, source)
        rows = torch.where(rearrange(mask, "b n -> b n 1"), take_rows(rows, source), 0)
        index = None if index is None else take_rows(index.expand(b, -1), source)
        return rows, mask, index, rearrange(mask.to(torch.uint8).argmax(1), "b -> b 1")

    def _features(self, positions: Positions, index: Int64[Tensor, "#b n"]) -> Float[Tensor, "#b n c"]:
        if checks_values(index):
            low, high = (int(bound) for bound in index.aminmax())
            if low < 0 or high >= self.context:
                raise InputError(
                    f"CausalEncoder: positions must be from 0 to {self.context - 1}, its context, got {low} to {high}"
                )
        return positions((self.context,), index)

    def _initial_latents(self, rows: Float[Tensor, "b m c"]) -> Float[Tensor, "b mk d"]:
        """The latents of the last rows before they read."""
        if self.start is not None:
            latents = self.start(rows)
            latents = repeat(latents, "b m d -> b m k d", k=self.per_position)
        else:
            assert self.latents is not None
            table = self.latents.expand(self.num_latents, -1)
            table = rearrange(table, "(m k) d -> m k d", k=self.per_position)
            latents = repeat(table[self.places - rows.shape[1] :], "m k d -> b m k d", b=rows.shape[0])
        if self.apart is not None:
            latents = latents + self.apart
        return rearrange(latents, "b m k d -> b (m k) d")

    def _drop(self, probability: float, rows: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask with some entries randomly set to False; in evaluation the mask itself."""
        if not self.training or probability == 0:
            return mask
        seen = torch.rand(rows.shape[:2], device=rows.device) >= probability
        return seen if mask is None else mask & seen

    def extra_repr(self) -> str:
        return f"{self.num_latents} latents × {self.latent_dim}, {self.layers} layers, context {self.context}"


def _up_to(
    queries: Int64[Tensor, "1 m"], rows: Int64[Tensor, "1 n"], mask: Bool[Tensor, "b n"] | None
) -> Bool[Tensor, "b2 m n"]:
    """A mask (b, m, n) of the rows at or before the place of each query that ``mask`` allows."""
    allowed = rearrange(rows, "b n -> b 1 n") <= rearrange(queries, "b m -> b m 1")
    return allowed if mask is None else allowed & rearrange(mask, "b n -> b 1 n")
