"""Sums, counts and means of each objective, element by element against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from perceiver_kit.objectives import (
    Classification,
    EndPointError,
    MaskedTokens,
    MultiLabel,
    Objective,
    Reconstruction,
    Regression,
    Weighted,
    combine,
)

from .objective_cases import random, three
from .restated import Array, array

pytestmark = pytest.mark.usefixtures("checked")

sizes = st.integers(1, 4)


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


# ---- the sum and the count of each objective in NumPy


def cross_entropy(logits: Array, target: Array, smoothing: float) -> tuple[float, int]:
    total = 0.0
    for row, wanted in zip(logits, target, strict=True):
        classes = len(row)
        share = wanted if target.ndim == 2 else [float(c == wanted) for c in range(classes)]
        for c in range(classes):
            total -= ((1 - smoothing) * share[c] + smoothing / classes) * log_softmax(row)[c]
    return total, len(logits)


def binary_cross_entropy(logits: Array, target: Array) -> tuple[float, int]:
    chance = 1 / (1 + np.exp(-logits))
    return -(target * np.log(chance) + (1 - target) * np.log(1 - chance)).sum(), target.size


def masked_tokens(logits: Array, target: Array) -> tuple[float, int]:
    counted = [(b, i) for b, i in np.ndindex(target.shape) if target[b, i] != -100]
    return -sum(log_softmax(logits[b, i])[target[b, i]] for b, i in counted), len(counted)


def end_point_error(flow: Array, target: Array, valid: Array, scales: int, robust: bool) -> tuple[float, int]:
    """The mean over valid places of each scale, times the number of valid pixels at full size."""
    count, total = int(valid.sum()), 0.0
    for scale in range(scales):
        side = 2**scale
        found = []
        for b, y, x in np.ndindex(len(flow), flow.shape[2] // side, flow.shape[3] // side):
            # Halved repeatedly: means of means, each over the valid values below it.
            error = pooled(flow[b] - target[b], valid[b], y, x, scale)
            if error is not None:
                distance = math.hypot(*error)
                found.append((distance + 0.01) ** 0.4 if robust else distance)
        total += sum(found) / max(1, len(found)) * count / scales
    return total, count


def pooled(error: Array, valid: Array, y: int, x: int, scale: int) -> Array | None:
    if scale == 0:
        return error[:, y, x] if valid[y, x] else None
    below = [pooled(error, valid, 2 * y + i, 2 * x + j, scale - 1) for i in (0, 1) for j in (0, 1)]
    below = [part for part in below if part is not None]
    return np.mean(below, axis=0) if below else None


def agrees(objective: Objective, output: Tensor, targets: dict[str, Tensor], wanted: tuple[float, int]) -> None:
    """Check the objective's sum, count, mean and reported part, also for bfloat16."""
    name, (total, count) = objective.output, wanted
    term = objective.terms({name: output}, targets)[name]
    assert term.total.item() == pytest.approx(total, rel=1e-5, abs=1e-5)
    assert int(term.count) == count
    loss, parts = objective({name: output.requires_grad_()}, targets)
    assert loss.requires_grad
    assert loss.item() == pytest.approx(total / max(1, count), rel=1e-5, abs=1e-5)
    assert [*parts] == [name]
    assert parts[name].item() == pytest.approx(loss.item())
    assert not parts[name].requires_grad
    half = objective({name: output.bfloat16()}, targets)[0]
    assert half.dtype == torch.float32, "losses are in float32, whatever the model computes in"
    assert half.item() == pytest.approx(loss.item(), rel=0.03, abs=0.03)
    halves = {key: target.bfloat16() if target.is_floating_point() else target for key, target in targets.items()}
    term = objective.terms({name: output.bfloat16()}, halves)[name]
    assert term.total.dtype == torch.float32, "a sum in bfloat16 stops growing at 256"


@given(b=sizes, classes=st.integers(1, 5), smoothing=st.sampled_from([0.0, 0.1, 1.0]), soft=st.booleans())
def test_classification(b: int, classes: int, smoothing: float, soft: bool) -> None:
    logits = random(b, classes)
    target = random(b, classes, seed=1).softmax(-1) if soft else torch.arange(b) % classes
    wanted = cross_entropy(array(logits), array(target) if soft else target.numpy(), smoothing)
    agrees(Classification(label_smoothing=smoothing), logits, {"label": target}, wanted)


@given(shape=st.lists(sizes, min_size=1, max_size=4))
def test_regression_and_reconstruction(shape: list[int]) -> None:
    output, target = random(*shape), random(*shape, seed=1)
    error = array(output) - array(target)
    agrees(Regression("y"), output, {"y": target}, ((error**2).sum(), error.size))
    agrees(Reconstruction("y"), output, {"y": target}, (np.abs(error).sum(), error.size))


@given(b=sizes, labels=sizes, soft=st.booleans())
def test_multi_label(b: int, labels: int, soft: bool) -> None:
    logits, target = random(b, labels), random(b, labels, seed=1).sigmoid()
    target = target if soft else target.round().long()
    agrees(MultiLabel(labels=labels), logits, {"label": target}, binary_cross_entropy(array(logits), array(target)))


@given(b=sizes, n=sizes, asked=st.sampled_from([0.0, 0.5, 1.0]))
def test_masked_tokens(b: int, n: int, asked: float) -> None:
    logits, target = random(b, n, 6), torch.randint(6, (b, n), generator=torch.Generator().manual_seed(1))
    target[torch.rand(b, n) >= asked] = -100
    agrees(MaskedTokens(), logits, {"text": target}, masked_tokens(array(logits), target.numpy()))


