"""Gated cross-attention: a frozen language model learns to read the latents of other media."""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from .activations import Activation
from .attention import Factory
from .block import Block
from .checking import check_flag, check_tensor, describe_value
from .errors import InputError
from .layers import CrossAttentionLayer
from .registry import register
from .variants import LayerNorm, NoNorm, PlainMLP


@register("layers")
class GatedCrossAttention(CrossAttentionLayer, Block):
    """Text (b, n, channels) reads the latents of media (b, t, m, media_channels); the text is returned.

    Both branches, attention and MLP, are multiplied by the tanh of a learned number that starts at zero, so that a
    language model with these layers between its own starts as it was. Nothing has biases but the norms; the media are
    read as they are.

    ``starts`` (b, n) is True at each token where a medium begins; a token reads the last medium that began at or
    before it (``latest_only=False``: all of them). A token before the first medium reads nothing; with
    ``latest_only=False`` it reads the mean of all media, as the published code does. With ``behind=True`` the text
    continues behind the tokens of ``starts``, as in generation one token at a time. Without ``starts`` every token is
    behind all media.

    Source: Flamingo (Alayrac et al. 2022), section 3.1.2; mlfoundations/open_flamingo.

    >>> layer = GatedCrossAttention(32, 16, heads=2, head_channels=8)
    >>> starts = torch.tensor([[True, False, False, True, False]])
    >>> layer(torch.randn(1, 5, 32), torch.randn(1, 2, 4, 16), starts).shape
    torch.Size([1, 5, 32])
    """

    def __init__(
        self,
        channels: int,
        media_channels: int,
        *,
        heads: int = 8,
        head_channels: int = 64,
        latest_only: bool = True,
        activation: Activation = "gelu",
        dropout: float = 0.0,
        norm: Factory | None = None,
        mlp: Factory | None = None,
    ) -> None:
        super().__init__(
            channels,
            media_channels,
            heads=heads,
            qk_channels=heads * head_channels,
            bias="none",
            gated=True,
            dropout=dropout,
            norm=norm or LayerNorm(),
            key_norm=NoNorm(),
            mlp=mlp or PlainMLP(4, activation=activation, bias=False),
        )
        self.channels, self.media_channels, self.latest_only = channels, media_channels, latest_only

    def forward(  # type: ignore[override]
        self,
        text: Float[Tensor, "b n c"],
        media: Float[Tensor, "b t m d"],
        starts: Bool[Tensor, "b k"] | None = None,
        *,
        behind: bool = False,
    ) -> Float[Tensor, "b n c"]:
        check_flag("GatedCrossAttention", behind=behind)
        check_tensor(text, "text", f"b n {self.channels}")
        check_tensor(media, "media", f"b t m {self.media_channels}")
        (b, n), t = text.shape[:2], media.shape[1]
        if media.shape[0] != b:
            raise InputError(f"text and media must share one batch size, got {b} and {media.shape[0]}")
        if starts is not None and (starts.dtype != torch.bool or starts.ndim != 2 or starts.shape[0] != b):
            raise InputError(f"starts must be bool ({b}, n), True where a medium begins; got {describe_value(starts)}")
        if starts is not None and not behind and starts.shape[1] != n:
            hint = "behind=True is for text that continues behind the tokens of starts"
            raise InputError(f"starts must have an entry for each of the {n} tokens, got {starts.shape[1]}; {hint}")
        # The number of media that have begun by each token.
        if starts is None:
            time = torch.full((b, n), t, device=text.device)
        else:
            time = starts.sum(1, keepdim=True).expand(-1, n) if behind else starts.cumsum(1)
        time = rearrange(time, "b n -> b n 1")
        medium = repeat(torch.arange(1, t + 1, device=text.device), "t -> (t m)", m=media.shape[2])
        normed = self.query_norm(text)
        if self.latest_only:
            mask = time == medium
        else:
            # A query of zeros has equal scores: before the first medium, all media are averaged.
            mask = (medium <= time) | (time == 0)
            normed = torch.where(time == 0, 0, normed)
        rows = self.key_norm(rearrange(media, "b t m d -> b (t m) d"))
        return self.finish(text, self.attention(normed, rows, mask))
