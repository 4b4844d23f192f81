"""Next-token prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from ..checking import check_number, check_probability, describe_value
from ..errors import InputError
from ..registry import register
from .base import MISSING, Objective, Outputs, check_classes, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class NextTokens(Objective):
    """Cross-entropy of logits (b, m, vocabulary) where targets (b, m) int64, the next tokens, are not -100, in nats.

    ``label_smoothing`` is spread over the other tokens, and the entropy of that soft target is subtracted, so that the
    least loss is zero. ``z_loss`` · (log Σ exp logits)² keeps logits small. Metrics over the same rows, without either:
    bits a token, and accuracy.

    Source: google-research/perceiver-ar, which has ``z_loss`` 1e-4.

    >>> loss, _ = NextTokens()({"text": torch.zeros(1, 3, 256)}, {"text": torch.tensor([[-100, 80, 7]])})
    >>> round(loss.item(), 3)  # log(256)
    5.545
    """

    def __init__(self, output: str = "text", *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> None:
        super().__init__()
        check_probability("NextTokens", label_smoothing=label_smoothing)
        check_number("NextTokens", z_loss=z_loss)
        self.output, self.label_smoothing, self.z_loss = output, label_smoothing, z_loss

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        if target.dtype != torch.int64 or target.shape != output.shape[:2]:
            expected = tuple(output.shape[:2])
            raise InputError(f"target {self.output!r} must be int64 {expected}, got {describe_value(target)}")
        kept = target != MISSING
        check_classes(self.output, target, output.shape[-1])
        # All rows, and zero for those that are missing: to select the others, a GPU would be waited for.
        flat = rearrange(torch.where(kept, target, 0), "b m -> (b m)")
        loss, z = self.losses(rearrange(output, "b m v -> (b m) v"), flat)
        return torch.where(rearrange(kept, "b m -> (b m)"), loss + z, 0).sum(), kept.sum()

    def losses(
        self, logits: Float[Tensor, "n v"], target: Int64[Tensor, "n"]
    ) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Loss and z-loss of each token."""
        logits = logits.float()
        loss, smooth = F.cross_entropy(logits, target, reduction="none"), self.label_smoothing
        if smooth:
            other = smooth / (logits.shape[-1] - 1)
            label = rearrange(logits.log_softmax(-1).gather(-1, rearrange(target, "n -> n 1")), "n 1 -> n")
            rest = logits.log_softmax(-1).sum(-1) - label
            entropy = smooth * math.log(other) + ((1 - smooth) * math.log(1 - smooth) if smooth < 1 else 0)
            loss = entropy - (1 - smooth) * label - other * rest
        return loss, self.z_loss * logits.logsumexp(-1).square()

    def meters(self) -> dict[str, Metric]:
        mean = torchmetrics_package().MeanMetric
        return {"bits": mean(), "accuracy": mean()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        kept = targets[self.output] != MISSING
        if kept.any():
            logits, target = outputs[self.output][kept].float(), targets[self.output][kept]
            meters["bits"].update(F.cross_entropy(logits, target, reduction="none") / math.log(2))
            meters["accuracy"].update((logits.argmax(-1) == target).float())
