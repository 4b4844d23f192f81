"""Any drawn model: results and gradients are deterministic, finite and accurate in every precision."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit

from ..assemblies import Assembly
from ..strategies import assert_close
from .holding import loss, random_masks
from .properties import holds

pytestmark = pytest.mark.usefixtures("checked")

# Extreme raw values. The squares of the large ones are finite in float32, since norms sum them.
EXTREMES = {
    "zeros": torch.zeros_like,
    "ones": torch.ones_like,
    "large": lambda value: 1e4 * value,
    "constant and large": lambda value: torch.full_like(value, -1e4),
    "almost overflowing": lambda value: 1e18 * value.clamp(-1, 1),
    "small": lambda value: 1e-30 * value,
    "subnormal": lambda value: torch.full_like(value, 1e-42),
    "of all magnitudes": lambda value: value * 10.0 ** torch.randint(-30, 18, value.shape).to(value.dtype),
}


def finite(tensors: dict[str, Tensor | None]) -> bool:
    return all(tensor is not None and bool(tensor.isfinite().all()) for tensor in tensors.values())


@holds()
def test_evaluation_is_deterministic(case: Assembly) -> None:
    """It draws no random number and changes no buffer."""
    wanted = case.model(case.raw)
    buffers = {name: buffer.clone() for name, buffer in case.model.named_buffers()}
    torch.rand(1)  # other random numbers than in the first call
    state = torch.get_rng_state()
    repeated = case.model(case.raw)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in wanted.items():
        assert torch.equal(repeated[name], value)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in case.model.named_buffers())


@holds(share=2)
def test_extreme_inputs_give_finite_results_and_gradients(case: Assembly, data: st.DataObject) -> None:
    edge = EXTREMES[data.draw(st.sampled_from([*EXTREMES]), label="inputs are")]
    model = case.model.float()
    tensors = {n: edge(v) if v.is_floating_point() else v for n, v in case.of_type(torch.float32).items()}
    found = model(tensors)
    assert finite(found)
    with torch.no_grad():
        assert finite(model(tensors))
    masks = random_masks(model, tensors, [*tensors], whole_sample=True)
    assert finite(model(tensors, mask=masks))
    loss(found).backward()
    assert finite({name: parameter.grad for name, parameter in model.named_parameters()})


@holds()
def test_gradients_equal_finite_differences(case: Assembly) -> None:
    """Along one random direction of all parameters."""
    model = case.model
    loss(model(case.raw)).backward()
    direction = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}
    slope = sum(float((parameter.grad * direction[name]).sum()) for name, parameter in model.named_parameters())
    start, twin = dict(model.named_parameters()), copy.deepcopy(model)

    @torch.no_grad()
    def at(step: float) -> float:
        for name, parameter in twin.named_parameters():
            parameter.copy_(start[name] + step * direction[name])
        return float(loss(twin(case.raw)))

    # The error is O(step⁴) plus rounding / step: as much as the estimates differ from each other.
    steps = (1e-5, 1e-6, 1e-7)
    found = [(8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step) for step in steps]
    tolerance = 1e-5 * max(1.0, abs(slope)) + max(found) - min(found)
    assert min(abs(value - slope) for value in found) <= tolerance, (slope, found)


@holds()
def test_missing_targets_leave_no_trace(case: Assembly, data: st.DataObject) -> None:
    """The loss is the mean over what is there, and the gradient of a missing value is zero."""
    found = case.model(case.raw)
    objective = kit.objectives.Weighted({name: kit.objectives.Regression(name) for name in found})
    share = data.draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]), label="share missing")
    missing = {name: torch.rand(value.shape) < share for name, value in found.items()}
    targets = {name: torch.randn_like(value).masked_fill(missing[name], torch.nan) for name, value in found.items()}
    total, _ = objective(found, targets)
    wanted = [
        (value - targets[name])[~missing[name]].square().float().mean()
        for name, value in found.items()
        if not missing[name].all()
    ]
    assert_close(total, torch.stack(wanted).sum() if wanted else torch.zeros(()), 1e-5)
    for name, gradient in zip(found, torch.autograd.grad(total, [*found.values()]), strict=True):
        assert gradient.isfinite().all()
        assert not gradient[missing[name]].any()


@holds()
def test_single_precision_is_close_to_double(case: Assembly) -> None:
    wanted = case.model(case.raw)
    model = copy.deepcopy(case.model).float()
    tensors = case.of_type(torch.float32)
    for found in (model(tensors), torch.no_grad()(model)(tensors)):
        for name, value in found.items():
            assert value.dtype == torch.float32
            assert_close(value.double(), wanted[name], 1e-4)


@holds()
def test_bfloat16_is_finite_and_of_the_same_magnitude(case: Assembly) -> None:
    """Compared with the same rounded weights in double precision: rounding the weights may change more."""
    model, tensors = case.model.bfloat16(), case.of_type(torch.bfloat16)
    exact = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    wanted = copy.deepcopy(model).double()(exact)
    for found in (model(tensors), torch.no_grad()(model)(tensors)):
        for name, value in found.items():
            assert value.dtype == torch.bfloat16
            assert value.isfinite().all()
            # Hidden values have magnitude 1, also where the outputs are smaller.
            assert (value.double() - wanted[name]).abs().max() <= wanted[name].abs().max() + 1
    loss({name: value.float() for name, value in model(tensors).items()}).backward()
    assert finite({name: parameter.grad for name, parameter in model.named_parameters()})
