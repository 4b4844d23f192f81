"""The two layers built on attention: cross-attention and self-attention, each with an MLP."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from .activations import Activation, Gate, make_activation
from .attention import Attention, Biases, Factory, Keys, Rotate, rows_of
from .attention_backends import KeyValues, checkpointed_mlp
from .checking import check_callable, check_flag, check_positive, check_probability
from .errors import AssemblyError, InputError
from .initialisation import linear
from .masks import Mask, Masks, for_all
from .observing import Observed


class MLP(nn.Sequential):
    """A two-layer network for each row: linear to ``widening`` · channels, activation, linear back.

    With ``gated`` the first layer is twice as wide, and its activated half multiplies the other half, as in GEGLU.

    >>> MLP(32, widening=4)(torch.randn(2, 5, 32)).shape
    torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        widening: int = 1,
        activation: Activation = "gelu",
        gated: bool = False,
        bias: bool = True,
    ) -> None:
        check_flag("MLP", gated=gated, bias=bias)
        check_positive("MLP", channels=channels, widening=widening)
        middle = make_activation("MLP", activation)
        super().__init__(
            linear(channels, widening * channels * (2 if gated else 1), bias=bias),
            Gate(middle) if gated else middle,
            linear(widening * channels, channels, bias=bias),
        )


