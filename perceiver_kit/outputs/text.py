"""Text logits."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..checking import describe_value
from ..errors import AssemblyError
from ..inputs.text import TextTokens
from ..plain import is_plain
from ..registry import register
from .base import Affine, Output


@register("outputs")
class TiedText(Output):
    """Logits (b, o, vocabulary): rows times the transposed embedding table of a text input, plus a bias.

    Source: Perceiver IO (Jaegle et al. 2022), section 4.1.

    >>> text = TextTokens(262, 32)
    >>> TiedText(text)(torch.zeros(2, 7, 32)).shape
    torch.Size([2, 7, 262])
    """

    fills: ClassVar = {}
    objective = "MaskedTokens"

    def __init__(self, text: TextTokens) -> None:
        super().__init__()
        if not isinstance(text, TextTokens):
            raise AssemblyError(f"TiedText: text must be the model's TextTokens block, got {describe_value(text)}")
        # Hold the block, not its weight: a shared module stays shared through to_empty, assign and replicas.
        self.text = text
        self.in_channels, self.channels = text.content_channels, text.vocabulary
        self.bias = nn.Parameter(torch.zeros(text.vocabulary))

    def forward(self, rows: Float[Tensor, "b k c"]) -> Float[Tensor, "b k v"]:
        return F.linear(rows, *self.affine())

    def affine(self) -> Affine:
        embedding = self.text.embedding
        if is_plain(embedding, {nn.Embedding}):
            return Affine(embedding.weight, self.bias)
        return Affine(embedding(torch.arange(self.channels, device=self.bias.device)), self.bias)
