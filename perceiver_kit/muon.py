"""Muon for the matrices of attention and MLPs, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .attention import Attention, CrossAttentionLayer, SelfAttentionLayer


class Muon(torch.optim.Optimizer):
    """Muon for the matrices of attention and MLPs, AdamW for all other parameters, as one optimizer.

    Muon makes the update of a matrix orthogonal, so that all its directions are learned equally fast. ``groups`` are
    parameter groups of ``model`` with their weight decay; ``rate`` is AdamW's and ``muon_rate`` Muon's.

    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon, as ``torch.optim.Muon``, which computes the
    update in bfloat16.

    >>> layer = SelfAttentionLayer(8, heads=2)
    >>> optimizer = Muon(layer, [dict(params=[*layer.parameters()])], rate=1e-3, muon_rate=0.02)
    >>> [(group["lr"], len(group["params"])) for group in optimizer.param_groups]
    [(0.02, 6), (0.001, 10)]
    """

    def __init__(
        self,
        model: nn.Module,
        groups: list[dict[str, Any]],
        *,
        rate: float,
        muon_rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        layers = [m for m in model.modules() if isinstance(m, Attention | CrossAttentionLayer | SelfAttentionLayer)]
        matrices = {id(parameter) for layer in layers for parameter in layer.parameters() if parameter.ndim == 2}

        def part(muon: bool) -> list[dict[str, Any]]:
            parts = [
                group | {"params": [p for p in group["params"] if (id(p) in matrices) == muon]} for group in groups
            ]
            return [group for group in parts if group["params"]] or [{"params": []}]

        self.parts = (
            torch.optim.Muon(part(True), lr=muon_rate),
            torch.optim.AdamW(part(False), lr=rate, betas=betas),
        )
        super().__init__([group for optimizer in self.parts for group in optimizer.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.parts:  # a loaded checkpoint replaces state and groups
            optimizer.state = self.state
            optimizer.param_groups = [group for group in self.param_groups if optimizer.defaults.keys() <= group.keys()]
            optimizer.step()
        return loss
