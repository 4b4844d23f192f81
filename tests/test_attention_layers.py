"""The cross- and self-attention layers: parity with NumPy, adapters, recomputation, refused arguments."""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import attention_backends as backends
from perceiver_kit.layers import MLP, CrossAttentionLayer, SelfAttentionLayer

from . import restated
from .attention_cases import cases, make, outputs_and_gradients, pairs
from .strategies import assert_close, noisy


class LowRank(nn.Module):
    """A linear layer and a low-rank adapter beside it, as adapter libraries put in a layer's place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(2, base.in_features, dtype=torch.float64))
        self.up = nn.Parameter(torch.randn(base.out_features, 2, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return self.base(rows) + rows @ self.down.mT @ self.up.mT


LAYERS = ["attention.query", "attention.key", "attention.value", "attention.output", "mlp.0", "mlp.2"]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("sizes", [(3, 40), (40, 3), (5, 5)], ids=["few-queries", "few-keys", "square"])
@pytest.mark.parametrize("name", LAYERS)
def test_an_adapter_in_place_of_a_linear_layer_acts_as_its_merged_weight(
    name: str, sizes: tuple[int, int], training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "RECOMPUTE_MIN_BYTES", 0)
    m, n = sizes
    layer = noisy(CrossAttentionLayer(6, 6, widening=2)).double().train(training)
    queries, keys = torch.randn(2, m, 6).double(), torch.randn(2, n, 6).double()
    before = layer(queries, keys)
    adapted, merged = copy.deepcopy(layer), copy.deepcopy(layer)
    adapter = LowRank(adapted.get_submodule(name))
    adapted.set_submodule(name, adapter)
    with torch.no_grad():
        merged.get_submodule(name).weight += adapter.up @ adapter.down
    found = outputs_and_gradients(adapted, adapted, queries, keys)[:3]
    wanted = outputs_and_gradients(merged, merged, queries, keys)[:3]
    for ours, theirs in zip(found, wanted, strict=True):
        assert_close(ours, theirs, 1e-5)
    assert not torch.allclose(found[0], before)
    adapted(queries, keys).sum().backward()
    merged(queries, keys).sum().backward()
    wanted_gradients = {key: value.grad for key, value in merged.named_parameters()}
    for key, value in adapted.named_parameters():
        if not key.startswith(f"{name}.") or key.endswith(("base.weight", "base.bias")):
            wanted_gradient = wanted_gradients[key.replace(".base.", ".")]
            assert ((value.grad - wanted_gradient).abs() <= 1e-5 * max(1, float(wanted_gradient.abs().max()))).all()
    gradient = wanted_gradients[f"{name}.weight"]
    assert_close(adapter.up.grad, gradient @ adapter.down.mT, 1e-5)
    assert_close(adapter.down.grad, adapter.up.mT @ gradient, 1e-5)


@given(c=cases(), residual=st.booleans(), activation=st.sampled_from(["gelu", "gelu_tanh"]), widening=st.integers(1, 3))
def test_cross_attention_layer_equals_numpy(c: dict, residual: bool, activation: str, widening: int) -> None:
    c |= dict(dtype=torch.float64)
    _, queries, keys, masks = make(c)
    widths = dict(heads=c["heads"], qk_channels=c["qk_channels"], v_channels=c["v_channels"])
    options = dict(widening=widening, query_residual=residual, activation=activation)
    block = noisy(CrossAttentionLayer(c["cq"], c["ck"], **widths, **options)).double()
    assert block.mlp[0].out_features == widening * c["cq"]
    p = restated.arrays(block)
    arguments = (restated.array(queries), restated.array(keys), pairs(c, masks))
    wanted = restated.cross_attend(p, "", *arguments, heads=c["heads"], residual=residual, activation=activation)
    found = block(queries, keys, **masks)
    assert_close(found, torch.from_numpy(wanted), 1e-8)
    if masks["mask"] is not None:
        mask = masks["mask"] if masks["mask"].ndim == 2 else masks["mask"].any(1).expand(c["b"], -1)
        poisoned = keys.masked_fill(~mask[..., None], float("nan")).requires_grad_()
        result = block(queries, poisoned, **masks)
        assert torch.equal(result, found)
        result.sum().backward()
        assert all(p.grad.isfinite().all() for p in block.parameters())
        assert poisoned.grad.isfinite().all()
        assert not poisoned.grad[~mask].any()


@given(
    c=cases(),
    heads=st.integers(1, 3),
    activation=st.sampled_from(["gelu", "gelu_tanh"]),
    b=st.integers(1, 3),
    m=st.integers(1, 5),
)
def test_self_attention_layer_equals_numpy(c: dict, heads: int, activation: str, b: int, m: int) -> None:
    masks = make(c | dict(b=b, m=m, n=m, queries_masked=False))[-1]
    allowed = pairs(dict(b=b, m=m, n=m), masks)
    widths = dict(qk_channels=2 * heads, v_channels=3 * heads)
    block = noisy(SelfAttentionLayer(6, heads=heads, activation=activation, **widths)).double()
    rows = torch.randn(b, m, 6, dtype=torch.float64)
    p = restated.arrays(block)
    wanted = restated.self_attend(p, "", restated.array(rows), allowed, heads=heads, activation=activation)
    assert_close(block(rows, masks["mask"], causal=masks["causal"]), torch.from_numpy(wanted), 1e-9)


@pytest.mark.parametrize("kind", [SelfAttentionLayer, functools.partial(CrossAttentionLayer, 6)])
def test_activations_of_the_mlp_are_recomputed(kind: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    block = noisy(kind(6, heads=2, widening=3, residual_dropout=0.3)).double().train()
    rows = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)

    def run(least: int) -> tuple[int, list[Tensor]]:
        saved: dict[int, int] = {}
        monkeypatch.setattr(backends, "RECOMPUTE_MIN_BYTES", least)
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: saved.update({t.data_ptr(): t.numel()}) or t, lambda t: t
        ):
            result = block(*[rows] * (2 if isinstance(block, CrossAttentionLayer) else 1))
        return sum(saved.values()), [result, *torch.autograd.grad(result.square().mean(), [rows, *block.parameters()])]

    size = rows.numel() * rows.element_size()
    all_saved, wanted = run(size + 1)
    some_saved, found = run(size)
    # A normalised row, and three times its width after the GELU.
    assert all_saved - some_saved >= 4 * rows.numel()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


def test_recomputation_allows_func_transforms_hooks_and_other_mlps(monkeypatch: pytest.MonkeyPatch) -> None:
    block, rows = noisy(SelfAttentionLayer(6, heads=2)).double(), torch.randn(1, 3, 6, dtype=torch.float64)
    parameters, seen = dict(block.named_parameters()), []

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(block, parameters, (rows,)).square().sum()

    wanted = torch.func.grad(loss)(parameters)
    monkeypatch.setattr(backends, "RECOMPUTE_MIN_BYTES", 0)
    found = torch.func.grad(loss)(parameters)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    block.mlp.register_forward_hook(lambda *_: seen.append("hook"))
    block(rows).sum().backward()
    assert seen == ["hook"]
    for other in (nn.Linear(6, 6), nn.Sequential(nn.Linear(6, 6)), nn.Sequential(MLP(6), nn.GELU(), nn.Dropout(0.5))):
        block.mlp = other.double()
        assert block(rows).shape == rows.shape


def test_residual_dropout_applies_to_attention_and_mlp() -> None:
    block = SelfAttentionLayer(4, heads=1, residual_dropout=1.0).train()
    rows = torch.randn(2, 3, 4)
    assert torch.equal(block(rows), rows)
    assert not torch.equal(block.eval()(rows), rows)
    read = CrossAttentionLayer(4, 4, residual_dropout=1.0, query_residual=False).train()
    assert not read(rows, rows).any()


@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0)])
def test_empty_attention_is_refused(m: int, n: int) -> None:
    with pytest.raises(kit.InputError, match=f"at least one query and one row, got {m} queries and {n} rows"):
        CrossAttentionLayer(4, 4)(torch.zeros(1, m, 4), torch.zeros(1, n, 4))


def test_an_unknown_activation_is_refused_with_the_nearest() -> None:
    with pytest.raises(kit.AssemblyError, match=r"activation is 'gelu_tan'; did you mean 'gelu_tanh'\?"):
        CrossAttentionLayer(4, 4, activation="gelu_tan")


@torch.no_grad()
@pytest.mark.parametrize(
    ("layer", "widths"), [(SelfAttentionLayer(16, heads=2), (16,)), (CrossAttentionLayer(16, 24), (16, 24))]
)
def test_normed_rows_are_freed_before_the_mlp(layer: nn.Module, widths: tuple[int, ...]) -> None:
    """They would raise the peak of memory, by a fifth for images by convolutions."""
    normed: list[weakref.ref] = []
    for norm in (part for name, part in layer.named_children() if name in ("norm", "query_norm", "key_norm")):
        norm.register_forward_hook(lambda module, inputs, output: normed.append(weakref.ref(output)))
    alive: list[bool] = []
    layer.mlp.register_forward_pre_hook(lambda module, inputs: alive.extend(one() is not None for one in normed))
    layer(*(torch.randn(1, 5, width) for width in widths))
    assert alive and not any(alive)
