"""Parameter groups, the learning rate, and activation checkpointing."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..attention import CrossAttentionLayer, SelfAttentionLayer
from ..errors import AssemblyError
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


def parameter_groups(model: nn.Module, *, weight_decay: float, decay_learned: bool = False) -> list[dict[str, Any]]:
    """Two groups: weight matrices with decay; norms, biases, and other learned vectors without.

    Those are latents, positions, padding and mask tokens; ``decay_learned`` decays them, too, as the original. Frozen
    parameters (``requires_grad=False``) are in neither.
    """
    undecayed: set[int] = set()
    for module in model.modules():
        norm = isinstance(module, nn.LayerNorm | nn.BatchNorm2d)
        vectors = isinstance(module, Learned | LearnedVector)
        for name, parameter in module.named_parameters(recurse=False):
            learned = vectors or name == "latents"
            if norm or parameter.ndim < 2 or (learned and not decay_learned):
                undecayed.add(id(parameter))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) not in undecayed], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in undecayed], "weight_decay": 0.0},
    ]


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
