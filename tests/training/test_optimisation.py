"""Weight decay, learning rate, LAMB, Muon, and activation checkpointing: equal gradients in less memory."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.muon import Muon
from perceiver_kit.training import checkpoint_layers, parameter_groups, rate_at
from perceiver_kit.training.lamb import Lamb

from .. import fresh
from ..strategies import raws
from .toys import QUIET, RECIPES, small

pytestmark = QUIET
LEARNED = ("table", "vector", "latents")


# ---- weight decay


def names(model: nn.Module, group: dict) -> set[str]:
    ids = {id(parameter) for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


@pytest.mark.parametrize("decay_learned", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_only_weight_matrices_decay(recipe: str, decay_learned: bool) -> None:
    model = small(recipe)
    decayed, undecayed = parameter_groups(model, weight_decay=0.3, decay_learned=decay_learned)
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.3, 0.0)
    both = [*decayed["params"], *undecayed["params"]]
    assert len({id(p) for p in both}) == len(both) == len([*model.parameters()])

    for name in names(model, undecayed):
        last = name.rsplit(".", 1)[-1]
        assert last == "bias" or "norm" in name or (not decay_learned and last in LEARNED), name
    for name in names(model, decayed):
        assert name.endswith(".weight") or (decay_learned and name.endswith(LEARNED)), name
        assert "norm" not in name
    latents = {name for name, _ in model.named_parameters() if name == "encoder.latents"}
    assert latents <= names(model, decayed if decay_learned else undecayed)


def test_frozen_parameters_are_in_no_group_and_shared_ones_in_one() -> None:
    model = small("masked_lm")
    model.encoder.requires_grad_(False)
    decayed, undecayed = parameter_groups(model, weight_decay=0.1)
    assert not any(name.startswith("encoder") for name in names(model, decayed) | names(model, undecayed))
    embedding = model.inputs.blocks["text"].embedding.weight  # tied to the output
    assert sum(parameter is embedding for parameter in decayed["params"]) == 1


def test_decay_shrinks_decayed_parameters_only() -> None:
    model = small("multimodal_autoencoding")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, weight_decay=0.5)
    decayed = names(model, groups[0])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(groups, lr=0.1).step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if name in decayed else before[name]
        torch.testing.assert_close(parameter.detach(), expected)


# ---- the rate


@given(
    steps=st.integers(1, 60),
    warmup=st.integers(0, 20),
    schedule=st.sampled_from(["cosine", "constant_then_cosine"]),
)
def test_the_rate_warms_up_then_falls_to_zero(steps: int, warmup: int, schedule: str) -> None:
    rates = [rate_at(step, steps=steps, warmup=warmup, schedule=schedule) for step in range(max(steps, warmup) + 1)]
    assert all(0 <= rate <= 1 for rate in rates)
    for step in range(min(warmup, steps)):
        assert rates[step] == pytest.approx((step + 1) / warmup)
    after = rates[warmup:]
    assert all(a >= b for a, b in itertools.pairwise(after))
    if warmup < steps:
        assert rates[warmup] == 1
        assert rates[steps] == pytest.approx(0, abs=1e-12)
        constant = max(warmup, steps // 2) if schedule == "constant_then_cosine" else warmup
        assert all(rate == 1 for rate in rates[warmup:constant])
        middle = (constant + steps) / 2
        if middle == int(middle):
            assert rates[int(middle)] == pytest.approx(0.5)


# ---- LAMB


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_takes_the_steps_of_its_formula(decay: float) -> None:
    """You et al. 2020, as optax.lamb: decay inside the trust ratio, weight norms of any size, both moments corrected.

    Tensors that start at zero, and those without a gradient yet, take Adam's step.
    """
    rate, first, second = 0.01, 0.9, 0.999
    starts = [scale * torch.randn(6, 5).double() for scale in (0.0, 0.01, 1.0, 30.0)]
    weights = [nn.Parameter(start.clone()) for start in starts]
    optimizer = Lamb([dict(params=weights, weight_decay=decay)], lr=rate)
    expected = [start.numpy().copy() for start in starts]
    mean, square = ([np.zeros((6, 5)) for _ in starts] for _ in range(2))
    for step in range(1, 5):
        for i, weight in enumerate(weights):
            weight.grad = 10.0**i * torch.randn(6, 5).double() * (step > 1 or i != 2)
            gradient = weight.grad.numpy()
            mean[i] = first * mean[i] + (1 - first) * gradient
            square[i] = second * square[i] + (1 - second) * gradient**2
            update = mean[i] / (1 - first**step) / (np.sqrt(square[i] / (1 - second**step)) + 1e-6)
            update += decay * expected[i]
            norm, length = np.linalg.norm(expected[i]), np.linalg.norm(update)
            expected[i] = expected[i] - rate * (norm / length if norm > 0 and length > 0 else 1.0) * update
        optimizer.step()
        for weight, wanted in zip(weights, expected, strict=True):
            np.testing.assert_allclose(weight.detach().numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_lamb_skips_weights_without_gradients_and_calls_its_closure() -> None:
    one, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lamb([one, other], lr=0.1)

    def closure() -> Tensor:
        loss = one.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 2
    torch.testing.assert_close(one.data, torch.full((2,), 0.9))
    assert torch.equal(other.data, torch.ones(2))


# ---- Muon


def stepped(model: nn.Module, **options: float) -> dict[str, Tensor]:
    """The update of each parameter in one step."""
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    groups = parameter_groups(model, weight_decay=0.0)
    Muon(model, groups, **options).step()
    return {name: parameter.detach() - before[name] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("recipe", ["multimodal_autoencoding", "image_classification_conv"])
def test_muon_orthogonalises_the_matrices_of_attention_and_mlps_only(recipe: str) -> None:
    """The singular values of such an update are about the rate; so are the entries of AdamW's first update."""
    for name, update in stepped(small(recipe), rate=1e-3, muon_rate=0.5).items():
        if ("attention" in name or ".mlp." in name) and update.ndim == 2:
            rate = 0.5 * max(1, update.shape[0] / update.shape[1]) ** 0.5
            values = torch.linalg.svdvals(update) / rate
            assert 0.6 < values.median() <= values.max() < 1.3, name  # a random matrix has small ones, too
        else:
            torch.testing.assert_close(update.abs(), torch.full_like(update, 1e-3), rtol=1e-2, atol=1e-5, msg=name)


