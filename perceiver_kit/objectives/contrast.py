"""Contrastive loss of views, for training without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from ..checking import check_number, describe_value
from ..errors import InputError
from ..registry import register
from .base import Objective, Outputs, torchmetrics_package

if TYPE_CHECKING:
    from torchmetrics import Metric


@register("objectives")
class Contrast(Objective):
    """NT-Xent: makes embeddings of views of one sample similar, and those of different samples dissimilar.

    Takes embeddings (b, …), which are flattened, and targets (b,) int64; views with equal targets are partners.
    ``data.views`` makes batches of views. The loss of a view, in nats, is the cross-entropy of finding its partner
    among all other views of the batch, with logits cosine / ``temperature``. With several partners it is the mean over
    them, so that class labels as targets give the supervised contrastive loss. A view without a partner has no loss of
    its own, but is among the others of every view; a missing view (target -100) is left out. In distributed training
    each process compares only its own views.

    Metric: accuracy, the share of views whose most similar other view is a partner. It depends on the batch size.

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
        """Logits between all views, and a mask of partners. A view's logit with itself or a missing one is minimal."""
        if target.dtype != torch.int64 or target.shape != output.shape[:1]:
            expected = f"int64 {tuple(output.shape[:1])}, a number for each view"
            raise InputError(f"target {self.output!r} must be {expected}, got {describe_value(target)}")
        there = self.present(target, targets)
        # Masks, not selection, which would wait for the GPU.
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
