"""LAMB with the rule of optax, by which the original trains."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Lamb(torch.optim.Optimizer):
    """Adam's step, decay included, rescaled for each tensor to ``lr`` times the norm of its weights.

    Both moments are corrected for their start at zero. A tensor whose weights or step are zero takes Adam's step
    unscaled.

    Source: You et al. 2020, as ``optax.lamb`` computes it.

    >>> weight = torch.nn.Parameter(torch.full((4,), 3.0))
    >>> weight.grad = torch.ones(4)
    >>> Lamb([weight], lr=0.1).step()
    >>> weight.data
    tensor([2.7000, 2.7000, 2.7000, 2.7000])
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, group)
        return loss

    def _step(self, weight: Tensor, group: dict[str, Any]) -> None:
        state, (first, second) = self.state[weight], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        count = int(state["step"])
        mean = state["exp_avg"].lerp_(weight.grad, 1 - first) / (1 - first**count)  # type: ignore[arg-type]
        square = state["exp_avg_sq"].lerp_(weight.grad**2, 1 - second) / (1 - second**count)  # type: ignore[operator]
        update = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * weight
        norm, length = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(update)
        # Without a branch on the norms, for which a GPU would be waited.
        scaled = norm / length.where(length > 0, 1.0)
        weight -= group["lr"] * scaled.where((norm > 0) & (length > 0), 1.0) * update