def test_muon_is_that_of_torch() -> None:
    """``torch.optim.Muon`` with these settings, up to its rounding to bfloat16."""
    layer = kit.SelfAttentionLayer(16, heads=2)
    other = copy.deepcopy(layer)
    matrices = [parameter for parameter in other.parameters() if parameter.ndim == 2]
    groups = [dict(params=[*layer.parameters()], weight_decay=0.5)]
    ours, theirs = Muon(layer, groups, rate=0.0, muon_rate=0.1), torch.optim.Muon(matrices, lr=0.1, weight_decay=0.5)
    for _ in range(3):
        for parameter, same in zip(layer.parameters(), other.parameters(), strict=True):
            parameter.grad = same.grad = torch.randn_like(parameter)
        ours.step()
        theirs.step()
    for (name, parameter), same in zip(layer.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter, same, atol=0.02, rtol=0.05, msg=name)


def test_a_closure_of_muon_may_zero_all_gradients() -> None:
    """As Lightning's does: with some groups left out, gradients of the others would add up over the steps."""
    layer = kit.SelfAttentionLayer(16, heads=2)
    optimizer = Muon(layer, parameter_groups(layer, weight_decay=0.1), rate=0.1, muon_rate=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        assert all(parameter.grad is None for parameter in layer.parameters())
        loss = layer(torch.ones(1, 3, 16)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure) != optimizer.step(closure)


@pytest.mark.parametrize("part", ["encoder.transformer", "inputs"])
def test_muon_trains_what_is_not_frozen(part: str) -> None:
    model = small("masked_lm")
    model.requires_grad_(False).get_submodule(part).requires_grad_(True)
    optimizer = Muon(model, parameter_groups(model, weight_decay=0.1), rate=1.0, muon_rate=1.0)
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert trained == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


# ---- activation checkpointing


def gradients(model: nn.Module, raw: dict[str, Tensor]) -> dict[str, Tensor]:
    torch.manual_seed(7)  # for dropout
    loss = sum(value.square().mean() for value in model(raw).values())
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recomputing_gives_the_same_gradients_names_and_spec(recipe: str) -> None:
    plain, recomputed = small(recipe, dropout=0.2), small(recipe, dropout=0.2)
    raw = raws(plain, 2)
    checkpoint_layers(recomputed)
    assert kit.spec(recomputed) == kit.spec(plain)
    assert [*recomputed.state_dict()] == [*plain.state_dict()]
    expected = gradients(plain, raw)
    for name, gradient in gradients(recomputed, raw).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-6, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(recomputed.eval()(raw), plain.eval()(raw))


MEMORY = """
    import ctypes, json
    from pathlib import Path
    import torch
    import perceiver_kit as kit
    from perceiver_kit import inputs, outputs, queries
    from perceiver_kit.training import checkpoint_layers

    for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD: freed memory returns to the system
        ctypes.CDLL(None).mallopt(option, 65536)

    def step(recompute, rows):
        encoder = kit.Encoder(64, num_latents=256, latent_dim=96, layers=6, blocks=4, cross_attends=4)
        query = kit.Queries(label=queries.LearnedQuery(1, 96))
        label = kit.Outputs(label=outputs.Classify(10, in_channels=96))
        model = kit.PerceiverIO(kit.Inputs(rows=inputs.Features(64)), encoder, query, kit.Decoder(96, 96), label)
        if recompute:
            checkpoint_layers(model)
        model({"rows": torch.randn(1, rows, 64)})["label"].square().mean().backward()

    def megabytes(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024

    for recompute in (False, True):
        step(recompute, 16)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is in use now
        before = megabytes("VmRSS")
        step(recompute, 16384)
        print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_recomputing_takes_less_memory() -> None:
    """A step that reads 16,384 rows four times, 24 layers."""
    status, out, errors = fresh.run(MEMORY)
    assert status == 0, errors
    plain, recomputed = map(float, out.split())
    assert recomputed < 0.6 * plain  # 20 and 48 MB when measured
