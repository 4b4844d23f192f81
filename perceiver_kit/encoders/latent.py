"""The encoder of Perceiver IO: latents cross-attend to inputs of any length, then self-attend among themselves."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..activations import Activation
from ..attention import Biases, Factory
from ..block import LEFT_OUT, Block
from ..checking import check_choice, check_flag, check_positive, check_tensor
from ..errors import AssemblyError, InputError
from ..initialisation import learned
from ..layers import CrossAttentionLayer, SelfAttentionLayer
from ..masks import Mask, Masks, combine
from ..registry import register
from ..tokens import Tokens

MAX_LAYERS = 1024  # upper bound on layers × blocks, checked before any layer is made

Sharing = Literal["all", "after_first", "none"]


@register("encoders")
class Encoder(Block):
    """Latents (m, d) cross-attend to rows of width ``channels``, then pass through blocks of self-attention.

    There are ``blocks`` blocks of ``layers`` layers each. One cross-attention to the rows precedes each of the first
    ``cross_attends`` blocks. ``share_cross_attends`` says which cross-attentions share weights. ``"all"``: all of them.
    ``"after_first"``: the first has its own, the others share, as in the first Perceiver. ``"none"``: each has its own.
    ``share_blocks`` says the same of the blocks: True, ``"after_first"`` or False. ``query_residual`` is as in
    ``CrossAttentionLayer``. ``compete`` says whether the latents compete for rows (``Attention``): one flag, or one for
    each set of cross-attention weights. With ``quiet_start`` the self-attention layers start as the identity; an
    ``mlp`` of one's own must then end in a linear layer without bias or with a bias of zero. ``bias`` is as in
    ``Attention``.

    ``qk_channels`` and ``v_channels`` are the widths of every attention (default: as in ``Attention``);
    ``cross_qk_channels`` and ``cross_v_channels`` override them in cross-attention. ``dropout`` is applied to attention
    weights, ``residual_dropout`` to the output of each attention and each MLP, before the residual sum. ``norm`` and
    ``mlp`` are functions that build a module for a width (``variants.py``), used instead of the default; with ``mlp``,
    the widenings and ``activation`` are ignored.

    The input is ``Tokens``, or rows (b, n, c), so that the encoder also works alone. ``mask`` is True where a row may
    be read: (b, n), or (1, m, n) or (b, m, n) with an entry for each latent and row. The mask in ``Tokens`` is applied
    as well. With ``causal=True`` latent i reads rows 0 to n - m + i, so that the last latent reads all rows. In
    self-attention, latent i reads latents 0 to i.

    Source: Perceiver IO (Jaegle et al. 2022), section 3.1; the first Perceiver (2021) for repeated cross-attends.

    >>> encoder = Encoder(32, num_latents=8, latent_dim=64, layers=2)
    >>> encoder(torch.randn(2, 100, 32)).shape
    torch.Size([2, 8, 64])
    """

    # How a model fills in the widths that were left out.
    fills: ClassVar = {"channels": lambda model, arguments: model.inputs.channels}

    def __init__(
        self,
        channels: int = LEFT_OUT,
        *,
        num_latents: int,
        latent_dim: int,
        layers: int,
        blocks: int = 1,
        share_blocks: bool | Literal["after_first"] = True,
        cross_attends: int = 1,
        share_cross_attends: Sharing = "after_first",
        cross_heads: int = 1,
        self_heads: int = 8,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        cross_qk_channels: int | None = None,
        cross_v_channels: int | None = None,
        cross_widening: int = 1,
        self_widening: int = 1,
        query_residual: bool = True,
        dropout: float = 0.0,
        residual_dropout: float = 0.0,
        activation: Activation = "gelu",
        norm: Factory | None = None,
        mlp: Factory | None = None,
        bias: Biases = "all",
        compete: bool | tuple[bool, ...] = False,
        quiet_start: bool = False,
    ) -> None:
        super().__init__()
        check_positive("Encoder", channels=channels, num_latents=num_latents, latent_dim=latent_dim)
        check_positive("Encoder", layers=layers, least=0, most=MAX_LAYERS)
        check_positive("Encoder", blocks=blocks, cross_attends=cross_attends, most=MAX_LAYERS)
        check_positive("Encoder", least=0, most=MAX_LAYERS, **{"layers × blocks": layers * blocks})
        check_choice("Encoder", "share_cross_attends", share_cross_attends, ("all", "after_first", "none"))
        if share_blocks != "after_first":
            check_flag("Encoder", share_blocks=share_blocks)
        if cross_attends > blocks:
            raise AssemblyError(
                f"Encoder: cross_attends must be at most blocks, got cross_attends={cross_attends}, blocks={blocks}"
            )
        self.channels, self.num_latents, self.latent_dim = channels, num_latents, latent_dim
        self.blocks, self.layers, self.cross_attends = blocks, layers, cross_attends
        self.latents = learned(num_latents, latent_dim)
        distinct = {"all": 1, "after_first": min(2, cross_attends), "none": cross_attends}[share_cross_attends]
        competing = tuple(compete) if isinstance(compete, tuple | list) else (compete,) * distinct
        if len(competing) != distinct:
            expected = f"one flag, or one for each of the {distinct} cross-attentions with weights of their own"
            raise AssemblyError(f"Encoder: compete must be {expected}, got {len(competing)} flags")
        for flag in competing:
            check_flag("Encoder", compete=flag)
        self.cross = nn.ModuleList(
            CrossAttentionLayer(
                latent_dim,
                channels,
                heads=cross_heads,
                qk_channels=qk_channels if cross_qk_channels is None else cross_qk_channels,
                v_channels=v_channels if cross_v_channels is None else cross_v_channels,
                bias=bias,
                widening=cross_widening,
                query_residual=query_residual,
                dropout=dropout,
                residual_dropout=residual_dropout,
                activation=activation,
                norm=norm,
                mlp=mlp,
                compete=flag,
            )
            for flag in competing
        )
        distinct_blocks = {True: 1, "after_first": min(2, blocks), False: blocks}[share_blocks]
        self.transformer = nn.ModuleList(
            SelfAttentionLayer(
                latent_dim,
                heads=self_heads,
                qk_channels=qk_channels,
                v_channels=v_channels,
                bias=bias,
                widening=self_widening,
                dropout=dropout,
                residual_dropout=residual_dropout,
                activation=activation,
                norm=norm,
                mlp=mlp,
            )
            for _ in range(layers * distinct_blocks)
        )
        if quiet_start:  # the output layers of both residual branches start at zero
            layer: Any
            for layer in self.transformer:
                last = [part for part in layer.mlp.modules() if isinstance(part, nn.Linear)][-1]
                for projection in (layer.attention.output, last):
                    nn.init.zeros_(projection.weight)

    def forward(
        self, inputs: Tokens | Float[Tensor, "b n c"], mask: Mask | None = None, *, causal: bool = False
    ) -> Float[Tensor, "b m d"]:
        masks = Masks(mask, causal=causal)
        rows, own_mask = (inputs.rows, inputs.mask) if isinstance(inputs, Tokens) else (inputs, None)
        if not isinstance(inputs, Tokens):
            check_tensor(rows, "inputs", f"b n {self.channels}")
        if rows.shape[-1] != self.channels:
            raise InputError(f"Encoder: inputs must have {self.channels} channels, got {rows.shape[-1]}")
        rows = rows.to(self.latents.dtype)
        # Batch size 1: the first cross-attention projects the latents once for all samples.
        latents = rearrange(self.latents, "m d -> 1 m d")
        # Check the mask first: ``combine`` would broadcast a mask of the wrong shape without an error.
        mask = combine(masks.checked(latents, rows).rows, own_mask)
        options = {"causal": True} if causal else {}  # a user's own layer may not accept causal
        for block in range(self.blocks):
            if block < self.cross_attends:
                latents = self.cross[min(block, len(self.cross) - 1)](latents, rows, mask, **options)
            for layer in range(self.layers):
                # Later blocks reuse the last block that has weights of its own.
                own = min(block, len(self.transformer) // self.layers - 1)
                latents = self.transformer[own * self.layers + layer](latents, **options)
        return latents

    def extra_repr(self) -> str:
        return f"{self.num_latents} latents × {self.latent_dim}, {self.blocks} blocks × {self.layers} layers"
