"""Attention equals its formula on every path that the code may take, outputs and gradients."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import attention_backends as backends
from perceiver_kit import tiled_attention as tiles
from perceiver_kit.attention import MLP, Attention, CrossAttentionLayer, SelfAttentionLayer
from perceiver_kit.masks import Masks

from . import restated
from .strategies import assert_close, noisy

# The possible choices. "whole" is the tiled kernel with one tile, "tiles" with tiles of two rows a side, which are
# recomputed in the backward pass.
SIDES = ["both", "queries", "keys"]
PATHS = [(side, kernel) for side in SIDES for kernel in ("fused", "whole", "tiles")]
# bfloat16 has eight bits: four or five roundings one after another.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 3e-2}


@pytest.fixture
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Attention, int], None]:
    """Attention takes this path whatever the sizes; the result checks that it did."""
    side, way = request.param
    seen: list[tuple] = []

    def spy(owner: object, name: str) -> None:
        function = getattr(owner, name)

        def recording(*tensors: object, **options: object) -> object:
            shapes = [t.shape for t in tensors if isinstance(t, Tensor)]
            seen.append((name, shapes[0][-2], shapes[1][-2], shapes[0][-1], shapes[2][-1]) if shapes else (name,))
            return function(*tensors, **options)

        monkeypatch.setattr(owner, name, recording)

    forced = "fused" if way == "fused" else "tiled"
    monkeypatch.setattr(backends, "choose_side", lambda *_, heads, **__: side if heads == 1 else "both")
    monkeypatch.setattr(backends, "choose_kernel", lambda *_, **__: forced)
    if way == "tiles":
        monkeypatch.setattr(tiles, "TILE_KEYS", 2)
        monkeypatch.setattr(tiles, "TILE_BYTES", 32)
        monkeypatch.setattr(tiles, "MAX_SAVED_SCORE_BYTES", -1)
    else:
        monkeypatch.setattr(tiles, "TILE_BYTES", 2**62)
        monkeypatch.setattr(tiles, "TILE_KEYS", 2**62)
    spy(F, "scaled_dot_product_attention")
    for name in ("_one_tile", "_partial_softmax", "checkpoint"):
        spy(tiles, name)

    def check(attention: Attention, n: int) -> None:
        ck, cq = attention.key.in_features, attention.query.in_features
        qk, v = attention.query.out_features // attention.heads, attention.value.out_features // attention.heads
        widths = {"both": (qk, v), "queries": (ck, ck), "keys": (cq + 1, cq)}
        e, f = widths[side if attention.heads == 1 else "both"]
        names = {name for name, *_ in seen}
        if way == "fused":
            assert names == {"scaled_dot_product_attention"}
            wide = e if e == f else 4 * math.ceil(max(e, f) / 4)
            assert {shape[2:] for shape in seen} == {(n, wide, wide)}
        else:
            shapes = [tuple(rest) for name, *rest in seen if name != "checkpoint"]
            assert {shape[2:] for shape in shapes} == {(e, f)}
            assert max(shape[1] for shape in shapes) == (min(n, 2) if way == "tiles" else n)
            kernel = "_partial_softmax" if way == "tiles" and n > 2 else "_one_tile"
            assert names == {kernel, "checkpoint"} if way == "tiles" and torch.is_grad_enabled() else names == {kernel}
        seen.clear()

    return check


@st.composite
def cases(draw: st.DrawFn) -> dict:
    heads = draw(st.sampled_from([1, 1, 2, 3]))
    width = st.integers(1, 4).map(lambda w: w * heads)
    return dict(
        heads=heads,
        cq=draw(st.integers(1, 6)),
        ck=draw(st.integers(1, 6).map(lambda w: w * heads)),
        qk_channels=draw(st.none() | width),
        v_channels=draw(st.none() | width),
        b=draw(st.integers(1, 3)),
        m=draw(st.integers(1, 5)),
        n=draw(st.integers(1, 7)),
        shared=draw(st.booleans()),
        masked=draw(st.sampled_from(["not", "rows", "a whole sample", "shared", "by query"])),
        queries_masked=draw(st.sampled_from([False, False, True])),
        causal=draw(st.booleans()),
        dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])),
    )


def make(c: dict) -> tuple[Attention, Tensor, Tensor, dict]:
    torch.manual_seed(0)
    widths = dict(qk_channels=c["qk_channels"], v_channels=c["v_channels"])
    attention = noisy(Attention(c["cq"], c["ck"], heads=c["heads"], **widths), 0.5).to(c["dtype"])
    queries = torch.randn(1 if c["shared"] else c["b"], c["m"], c["cq"], dtype=c["dtype"])
    keys = torch.randn(c["b"], c["n"], c["ck"], dtype=c["dtype"])
    b, m, n = (c[letter] for letter in "bmn")
    shapes = {"rows": (b, n), "a whole sample": (b, n), "shared": (1, m, n), "by query": (b, m, n)}
    mask = None if c["masked"] == "not" else torch.rand(shapes[c["masked"]]) < 0.6
    if mask is not None:
        mask[-1] &= c["masked"] != "a whole sample"
    query_mask = torch.rand(b, m) < 0.6 if c["queries_masked"] else None
    return attention, queries, keys, dict(mask=mask, query_mask=query_mask, causal=c["causal"])


def pairs(c: dict, masks: dict) -> np.ndarray:
    """Whether each query may read each row, one by one."""
    allowed = np.zeros((c["b"], c["m"], c["n"]), dtype=bool)
    mask, query_mask = (restated.boolean(masks[name]) for name in ("mask", "query_mask"))
    for b, i, j in np.ndindex(allowed.shape):
        entry = True if mask is None else mask[b, j] if mask.ndim == 2 else mask[b % len(mask), i, j]
        past = not masks["causal"] or j - c["n"] <= i - c["m"]
        allowed[b, i, j] = entry and past and (query_mask is None or query_mask[b, i])
    return allowed


@pytest.mark.parametrize("path", PATHS, indirect=True, ids="-".join)
@given(c=cases())
def test_outputs_equal_numpy(path: Callable, c: dict) -> None:
    attention, queries, keys, masks = make(c)
    p, allowed = restated.arrays(attention), pairs(c, masks)
    wanted = restated.attention(p, "", restated.array(queries), restated.array(keys), allowed, c["heads"])
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found = attention(queries, keys, **masks)
            path(attention, keys.shape[1])
        assert found.dtype == c["dtype"]
        assert_close(found.double(), torch.from_numpy(wanted), TOLERANCE[c["dtype"]])
    if c["masked"] == "a whole sample":  # the weighted sum is zero before the output projection
        assert_close(found[-1], attention.output.bias.expand_as(found[-1]), TOLERANCE[c["dtype"]])


@pytest.mark.parametrize("path", PATHS, indirect=True, ids="-".join)
@settings(max_examples=10)
@given(c=cases())
def test_gradients_equal_numpy(path: Callable, c: dict) -> None:
    """Along a random direction of each tensor, against the exact derivative in NumPy by a complex step."""
    attention, queries, keys, masks = make(c)
    found = attention(queries.requires_grad_(), keys.requires_grad_(), **masks)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    path(attention, keys.shape[1])
    values = restated.arrays(attention) | {"queries": restated.array(queries), "keys": restated.array(keys)}
    gradients = {name: p.grad for name, p in attention.named_parameters()}
    gradients |= {"queries": queries.grad, "keys": keys.grad}
    scale = max(float(g.abs().max()) for g in gradients.values())
    rng, allowed = np.random.default_rng(0), pairs(c, masks)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        direction = rng.standard_normal(values[name].shape)
        moved = values | {name: values[name] + 1e-30j * direction}
        result = restated.attention(moved, "", moved["queries"], moved["keys"], allowed, c["heads"])
        wanted = ((result * restated.array(weights)).sum()).imag / 1e-30
        reached = (restated.array(gradient) * direction).sum()
        assert abs(reached - wanted) <= TOLERANCE[c["dtype"]] * scale * direction.size, name
    # The key bias cancels in the softmax, but distributed training needs a gradient for every parameter.
    assert float(attention.key.bias.grad.abs().max()) <= TOLERANCE[c["dtype"]] * scale


def outputs_and_gradients(module: nn.Module, call: Callable, *inputs: Tensor) -> list[Tensor]:
    """The output, then the gradients of a random projection of it: of each input, and of each parameter by name."""
    inputs = tuple(value.detach().clone().requires_grad_() for value in inputs)
    parameters = dict(sorted(module.named_parameters()))
    output = call(*inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype)
    loss = (rearrange(output, "b m c -> (b m c)") * weights).sum()
    return [output, *torch.autograd.grad(loss, [*inputs, *parameters.values()])]


@pytest.mark.parametrize("path", PATHS, indirect=True, ids="-".join)
@settings(max_examples=20)
@given(c=cases(), training=st.booleans())
def test_forward_equals_formula(path: Callable, c: dict, training: bool) -> None:
    c |= dict(dtype=torch.float64)
    attention, queries, keys, masks = make(c)
    attention.train(training)
    found = outputs_and_gradients(attention, lambda *rows: attention(*rows, **masks), queries, keys)
    path(attention, keys.shape[1])
    wanted = outputs_and_gradients(attention, lambda *rows: attention.formula(*rows, **masks), queries, keys)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ((ours - theirs).abs() <= 1e-9 * max(1.0, float(theirs.detach().abs().max()))).all()


@pytest.mark.parametrize("in_tiles", [False, True])
def test_forward_under_dropout_averages_to_formula(in_tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_tiles:
        monkeypatch.setattr(tiles, "TILE_KEYS", 4)
    attention = noisy(Attention(4, 4, heads=2, dropout=0.3)).train()
    queries, keys = torch.randn(1, 3, 4), torch.randn(1, 9, 4).expand(20_000, -1, -1)
    with torch.no_grad():
        found, wanted = attention(queries, keys), attention.formula(queries, keys)
    assert_close(found.mean(0), wanted.mean(0), 0.03)
    assert_close(found.std(0), wanted.std(0), 0.05)


@given(c=cases())
def test_weights_sum_to_one_over_readable_rows(c: dict) -> None:
    c |= dict(dtype=torch.float64)
    attention, queries, keys, masks = make(c)
    weights = attention.weights(queries, keys, **masks)
    assert weights.shape == (c["b"], c["heads"], c["m"], c["n"])
    allowed = rearrange(torch.from_numpy(pairs(c, masks)), "b m n -> b 1 m n")
    assert not weights.masked_select(~allowed).any()
    assert_close(weights.sum(-1), allowed.any(-1).double().expand_as(weights[..., 0]), 1e-9)


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


@pytest.mark.parametrize("name", ["query", "key", "value", "output"])
def test_a_hook_on_a_linear_layer_is_called_with_the_rows(name: str) -> None:
    attention, seen = Attention(6, 8), []
    attention.get_submodule(name).register_forward_hook(lambda _, arguments, output: seen.append(output.shape))
    for m, n in ((2, 50), (50, 2)):
        attention(torch.randn(1, m, 6), torch.randn(1, n, 8))
        assert seen.pop() == (1, m if name in ("query", "output") else n, 6 if name == "output" else 8)


def test_linear_layers_without_bias_are_called() -> None:
    attention = Attention(6, 8)
    for name in ("query", "key", "value", "output"):
        attention.get_submodule(name).bias = None
    for m, n in ((2, 50), (50, 2)):
        queries, keys = torch.randn(1, m, 6), torch.randn(2, n, 8)
        assert_close(attention(queries, keys), attention.formula(queries, keys), 1e-5)


def test_fully_masked_samples_reach_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kernels of torch return zeros for them, some NaN."""
    for name in ("_fused", "tiled"):
        monkeypatch.setattr(backends, name, lambda q, k, v, allowed, *_: seen.append(allowed) or torch.nan * q)
    mask, seen = torch.tensor([[True, False], [False, False]]), []
    q, k = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 2, 4)
    for kernel in ("fused", "tiled"):
        monkeypatch.setattr(backends, "choose_kernel", lambda *_, kernel=kernel, **__: kernel)
        read = backends.weighted_sum(q, k, k, masks=Masks(mask), scale=1.0)
        assert not read[1].any()
        assert seen.pop()[:, 0, 0].tolist() == [[True, False], [True, True]]


