"""The resampler of Flamingo and IDEFICS: a few latents read the features of another network again and again."""

from __future__ import annotations

from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..activations import Activation
from ..attention import Biases, Factory
from ..block import Block
from ..checking import check_positive, check_tensor, describe_value
from ..errors import InputError
from ..initialisation import learned
from ..layers import CrossAttentionLayer
from ..masks import combine
from ..registry import register
from ..tokens import Tokens
from ..variants import LayerNorm, PlainMLP


@register("encoders")
class Resampler(Block):
    """``layers`` of cross-attention from learned latents to rows (b, n, channels); a norm follows: (b, m, channels).

    The latents are among the keys of each layer, unless ``read_latents=False``. Nothing has biases but the norms. The
    latents have the width of the rows. ``heads`` of ``head_channels`` each need not make up that width; ``kv_heads``
    and ``qk_norm`` are those of ``Attention``. ``norm`` and ``mlp`` are Flamingo's by default: a layer norm, and an
    MLP four times as wide with exact GELU.

    The input is ``Tokens``, or rows. Rows (b, media, frames, n, channels) give (b, media, m, channels): each medium is
    resampled alone. ``frames`` and ``media``, if given, are the largest numbers of each, which have learned
    embeddings. ``mask`` (b, n), of media (b · media, frames · n), is True where a row may be read; a sample without any
    readable row reads its latents.

    ``kit.resampler_from_state`` loads the weights of OpenFlamingo, IDEFICS and IDEFICS-2.

    Source: Flamingo (Alayrac et al. 2022), section 3.1.1; mlfoundations/open_flamingo; transformers, models idefics
    and idefics2.

    >>> resampler = Resampler(32, num_latents=8, layers=2, heads=4, head_channels=8)
    >>> resampler(torch.randn(2, 100, 32)).shape
    torch.Size([2, 8, 32])
    >>> resampler(torch.randn(2, 3, 1, 100, 32)).shape
    torch.Size([2, 3, 8, 32])
    """

    def __init__(
        self,
        channels: int,
        *,
        num_latents: int = 64,
        layers: int = 6,
        heads: int = 8,
        head_channels: int = 64,
        kv_heads: int | None = None,
        qk_norm: Factory | None = None,
        read_latents: bool = True,
        frames: int | None = None,
        media: int | None = None,
        bias: Biases = "none",
        activation: Activation = "gelu",
        dropout: float = 0.0,
        norm: Factory | None = None,
        mlp: Factory | None = None,
    ) -> None:
        super().__init__()
        sizes = dict(channels=channels, num_latents=num_latents, layers=layers, heads=heads)
        check_positive("Resampler", **sizes, head_channels=head_channels, frames=1 if frames is None else frames)
        check_positive("Resampler", media=1 if media is None else media)
        make = LayerNorm() if norm is None else norm
        self.channels = self.latent_dim = channels
        self.num_latents = num_latents
        self.latents = learned(num_latents, channels, deviation=1.0)
        self.frame_embedding = None if frames is None else learned(frames, channels, deviation=1.0)
        self.media_embedding = None if media is None else learned(media, channels, deviation=1.0)
        self.layers = nn.ModuleList(
            CrossAttentionLayer(
                channels,
                channels,
                heads=heads,
                qk_channels=heads * head_channels,
                kv_heads=kv_heads,
                qk_norm=qk_norm,
                bias=bias,
                read_queries=read_latents,
                dropout=dropout,
                norm=make,
                mlp=mlp or PlainMLP(4, activation=activation, bias=False),
            )
            for _ in range(layers)
        )
        self.norm = make(channels)

    def forward(
        self,
        inputs: Tokens | Float[Tensor, "b n c"] | Float[Tensor, "b media frames n c"],
        mask: Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b m c"] | Float[Tensor, "b media m c"]:
        rows = inputs.rows if isinstance(inputs, Tokens) else inputs
        if isinstance(inputs, Tokens):
            mask = combine(mask, inputs.mask)
        if not isinstance(rows, Tensor) or rows.ndim not in (3, 5):
            expected = f"(b, n, {self.channels}) or (b, media, frames, n, {self.channels})"
            raise InputError(f"Resampler: inputs must be {expected}, got {describe_value(rows)}")
        if rows.ndim == 5:
            media = rows.shape[1]
            resampled = self._resample(self._timed(rows), mask)
            return rearrange(resampled, "(b media) m c -> b media m c", media=media)
        check_tensor(rows, "inputs", f"b n {self.channels}")
        return self._resample(rows, mask)

    def _resample(self, rows: Tensor, mask: Tensor | None) -> Float[Tensor, "b m c"]:
        latents = repeat(self.latents, "m c -> b m c", b=rows.shape[0])
        rows = rows.to(latents.dtype)
        for layer in self.layers:
            latents = layer(latents, rows, mask)
        return self.norm(latents)

    def _timed(self, rows: Float[Tensor, "b media frames n c"]) -> Float[Tensor, "bm n2 c"]:
        """Rows of each medium with the embeddings of its frame and of its place among the media."""
        check_tensor(rows, "inputs", f"b media frames n {self.channels}")
        media, frames = rows.shape[1:3]
        for name, count, table in (
            ("frames", frames, self.frame_embedding),
            ("media", media, self.media_embedding),
        ):
            if table is not None and count > table.shape[0]:
                raise InputError(f"Resampler: inputs have {count} {name}, but at most {table.shape[0]} have embeddings")
        if self.frame_embedding is not None:
            rows = rows + rearrange(self.frame_embedding[:frames], "frames c -> frames 1 c")
        if self.media_embedding is not None:
            rows = rows + rearrange(self.media_embedding[:media], "media c -> media 1 1 c")
        return rearrange(rows, "b media frames n c -> (b media) (frames n) c")

    def extra_repr(self) -> str:
        return f"{self.num_latents} latents × {self.channels}, {len(self.layers)} layers"