@given(
    b=st.integers(1, 2),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    share=st.sampled_from([None, 0.0, 0.1, 0.7]),
    scales=st.integers(1, 3),
    robust=st.booleans(),
)
def test_end_point_error(b: int, height: int, width: int, share: float | None, scales: int, robust: bool) -> None:
    flow, target = random(b, 2, height, width), random(b, 2, height, width, seed=1)
    targets, valid = {"flow": target}, torch.ones(b, height, width, dtype=torch.bool)
    if share is not None:
        valid = torch.rand(b, height, width) < share
        targets = {"flow": target.masked_fill(~valid[:, None], float("nan")), "valid": valid}
    wanted = end_point_error(array(flow), array(target), valid.numpy(), scales, robust)
    agrees(EndPointError(scales=scales, robust=robust), flow, targets, wanted)


def test_ignored_elements_have_no_gradient_even_if_nan() -> None:
    flow, valid = random(1, 2, 4, 4).requires_grad_(), torch.zeros(1, 4, 4, dtype=torch.bool)
    valid[:, :2] = True
    target = torch.zeros(1, 2, 4, 4).masked_fill(~valid[:, None], torch.nan)
    EndPointError(scales=2)({"flow": flow}, {"flow": target, "valid": valid})[0].backward()
    assert flow.grad.isfinite().all()
    assert flow.grad[:, :, :2].abs().min() > 0
    assert flow.grad[:, :, 2:].eq(0).all()

    logits, text = random(1, 3, 5).requires_grad_(), torch.tensor([[-100, 2, -100]])
    MaskedTokens()({"text": logits}, {"text": text})[0].backward()
    assert logits.grad[:, [0, 2]].eq(0).all()
    assert logits.grad[:, 1].abs().min() > 0


@pytest.mark.parametrize("objective", [EndPointError(), EndPointError(scales=2, robust=True)])
def test_exact_flow_has_a_finite_gradient(objective: Objective) -> None:
    flow = torch.zeros(1, 2, 4, 4, requires_grad=True)
    objective({"flow": flow}, {"flow": torch.zeros(1, 2, 4, 4)})[0].backward()
    assert flow.grad.eq(0).all()


def test_no_counted_elements_give_zero_loss_and_gradient() -> None:
    logits = random(2, 3, 5).requires_grad_()
    loss, _ = MaskedTokens()({"text": logits}, {"text": torch.full((2, 3), -100)})
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()
    flow = random(1, 2, 4, 4).requires_grad_()
    nowhere = {"flow": random(1, 2, 4, 4, seed=1), "valid": torch.zeros(1, 4, 4, dtype=torch.bool)}
    loss, _ = EndPointError(scales=2)({"flow": flow}, nowhere)
    loss.backward()
    assert loss.item() == 0
    assert flow.grad.eq(0).all()


@given(weights=st.lists(st.sampled_from([0.0, 1e-4, 0.03, 2.0]), min_size=3, max_size=3), data=st.data())
def test_weighted_is_the_weighted_sum_over_the_decoded_outputs(weights: list[float], data: st.DataObject) -> None:
    parts = dict(image=Reconstruction("image"), audio=Regression("audio"), label=Classification())
    outputs, targets = three()
    asked = data.draw(st.lists(st.sampled_from(sorted(parts)), min_size=1, unique=True))
    objective = Weighted(parts, weights=dict(zip(parts, weights, strict=True)))
    loss, means = objective({name: outputs[name] for name in asked}, targets)
    alone = {name: parts[name](outputs, targets)[0] for name in asked}
    assert loss.item() == pytest.approx(sum(objective.weights[name] * alone[name].item() for name in asked), abs=1e-6)
    assert {name: mean.item() for name, mean in means.items()} == pytest.approx(
        {name: value.item() for name, value in alone.items()}
    )


def test_weighted_takes_several_objectives_of_one_output_and_nests() -> None:
    outputs, targets = three()
    both = Weighted(dict(near=Reconstruction("image"), far=Regression("image")), weights=dict(near=2.0))
    near, far = Reconstruction("image")(outputs, targets)[0], Regression("image")(outputs, targets)[0]
    loss, parts = both(outputs, targets)
    assert {*parts} == {"near", "far"}
    assert loss.item() == pytest.approx(2 * near.item() + far.item())

    nested = Weighted(dict(both=both, label=Classification()), weights=dict(both=0.5))
    loss, parts = nested({"image": outputs["image"]}, targets)
    assert {*parts} == {"both_near", "both_far"}
    assert loss.item() == pytest.approx(near.item() + far.item() / 2)
    of_two = Weighted(dict(near=Reconstruction("image"), sound=Regression("audio")))
    loss, parts = Weighted(dict(two=of_two, label=Classification()))({"image": outputs["image"]}, targets)
    assert {*parts} == {"two_near"}, "audio was not decoded"
    assert loss.item() == pytest.approx(near.item())
    assert {*nested.meters()} == {"both_near_psnr", "both_far_mse", "both_far_mae", "label_accuracy"}


def test_sums_and_counts_of_several_processes_combine_to_the_mean_over_all_elements() -> None:
    """Two halves with one and three masked bytes."""
    logits, text = random(2, 3, 5), torch.tensor([[1, -100, -100], [2, 3, 4]])
    halves = [MaskedTokens().terms({"text": logits[i : i + 1]}, {"text": text[i : i + 1]})["text"] for i in (0, 1)]
    count = halves[0].count + halves[1].count
    mean = sum(combine({"text": half._replace(count=count)})[0] for half in halves)
    assert mean.item() == pytest.approx(MaskedTokens()({"text": logits}, {"text": text})[0].item())