def side_of(attention: Attention, m: int, n: int, dropout: float = 0.0) -> str:
    layers = backends.Projections(attention.query, attention.key, attention.value, attention.output)
    return backends.choose_side(layers, m, n, heads=attention.heads, dropout=dropout)


@pytest.mark.parametrize(
    ("m", "n", "cq", "ck", "qk", "v", "side"),
    [
        (1, 784, 512, 512, 512, 512, "queries"),  # a classifier's decoder
        (182_528, 2048, 322, 512, 512, 512, "keys"),  # the decoder of optical flow
        (512, 50_176, 1024, 261, 261, 261, "queries"),  # the encoder of an image
        (512, 512, 1024, 1024, 1024, 1024, "both"),  # among latents
    ],
)
def test_the_short_side_is_projected(
    m: int, n: int, cq: int, ck: int, qk: int, v: int, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.device("meta"):
        attention = Attention(cq, ck, qk_channels=qk, v_channels=v)
        several = Attention(cq, ck, heads=2, qk_channels=512, v_channels=512)
    assert side_of(attention, m, n) == side
    assert side_of(several, m, n) == "both"
    assert side_of(attention, m, n, dropout=0.1) == "both"  # dropout on the weights is not linear
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # in a graph, live sizes decide nothing
    assert side_of(attention, m, n) == "both"


@pytest.mark.parametrize(
    ("e", "f", "dtype", "device", "dropout", "kernel"),
    [
        (64, 64, torch.float32, "cpu", 0.0, "fused"),
        (64, 66, torch.float32, "cpu", 0.0, "fused"),  # so little padding costs less than tiles
        (32, 160, torch.float32, "cpu", 0.0, "tiled"),  # the language model's heads
        (64, 64, torch.float32, "cpu", 0.1, "tiled"),  # the fused kernel would store all scores
        (64, 64, torch.bfloat16, "cpu", 0.0, "tiled"),
        (64, 64, torch.bfloat16, "cuda", 0.0, "fused"),
        (32, 160, torch.float32, "cuda", 0.1, "fused"),
        (32, 160, torch.float32, "meta", 0.0, "fused"),
    ],
)
def test_the_kernel_is_the_one_measured_fastest(
    e: int, f: int, dtype: torch.dtype, device: str, dropout: float, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dict(dtype=dtype, device=torch.device(device), dropout=dropout)
    assert backends.choose_kernel(e, f, **options) == kernel
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert backends.choose_kernel(e, f, **options) == "fused"


def test_autocast_to_bfloat16_chooses_as_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes = []
    monkeypatch.setattr(
        backends, "tiled", lambda q, k, v, *_: dtypes.append((q.dtype, v.dtype)) or v[:, :, : q.shape[-2]]
    )
    attention = Attention(8, 8, heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        attention(torch.randn(1, 3, 8), torch.randn(1, 5, 8))
    assert dtypes == [(torch.bfloat16, torch.bfloat16)]


@pytest.mark.parametrize(("m", "n", "heads", "dropout"), [(300, 40, 1, 0.1), (40, 300, 1, 0.1), (60, 60, 3, 0.0)])
def test_many_scores_are_recomputed_not_saved(
    m: int, n: int, heads: int, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = noisy(Attention(6, 6, heads=heads, qk_channels=3 * heads, v_channels=6 * heads, dropout=dropout))
    queries, keys, saved = torch.randn(1, m, 6, requires_grad=True), torch.randn(1, n, 6), []

    def run(limit: int) -> tuple[int, list[Tensor]]:
        saved.clear()
        monkeypatch.setattr(tiles, "MAX_SAVED_SCORE_BYTES", limit)
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            result = attention(queries, keys)
        gradients = torch.autograd.grad(result.square().mean(), [queries, *attention.parameters()], allow_unused=True)
        return max(saved), [result, *(g for g in gradients if g is not None)]

    monkeypatch.setattr(tiles, "TILE_BYTES", 1024)
    monkeypatch.setattr(tiles, "TILE_KEYS", 64)
    largest, wanted = run(4 * m * n * heads)
    assert largest == heads * m * n
    largest, found = run(4 * m * n * heads - 1)
    assert largest < m * n // 3
    if not dropout:  # tiles draw other elements
        for ours, theirs in zip(found, wanted, strict=True):
            assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize("in_tiles", [False, True])
def test_gradients_under_dropout_use_the_same_draw(in_tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if in_tiles:
        for name, value in (("TILE_KEYS", 4), ("TILE_BYTES", 64), ("MAX_SAVED_SCORE_BYTES", -1)):
            monkeypatch.setattr(tiles, name, value)
    attention = noisy(Attention(3, 3, dropout=0.4)).double()
    queries, keys = (torch.randn(2, n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 9))

    def drawn(*rows: Tensor) -> Tensor:
        torch.manual_seed(1)
        return attention(*rows)

    assert torch.autograd.gradcheck(drawn, (queries, keys))
    assert not torch.equal(drawn(queries, keys), attention.eval()(queries, keys))


@pytest.mark.parametrize("keys", [9, 4], ids=["whole", "tiles"])
def test_dropout_falls_on_weights_that_sum_to_one(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With values of one, the output is the sum of the surviving weights: mean 1, and this standard deviation."""
    monkeypatch.setattr(tiles, "TILE_KEYS", keys)
    q, k, samples, p = torch.randn(1, 1, 2, 3), torch.randn(1, 1, 9, 3), 20_000, 0.4
    values = torch.ones(samples, 1, 9, 1)
    read = backends.weighted_sum(q, k.expand(samples, -1, -1, -1), values, scale=1.0, dropout=p)[:, 0, :, 0]
    wanted = ((q @ k.mT).softmax(-1).square().sum(-1) * p / (1 - p)).sqrt()[0, 0]
    assert_close(read.std(0), wanted, 0.03)
    assert_close(read.mean(0), torch.ones(2), 5 * float(wanted.max()) / samples**0.5)


def test_widths_default_to_the_width_of_the_keys() -> None:
    attention = Attention(6, 10)
    assert (attention.query.out_features, attention.value.out_features, attention.output.out_features) == (10, 10, 6)
    attention = Attention(6, 10, qk_channels=8)
    assert (attention.key.out_features, attention.value.out_features) == (8, 8)


def test_dropout_applies_in_training_only_and_keeps_the_mean() -> None:
    attention = noisy(Attention(4, 4, dropout=0.5)).eval()
    queries, keys = torch.randn(1, 3, 4), torch.randn(1, 20, 4)
    whole = attention(queries, keys)
    assert torch.equal(whole, attention(queries, keys))
    attention.train()
    drawn = attention(queries, keys.expand(20_000, -1, -1)).detach()
    assert float(drawn.std(0).min()) > 0.01
    assert_close(drawn.mean(0, keepdim=True), whole, 0.03)


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
    block = noisy(
        SelfAttentionLayer(6, heads=heads, qk_channels=2 * heads, v_channels=3 * heads, activation=activation)
    ).double()
    rows = torch.randn(b, m, 6, dtype=torch.float64)
    wanted = restated.self_attend(
        restated.arrays(block), "", restated.array(rows), allowed, heads=heads, activation=activation
    )
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(heads=3, qk_channels=8), "qk_channels 8 must be divisible by its 3 heads"),
        (dict(heads=2, qk_channels=4, v_channels=5), "v_channels 5 must be divisible by its 2 heads"),
        (dict(heads=0), "heads must be an int of at least 1, got 0"),
        (dict(v_channels=True), "v_channels must be an int of at least 1, got True"),
        (dict(dropout=1.5), r"dropout must be a number in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_widths_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        Attention(8, 8, **arguments)


@pytest.mark.parametrize(("m", "n"), [(0, 3), (3, 0)])
def test_empty_attention_is_refused(m: int, n: int) -> None:
    with pytest.raises(kit.InputError, match=f"{m} queries over {n} rows: neither may be empty"):
        CrossAttentionLayer(4, 4)(torch.zeros(1, m, 4), torch.zeros(1, n, 4))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_activation_is_refused_with_the_nearest() -> None:
    with pytest.raises(kit.AssemblyError, match=r"activation is 'gelu_tan'; did you mean 'gelu_tanh'\?"):
        CrossAttentionLayer(4, 4, activation="gelu_tan")
