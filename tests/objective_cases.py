"""Random outputs and targets, and metrics over batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perceiver_kit.objectives import (
    Objective,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def three() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    outputs = {"image": random(2, 3, 4, 4), "audio": random(2, 8), "label": random(2, 3)}
    targets = {"image": random(2, 3, 4, 4, seed=1), "audio": random(2, 8, seed=1), "label": torch.tensor([0, 2])}
    return outputs, targets


def measured(objective: Objective, batches: list[tuple[dict[str, Tensor], dict[str, Tensor]]]) -> dict[str, float]:
    pytest.importorskip("torchmetrics")
    meters = objective.meters()
    for outputs, targets in batches:
        objective.measure(meters, outputs, targets)
    return {name: float(meter.compute()) for name, meter in meters.items()}


def in_batches(objective: Objective, output: Tensor, targets: dict[str, Tensor]) -> dict[str, float]:
    """Measured over samples 0, 1 to 3, and all others."""
    cuts = (slice(0, 1), slice(1, 4), slice(4, None))
    batches = [({objective.output: output[c]}, {name: t[c] for name, t in targets.items()}) for c in cuts]
    return measured(objective, batches)
