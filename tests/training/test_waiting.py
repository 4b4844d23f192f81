"""A training step never looks at what a device has computed, and never copies to it in a way that waits for it.

The device is torch's "meta", whose tensors have no values: looking at one raises, or is seen here. ``test_cuda.py`` has
the same test on a GPU, with torch's own detector.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import perceiver_kit as kit
from perceiver_kit import objectives
from perceiver_kit.objectives import Objective

from .toys import QUIET, alone, batch

pytestmark = QUIET
# Hungarian matching is computed by SciPy, on the CPU.
WAITS = {"object_detection"}
LOOKS = {Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.numpy, Tensor.__bool__, Tensor.__int__, Tensor.__float__}


class Waiting(TorchFunctionMode):
    """Raises for a look at a tensor of the device, and for a copy to it that is not ``non_blocking``."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in LOOKS and args[0].is_meta:
            raise AssertionError(f"{function.__name__} of a tensor on the device")
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.is_meta:
            made = function is torch.tensor or function is torch.as_tensor or function is Tensor.new_tensor
            moved = function is Tensor.to and not args[0].is_meta and not kwargs.get("non_blocking")
            if moved or (made and not (args and isinstance(args[-1], Tensor) and args[-1].is_meta)):
                raise AssertionError(f"{function.__name__} copies to the device and waits for it")
        return result


def on_the_device(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: on_the_device(part) for name, part in value.items()}
    return value.to("meta")


@pytest.mark.parametrize("recipe", [recipe for recipe in kit.list() if recipe not in WAITS])
def test_a_step_never_waits(recipe: str) -> None:
    """Optimizers are tested on a GPU only: their state has values of the CPU beside those of the device."""
    training = alone(recipe)
    steps = training.configure_optimizers()["optimizer"]
    training.to("meta")
    there = {name: part if name == "draw" else on_the_device(part) for name, part in _batch(recipe).items()}
    with Waiting():
        loss = training.training_step(there, 0)
        loss.backward()
        training.on_before_optimizer_step(steps)
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
    assert loss.is_meta


def _batch(recipe: str) -> dict[str, Any]:
    return batch(recipe, [(0, 0), (1, 0), (2, 0), (3, 0)])


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.new_tensor([1.0]),
    ],
)
def test_looks_and_copies_are_seen(look: Any) -> None:
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), Waiting():
        look(torch.ones(3, device="meta"))


def test_copies_that_do_not_wait_are_allowed() -> None:
    with Waiting():
        torch.ones(3).to("meta", non_blocking=True)


# Objectives, and options of theirs, that no recipe has by default.
CASES: list[tuple[Objective, tuple[int, ...], dict[str, Tensor]]] = [
    (objectives.Classification("a", class_weights=(1.0, 2.0, 0.5)), (4, 3), {"a": torch.tensor([0, 1, -100, 2])}),
    (objectives.Classification("a", label_smoothing=0.1, valid="known"), (4, 3), {"a": torch.rand(4, 3)}),
    (objectives.Segmentation("a"), (2, 3, 4, 4), {"a": torch.zeros(2, 4, 4, dtype=torch.int64)}),
    (objectives.Tags("a"), (2, 5, 3), {"a": torch.zeros(2, 5, dtype=torch.int64)}),
    (objectives.MaskedTokens("a"), (2, 5, 7), {"a": torch.zeros(2, 5, dtype=torch.int64)}),
    (objectives.Regression("a"), (4, 2), {"a": torch.rand(4, 2)}),
    (objectives.Reconstruction("a"), (4, 2), {"a": torch.rand(4, 2)}),
    (objectives.MultiLabel("a", labels=3), (4, 3), {"a": torch.ones(4, 3)}),
    (objectives.Contrast("a"), (4, 3), {"a": torch.tensor([0, 0, 1, 1])}),
    (objectives.EndPointError("a", scales=2, robust=True), (2, 2, 8, 8), {"a": torch.rand(2, 2, 8, 8)}),
]


@pytest.mark.parametrize(("objective", "shape", "targets"), CASES, ids=[type(case[0]).__name__ for case in CASES])
def test_a_loss_never_waits(objective: Objective, shape: tuple[int, ...], targets: dict[str, Tensor]) -> None:
    output = torch.randn(shape, device="meta", requires_grad=True)
    there = on_the_device(targets | {"known": torch.ones(4, dtype=torch.bool)})
    with Waiting():
        loss, _ = objective({"a": output}, there)
        loss.backward()
    assert output.grad is not None
