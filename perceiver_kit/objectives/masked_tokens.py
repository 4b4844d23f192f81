"""Masked-token prediction."""

from __future__ import annotations

from ..registry import register
from .classification import Classification


@register("objectives")
class MaskedTokens(Classification):
    """Cross-entropy of logits (b, n, vocabulary) where targets (b, n) int64 are not -100, in nats.

    Only masked rows count. Metric: accuracy over the same rows.

    >>> loss, _ = MaskedTokens()({"text": torch.zeros(1, 3, 262)}, {"text": torch.tensor([[-100, 80, -100]])})
    >>> round(loss.item(), 3)  # log(262)
    5.568
    """

    def __init__(self, output: str = "text") -> None:
        super().__init__(output)
