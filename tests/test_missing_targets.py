"""Missing targets, class weights, classes of rows and pixels: equal to the loss of what is there."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.objectives import (
    Classification,
    EndPointError,
    MaskedTokens,
    MultiLabel,
    Objective,
    Reconstruction,
    Regression,
    Weighted,
)
from perceiver_kit.outputs import ToPixels

B, N, C = 4, 5, 3


def soft(*shape: int) -> Tensor:
    return torch.rand(*shape).softmax(-1)


# An objective of the output "y"; outputs and complete targets; the axes of the target that its elements have.
CASES = {
    "classes of samples": (Classification("y"), lambda: torch.randn(B, C), lambda: torch.randint(C, (B,)), 1),
    "classes of rows": (Classification("y"), lambda: torch.randn(B, N, C), lambda: torch.randint(C, (B, N)), 2),
    "classes of pixels": (Classification("y"), lambda: torch.randn(B, C, N, 2), lambda: torch.randint(C, (B, N, 2)), 3),
    "classes of video": (
        Classification("y"),
        lambda: torch.randn(B, 2, C, 2, 3),
        lambda: torch.randint(C, (B, 2, 2, 3)),
        4,
    ),
    "probabilities": (Classification("y", label_smoothing=0.2), lambda: torch.randn(B, N, C), lambda: soft(B, N, C), 2),
    "weighted classes": (
        Classification("y", class_weights=(0.1, 0.05, 0.2)),
        lambda: torch.randn(B, N, C),
        lambda: torch.randint(C, (B, N)),
        2,
    ),
    "bytes": (MaskedTokens("y"), lambda: torch.randn(B, N, C), lambda: torch.randint(C, (B, N)), 2),
    "labels": (MultiLabel("y", labels=C), lambda: torch.randn(B, C), lambda: torch.rand(B, C), 2),
    "labels of rows": (MultiLabel("y", labels=C), lambda: torch.randn(B, N, C), lambda: torch.rand(B, N, C), 3),
    "whole labels": (MultiLabel("y", labels=C), lambda: torch.randn(B, C), lambda: torch.randint(2, (B, C)), 2),
    "values": (Regression("y"), lambda: torch.randn(B, N, C), lambda: torch.randn(B, N, C), 3),
    "values of pixels": (Reconstruction("y"), lambda: torch.randn(B, C, N, 2), lambda: torch.randn(B, C, N, 2), 4),
    "flow": (EndPointError("y"), lambda: torch.randn(B, 2, N, 4), lambda: torch.randn(B, 2, N, 4), 3),
}


def without(target: Tensor, missing: Tensor) -> Tensor:
    """The target with -100 or NaN where an element is missing."""
    if missing.shape != target.shape:
        channel = -1 if target.ndim == missing.ndim + 1 and target.shape[:-1] == missing.shape else 1
        missing = missing.unsqueeze(channel).expand_as(target)
    return torch.where(missing, math.nan if target.is_floating_point() else -100, target)


@pytest.mark.parametrize("case", CASES)
@given(share=st.sampled_from([0.0, 0.3, 0.8]))
def test_missing_targets_add_nothing(case: str, share: float) -> None:
    """Sums and counts of single samples, of those that have a target, give the loss; others have no gradient."""
    objective, make_output, make_target, axes = CASES[case]
    output, target = make_output().requires_grad_(), make_target()
    shape = target.shape[:axes] if case != "flow" else (B, N, 4)
    missing = torch.rand(shape) < share
    missing[0], missing[1] = True, False
    loss, _ = objective({"y": output}, {"y": without(target, missing)})
    loss.backward()
    assert loss.isfinite()
    assert output.grad.isfinite().all()
    assert output.grad[0].eq(0).all()
    assert output.grad[1].ne(0).any()
    changed = torch.where(output.grad == 0, 7.0, output.detach())
    assert objective({"y": changed}, {"y": without(target, missing)})[0].item() == pytest.approx(loss.item(), rel=1e-4)
    # Each sample alone has the same sums.
    whole, marked = output.detach(), without(target, missing)
    terms = [objective.terms({"y": whole[i : i + 1]}, {"y": marked[i : i + 1]})["y"] for i in range(1, B)]
    total, count = sum(float(t.total) for t in terms), sum(float(t.count) for t in terms)
    assert loss.item() == pytest.approx(total / count, rel=1e-4)


def test_no_target_at_all_gives_zero_and_a_gradient_of_zero() -> None:
    for objective, make_output, make_target, axes in CASES.values():
        output, target = make_output().requires_grad_(), make_target()
        missing = torch.ones(target.shape[:axes] if type(objective) is not EndPointError else (B, N, 4)) > 0
        loss, _ = objective({"y": output}, {"y": without(target, missing)})
        loss.backward()
        assert loss.item() == 0
        assert output.grad.eq(0).all()


@pytest.mark.parametrize(
    ("objective", "shape", "valid"),
    [
        (Regression("y", valid="seen"), (B, N, C), (B,)),
        (Regression("y", valid="seen"), (B, N, C), (B, N)),
        (Reconstruction("y", valid="seen"), (B, C, N, 2), (B, N, 2)),
        (Reconstruction("y", valid="seen"), (B, 2, C, N, 2), (B, 2, N, 2)),
        (MultiLabel("y", labels=C, valid="seen"), (B, C), (B, C)),
    ],
)
def test_a_valid_mask_equals_nan(objective: Objective, shape: tuple, valid: tuple) -> None:
    output, target, seen = torch.randn(shape), torch.rand(shape), torch.rand(valid) < 0.5
    hidden = ~seen if len(shape) - len(valid) != 1 or len(shape) < 4 else (~seen).unsqueeze(-3)
    while hidden.ndim < len(shape):
        hidden = hidden[..., None]
    found = objective({"y": output}, {"y": target, "seen": seen})[0]
    unmarked = type(objective)("y", **({"labels": C} if isinstance(objective, MultiLabel) else {}))
    assert found == unmarked({"y": output}, {"y": target.masked_fill(hidden, math.nan)})[0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_those_of_torch(smoothing: float) -> None:
    logits, target, weights = torch.randn(9, C), torch.arange(9) % C, (0.1, 0.0, 0.3)
    target[4] = -100
    found = Classification("y", class_weights=weights, label_smoothing=smoothing)({"y": logits}, {"y": target})[0]
    wanted = F.cross_entropy(logits, target, torch.tensor(weights), label_smoothing=smoothing)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_weighted_skips_a_missing_target_sample_by_sample() -> None:
    outputs = {"mood": torch.randn(B, 2, requires_grad=True), "topic": torch.randn(B, C, requires_grad=True)}
    targets = {"mood": torch.tensor([0, -100, 1, -100]), "topic": torch.tensor([-100, 2, 0, -100])}
    both = Weighted(dict(mood=Classification("mood"), topic=Classification("topic")))
    loss, parts = both(outputs, targets)
    loss.backward()
    assert parts["mood"] == F.cross_entropy(outputs["mood"], targets["mood"])
    assert outputs["mood"].grad[[1, 3]].eq(0).all()
    assert outputs["topic"].grad[[0, 3]].eq(0).all()


def test_metrics_count_only_what_is_there() -> None:
    pytest.importorskip("torchmetrics")
    for objective, make_output, make_target, axes in CASES.values():
        output, target = make_output(), make_target()
        if isinstance(objective, MultiLabel):  # whose metric needs both values of each label
            target = torch.arange(target.numel()).view(target.shape) % 2
        missing = torch.zeros(target.shape[:axes] if type(objective) is not EndPointError else (B, N, 4)) > 0
        missing[0] = True
        meters, wanted = objective.meters(), objective.meters()
        objective.measure(meters, {"y": output}, {"y": without(target, missing)})
        objective.measure(meters, {"y": output}, {"y": without(target, missing | True)})  # nothing to measure
        objective.measure(wanted, {"y": output[1:]}, {"y": target[1:]})
        for name, meter in meters.items():
            assert float(meter.compute()) == pytest.approx(float(wanted[name].compute()), rel=1e-4, nan_ok=True), name


def test_targets_of_pixels_divide_into_rows() -> None:
    classes = torch.arange(2 * 3 * 4).view(2, 3, 4)
    assert torch.equal(ToPixels(5, in_channels=8).rows_of(classes), classes.flatten(1))


def test_wrong_weights_and_masks_are_refused() -> None:
    for weights in ((), (0.0, 0.0), (1.0, -1.0), (math.nan, 1.0), 3.0, ("1",)):
        with pytest.raises(kit.AssemblyError, match="class_weights must be finite numbers of at least 0"):
            Classification("y", class_weights=weights)
    with pytest.raises(kit.InputError, match="class_weights: expected 3, one for each class, got 2"):
        Classification("y", class_weights=(1.0, 2.0))({"y": torch.zeros(1, 3)}, {"y": torch.zeros(1).long()})
    output = {"y": torch.zeros(2, 3)}
    for seen in (torch.zeros(2, 3), torch.zeros(3) > 0):
        with pytest.raises(kit.InputError, match="target 'seen' must be bool with the first axes of target 'y'"):
            Regression("y", valid="seen")(output, {"y": torch.zeros(2, 3), "seen": seen})
    with pytest.raises(kit.UnknownName, match="targets has no 'seen'"):
        Regression("y", valid="seen")(output, {"y": torch.zeros(2, 3)})
    with pytest.raises(kit.InputError, match=r"must be int64 \(2, 4, 4\) or float \(2, 3, 4, 4\), got int64 \(2, 16\)"):
        Classification("y")({"y": torch.zeros(2, 3, 4, 4)}, {"y": torch.zeros(2, 16).long()})


@pytest.mark.parametrize("objective", [Reconstruction("y"), Regression("y")], ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_values_of_any_dtype_are_targets(objective: Objective, dtype: torch.dtype) -> None:
    output, target = torch.randn(B, N), torch.randint(2, (B, N)).to(dtype)
    found, wanted = (objective({"y": output}, {"y": each})[0] for each in (target, target.float()))
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
