"""Parameter groups, the learning rate, and activation checkpointing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import AssemblyError
from ..flags import checked_flags
from ..freezing import STAGES
from ..layers import CrossAttentionLayer, SelfAttentionLayer
from ..padding import LearnedVector
from ..positions import Learned


def rate_at(step: int, *, steps: int, warmup: int, schedule: str) -> float:
    """The learning rate at a step, relative to its maximum.

    >>> [round(rate_at(step, steps=8, warmup=2, schedule="cosine"), 2) for step in (0, 1, 2, 5, 8)]
    [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    constant = max(warmup, steps // 2) if schedule == "constant_then_cosine" else warmup
    if step < constant:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - constant) / max(1, steps - constant))))


@checked_flags
def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    decay_learned: bool = False,
    rate: float | None = None,
    rates: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Two groups: weight matrices with decay; norms, biases, and other learned vectors without.

    Those are latents, positions, padding and mask tokens; ``decay_learned`` decays them, too, as the original. Frozen
    parameters (``requires_grad=False``) are in neither. Each stage in ``rates`` has two more, with its factor of
    ``rate``; a parameter that several stages share belongs to the first of them in the order of the data.
    """
    undecayed: set[int] = set()
    for module in model.modules():
        norm = isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
        vectors = isinstance(module, Learned | LearnedVector)
        for name, parameter in module.named_parameters(recurse=False):
            learned = vectors or name == "latents"
            if norm or parameter.ndim < 2 or (learned and not decay_learned):
                undecayed.add(id(parameter))
    factors: dict[int, float] = {}
    for stage in reversed(STAGES):
        if stage in (rates or {}):
            factors |= {id(parameter): rates[stage] for parameter in getattr(model, stage).parameters()}  # type: ignore
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = []
    for factor in dict.fromkeys([1.0, *factors.values()]):
        own = [parameter for parameter in parameters if factors.get(id(parameter), 1.0) == factor]
        options = {} if rate is None else {"lr": rate * factor}
        groups += [
            {"params": [p for p in own if id(p) not in undecayed], "weight_decay": weight_decay, **options},
            {"params": [p for p in own if id(p) in undecayed], "weight_decay": 0.0, **options},
        ]
    return groups


def check_trainable(model: nn.Module) -> None:
    """Raise AssemblyError for a model that no optimizer can train."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise AssemblyError(
            "model: expected parameters with requires_grad=True, got a model that is frozen as a whole; unfreeze a "
            'part, such as model.outputs.requires_grad_(True), or add adapters (docs page "Freezing, LoRA, new heads")'
        )
    if any(parameter.is_meta for parameter in parameters):
        raise AssemblyError("model: expected parameters in memory, got some on the meta device; build it without one")
    if any(parameter.is_inference() for parameter in parameters):
        raise AssemblyError(
            "model: its parameters were made under torch.inference_mode(), which autograd refuses; build or load it "
            "outside, or copy it with copy.deepcopy"
        )


def checkpoint_layers(model: nn.Module) -> None:
    """Recompute every attention layer in the backward pass: its activations dominate memory for long inputs."""
    for layer in model.modules():
        if isinstance(layer, CrossAttentionLayer | SelfAttentionLayer):
            layer.forward = partial(_checkpointed, layer.forward)  # type: ignore[method-assign]


def _checkpointed(forward: Any, *args: Any, **kwargs: Any) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
