"""Contrast of views, for training without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from ..checks import check_number, describe_value
from ..errors import InputError
from ..registry import register
from .base import Objective, Outputs, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Contrast(Objective):
    """NT-Xent: views of one sample shall have similar embeddings, and views of different samples shall not.

    Takes embeddings (b, …), flattened, and targets (b,) int64, equal for views of one sample; ``data.views`` makes
    both. The loss of a view, in nats, is the cross-entropy of its partner among all other views of the batch, with
    logits of cosine / ``temperature``. Of several partners it is their mean, so that classes as targets give the
    supervised contrastive loss. A view without a partner counts for others only; a missing one (-100) not at all.
    Each process compares the views of its own share of the batch.

    Metric: accuracy, the share of views whose most similar other view is a partner. It depends on the batch, too.

    Sources: SimCLR (Chen et al. 2020), section 2.1; Khosla et al. 2020, equation 2.

    >>> views = torch.eye(4)[[0, 0, 1, 1]]  # two samples, two equal views each
    >>> loss, _ = Contrast(temperature=1.0)({"view": views}, {"view": torch.tensor([7, 7, 9, 9])})
    >>> round(loss.item(), 3)  # log(e + 2) - 1
    0.551
    """

    def __init__(self, output: str = "view", *, temperature: float = 0.1) -> None:
        super().__init__()
        check_number("Contrast", above=0.0, temperature=temperature)
        self.output, self.temperature = output, temperature

    def loss_sum(self, output: Tensor, target: Tensor, targets: Outputs) -> tuple[Tensor, Tensor]:
        logits, partners = self._compared(output, target, targets)
        number = partners.sum(-1)
        loss = -torch.where(partners, logits.log_softmax(-1), 0).sum(-1) / number.clamp(min=1)
        return loss.sum(), (number > 0).sum()

    def _compared(
        self, output: Tensor, target: Tensor, targets: Outputs
    ) -> tuple[Float[Tensor, "n n"], Bool[Tensor, "n n"]]:
        """Logits of each view for each, the lowest number for itself and missing ones, and which are its partners."""
        if target.dtype != torch.int64 or target.shape != output.shape[:1]:
            expected = f"int64 {tuple(output.shape[:1])}, a number for each view"
            raise InputError(f"target {self.output!r} must be {expected}, got {describe_value(target)}")
        there = self.present(target, targets)
        # Masks, and no selection, for which a GPU would be waited.
        rows = torch.where(rearrange(there, "n -> n 1"), rearrange(output.float(), "n ... -> n (...)"), 0)
        rows = F.normalize(rows, dim=-1)
        others = there & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        partners = others & rearrange(there, "n -> n 1") & (rearrange(target, "n -> n 1") == target)
        logits = rows @ rearrange(rows, "n c -> c n") / self.temperature
        return logits.masked_fill(~others, torch.finfo(logits.dtype).min), partners

    def meters(self) -> dict[str, Metric]:
        return {"accuracy": torchmetrics_package().MeanMetric()}

    def measure(self, meters: Mapping[str, Metric], outputs: Outputs, targets: Outputs) -> None:
        logits, partners = self._compared(outputs[self.output], targets[self.output], targets)
        found = partners.any(-1)
        if found.any():
            best = rearrange(logits[found].argmax(-1), "k -> k 1")
            meters["accuracy"].update(partners[found].gather(-1, best).float())
