"""The encoder of Perceiver IO: latents cross-attend to inputs of any length, then self-attend among themselves."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..activations import Activation
from ..attention import Biases, Make
from ..block import LEFT_OUT, Block
from ..checks import check_choice, check_flag, check_positive, check_tensor
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
    """Latents (m, d) cross-attend to rows of width ``channels``; ``blocks`` × ``layers`` of self-attention follow.

    With several ``cross_attends`` (at most one per block) the latents read the inputs again before each of the first
    blocks. ``share_cross_attends`` says which of these layers share weights: ``"all"``, all but the first
    (``"after_first"``, as in the first Perceiver) or ``"none"``. All blocks have the same weights unless
    ``share_blocks`` is False, or ``"after_first"``. ``compete`` says of all cross-attends, or of each of those with
    weights of their own, whether the latents compete for the rows (``Attention``). ``bias`` is that of ``Attention``.
    With ``quiet_start`` the layers after cross-attention start as the identity. Both help small models.

    ``qk_channels`` and ``v_channels`` are the widths of all attention (default: as in ``Attention``);
    ``cross_qk_channels`` and ``cross_v_channels`` replace them in cross-attention. ``dropout`` is applied to attention
    weights, ``residual_dropout`` to the output of each layer. ``norm`` and ``mlp`` make other norms and MLPs
    (``variants.py``); an ``mlp`` replaces the widenings and ``activation``.

    The input is ``Tokens``, or rows (b, n, c), so the encoder works without any input block. ``mask`` is (b, n), or
    (1, m, n) or (b, m, n) with an entry for each latent and row; a mask of the tokens applies, too. With
    ``causal=True`` the last latent reads all rows, each one before it a row less, and latents read only themselves and
    those before them.

    Source: Perceiver IO (Jaegle et al. 2022), section 3.1; the first Perceiver (2021) for repeated cross-attends.

    >>> encoder = Encoder(32, num_latents=8, latent_dim=64, layers=2)
    >>> encoder(torch.randn(2, 100, 32)).shape
    torch.Size([2, 8, 64])
    """

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
        norm: Make | None = None,
        mlp: Make | None = None,
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
            expected = f"a flag for each of the {distinct} cross-attentions with weights of their own"
            raise AssemblyError(f"Encoder: compete must be {expected}, got {len(competing)}")
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
        own_blocks = {True: 1, "after_first": min(2, blocks), False: blocks}[share_blocks]
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
            for _ in range(layers * own_blocks)
        )
        if quiet_start:
            layer: Any
            for layer in self.transformer:
                last = [part for part in layer.mlp.modules() if isinstance(part, nn.Linear)][-1]
                for projection in (layer.attention.output, last):
                    nn.init.zeros_(projection.weight)

    def forward(
        self, inputs: Tokens | Float[Tensor, "b n c"], mask: Mask | None = None, *, causal: bool = False
    ) -> Float[Tensor, "b m d"]:
        rows, own_mask = (inputs.rows, inputs.mask) if isinstance(inputs, Tokens) else (inputs, None)
        if not isinstance(inputs, Tokens):
            check_tensor(rows, "inputs", f"b n {self.channels}")
        if rows.shape[-1] != self.channels:
            raise InputError(f"Encoder: inputs must have {self.channels} channels, got {rows.shape[-1]}")
        rows = rows.to(self.latents.dtype)
        # Batch size 1: the first cross-attention projects the latents once and broadcasts them over the batch.
        latents = rearrange(self.latents, "m d -> 1 m d")
        # Before the masks are combined, which would broadcast a wrong one.
        mask = combine(Masks(mask, causal=causal).checked(latents, rows).rows, own_mask)
        options = {"causal": True} if causal else {}  # layers of others may know no such argument
        for block in range(self.blocks):
            if block < self.cross_attends:
                latents = self.cross[min(block, len(self.cross) - 1)](latents, rows, mask, **options)
            for layer in range(self.layers):
                # The last block with weights of its own serves the later ones, too.
                own = min(block, len(self.transformer) // self.layers - 1)
                latents = self.transformer[own * self.layers + layer](latents, **options)
        return latents

    def extra_repr(self) -> str:
        return f"{self.num_latents} latents × {self.latent_dim}, {self.blocks} blocks × {self.layers} layers"