class CrossAttentionLayer(Observed):
    """Queries (b, m, cq) read rows (b, n, ck); an MLP follows. Both have a layer norm first and a residual connection.

    With ``query_residual=False`` the attention output replaces the queries instead of being added to them. The masks,
    ``kv_heads``, ``qk_norm``, ``bias``, ``compete`` and ``positions`` mean the same as in ``Attention``. Rows that
    ``mask`` hides from all queries have no effect, even if they hold NaN. Queries with batch size 1 are used for every
    sample. ``norm``, ``key_norm`` (for the rows) and ``mlp`` are functions that build a module for a width
    (``variants.py``), used instead of the default; with ``mlp``, ``widening`` and ``activation`` are ignored.
    ``widening=0`` leaves the MLP out. With ``read_queries`` the normed queries are appended to the normed rows, so that
    queries read each other too, as in Flamingo's resampler. ``gated`` multiplies the attention output and the MLP
    output each by the tanh of a learned number that starts at zero, as in Flamingo.

    >>> CrossAttentionLayer(16, 32)(torch.zeros(1, 5, 16), torch.randn(2, 7, 32)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        query_channels: int,
        key_channels: int,
        *,
        heads: int = 1,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        kv_heads: int | None = None,
        qk_norm: Factory | None = None,
        bias: Biases = "all",
        widening: int = 1,
        query_residual: bool = True,
        read_queries: bool = False,
        gated: bool = False,
        compete: bool = False,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        activation: Activation = "gelu",
        norm: Factory | None = None,
        key_norm: Factory | None = None,
        mlp: Factory | None = None,
        positions: Rotate | None = None,
    ) -> None:
        super().__init__()
        owner = "CrossAttentionLayer"
        check_flag(owner, query_residual=query_residual, read_queries=read_queries, gated=gated, compete=compete)
        if read_queries and query_channels != key_channels:
            widths = f"{query_channels} and {key_channels}"
            raise AssemblyError(
                f"{owner}: with read_queries query_channels and key_channels must be equal, got {widths}"
            )
        self.query_residual, self.read_queries = query_residual, read_queries
        check_callable("CrossAttentionLayer", norm=norm, key_norm=key_norm, mlp=mlp)
        norm = norm or nn.LayerNorm
        self.query_norm: Any = norm(query_channels)
        self.key_norm: Any = (key_norm or norm)(key_channels)
        _check_norm_width(owner, query_channels=self.query_norm, key_channels=self.key_norm)
        self.attention = Attention(
            query_channels,
            key_channels,
            heads=heads,
            qk_channels=qk_channels,
            v_channels=v_channels,
            kv_heads=kv_heads,
            qk_norm=qk_norm,
            bias=bias,
            compete=compete,
            dropout=dropout,
            positions=positions,
        )
        self.dropout = residual_drop(residual_dropout)
        self.attention_gate: nn.Module = TanhGate() if gated else nn.Identity()
        self.mlp_gate: nn.Module = TanhGate() if gated else nn.Identity()
        self.mlp_norm: Any = None
        self.mlp: Any = None
        if mlp or widening:
            self.mlp_norm = norm(query_channels)
            self.mlp = mlp(query_channels) if mlp else MLP(query_channels, widening=widening, activation=activation)

    def forward(
        self,
        queries: Float[Tensor, "#b m cq"],
        keys: Keys,
        mask: Mask | None = None,
        *,
        query_mask: Bool[Tensor, "b m"] | None = None,
        causal: bool = False,
        query_positions: Shaped[Tensor, "*#b m"] | None = None,
        key_positions: Shaped[Tensor, "*#b n"] | None = None,
    ) -> Float[Tensor, "b m cq"]:
        masks = Masks(mask, query_mask, causal)
        shape = rows_of(keys).shape
        if shape[1] == 0 or queries.shape[1] == 0:
            raise InputError(
                f"attention needs at least one query and one row, got {queries.shape[1]} queries and {shape[1]} rows"
            )
        masks.checked(queries, rows_of(keys))  # before masks are padded or applied
        options = _not_none(query_positions=query_positions, key_positions=key_positions)
        normed = self.query_norm(queries)
        read_rows = keys if isinstance(keys, KeyValues) else self.key_norm(_zero_masked(keys, mask))
        if self.read_queries and isinstance(read_rows, Tensor):
            read_rows = torch.cat([read_rows, normed.expand(shape[0], -1, -1)], 1)
            mask = None if mask is None else F.pad(mask, (0, normed.shape[1]), value=True)
        read = self.attention(normed, read_rows, mask, query_mask=query_mask, causal=causal, **options)
        del normed, read_rows  # the MLP needs their memory
        return self.finish(queries, read)

    def finish(self, queries: Float[Tensor, "#b m cq"], read: Float[Tensor, "b m cq"]) -> Float[Tensor, "b m cq"]:
        """Add the attention output ``read`` to the queries, then apply the MLP with its residual."""
        rows = self.attention_gate(self.dropout(read))
        if self.query_residual:
            rows = queries + rows
        if self.mlp is None:
            return rows
        return rows + self.mlp_gate(self.dropout(checkpointed_mlp(self.mlp_norm, self.mlp, rows)))

    def key_values(
        self,
        keys: Float[Tensor, "b n ck"],
        mask: Mask | None = None,
        key_positions: Shaped[Tensor, "*#b n"] | None = None,
    ) -> KeyValues:
        """Norm and project rows once; ``forward`` takes the result in place of the rows."""
        return self.attention.key_values(self.key_norm(_zero_masked(keys, mask)), key_positions)


class SelfAttentionLayer(Observed):
    """Rows (b, m, d) read each other; an MLP follows. Both have a layer norm first and a residual connection.

    ``mask`` is (b, m), or (1, m, m) or (b, m, m), whose entry [i, j] is True where row i may read row j. With
    ``causal=True`` each row reads itself and those before it. A masked row is not read by others, but still reads them.
    ``keys`` are projected by ``key_values`` and read in place of ``rows``: for example those of earlier rows and of
    these. The mask then has one column for each of them. ``bias``, ``norm``, ``mlp`` and ``positions`` mean the same as
    in ``CrossAttentionLayer``.

    >>> SelfAttentionLayer(32, heads=8)(torch.randn(2, 5, 32)).shape
    torch.Size([2, 5, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 8,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        bias: Biases = "all",
        widening: int = 1,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        activation: Activation = "gelu",
        norm: Factory | None = None,
        mlp: Factory | None = None,
        positions: Rotate | None = None,
    ) -> None:
        super().__init__()
        check_callable("SelfAttentionLayer", norm=norm, mlp=mlp)
        norm = norm or nn.LayerNorm
        self.norm = norm(channels)
        _check_norm_width("SelfAttentionLayer", channels=self.norm)
        self.attention = Attention(
            channels,
            channels,
            heads=heads,
            qk_channels=qk_channels,
            v_channels=v_channels,
            bias=bias,
            dropout=dropout,
            positions=positions,
        )
        self.dropout = residual_drop(residual_dropout)
        self.mlp_norm = norm(channels)
        self.mlp = mlp(channels) if mlp else MLP(channels, widening=widening, activation=activation)

    def forward(
        self,
        rows: Float[Tensor, "b m d"],
        mask: Mask | None = None,
        *,
        causal: bool = False,
        row_positions: Shaped[Tensor, "*#b m"] | None = None,
        keys: KeyValues | None = None,
    ) -> Float[Tensor, "b m d"]:
        Masks(mask, causal=causal).checked(rows, rows if keys is None else keys.rows())
        normed = self.norm(rows)
        read = _zero_masked(normed, mask) if keys is None else keys
        options = _not_none(query_positions=row_positions, key_positions=row_positions if keys is None else None)
        rows = rows + self.dropout(self.attention(normed, read, mask, causal=causal, **options))
        del normed, read  # the MLP needs their memory
        return rows + self.dropout(checkpointed_mlp(self.mlp_norm, self.mlp, rows))

    def key_values(
        self, rows: Float[Tensor, "b m d"], row_positions: Shaped[Tensor, "*#b m"] | None = None
    ) -> KeyValues:
        """Norm and project rows; ``forward`` takes the result as ``keys``, also joined with that of earlier rows."""
        return self.attention.key_values(self.norm(rows), row_positions)


def _zero_masked(rows: Float[Tensor, "b n c"], mask: Mask | None) -> Float[Tensor, "b n c"]:
    """Set rows that no query may read to zero, before any product: a NaN there would give NaN gradients."""
    return rows if mask is None else torch.where(rearrange(for_all(mask), "b n -> b n 1"), rows, 0)


def _not_none(**options: Tensor | None) -> dict[str, Any]:
    """Drop options that are None: a module that replaces ``Attention`` need not accept them."""
    return {name: value for name, value in options.items() if value is not None}


class TanhGate(nn.Module):
    """Multiply rows by the tanh of one learned number, which starts at zero.

    >>> TanhGate()(torch.ones(1, 2, 3)).abs().max().item()
    0.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, rows: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        return rows * self.gate.tanh()


def residual_drop(probability: float) -> nn.Module:
    """Dropout on a layer's output before the residual sum; the identity for a probability of zero."""
    check_probability("residual", dropout=probability)
    return nn.Dropout(probability) if probability else nn.Identity()


def _check_norm_width(owner: str, /, **norms: nn.Module) -> None:
    """Raise AssemblyError for a layer norm of one channel: its output is the same for every input."""
    for name, norm in norms.items():
        if isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (1,):
            raise AssemblyError(
                f"{owner}: {name} must be at least 2, got 1: the layer norm of one channel has the same output for all "
                "values; add positions, or pad channels with Inputs(min_padding=8) or Queries(min_padding=8)"
            )
