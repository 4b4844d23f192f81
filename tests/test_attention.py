"""Attention equals its formula by every path that the code may take, in results and in gradients."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit import attention as module
from perceiver_kit import attention_backends as backends
from perceiver_kit.attention import Attention, CrossAttentionLayer, SelfAttentionLayer

from . import restated
from .strategies import assert_close, noisy

# What the decision may come out as. "held" is the tiled kernel with all at once, "tiles" with tiles of two rows a side,
# which are computed again for the backward pass.
SIDES = ["both", "queries", "keys"]
PATHS = [(side, kernel) for side in SIDES for kernel in ("fused", "held", "tiles")]
# bfloat16 has eight bits: four or five roundings one after another.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 3e-2}


@pytest.fixture
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[Attention, int], None]:
    """Attention goes this way whatever the sizes, and the way is seen to be gone."""
    side, way = request.param
    seen: list[tuple] = []

    def spy(owner: object, name: str) -> None:
        function = getattr(owner, name)

        def seeing(*tensors: object, **options: object) -> object:
            shapes = [t.shape for t in tensors if isinstance(t, Tensor)]
            seen.append((name, shapes[0][-2], shapes[1][-2], shapes[0][-1], shapes[2][-1]) if shapes else (name,))
            return function(*tensors, **options)

        monkeypatch.setattr(owner, name, seeing)

    forced = "fused" if way == "fused" else "tiled"
    monkeypatch.setattr(module, "plan", lambda *_, heads, **__: backends.Plan(side if heads == 1 else "both", forced))
    if way == "tiles":
        monkeypatch.setattr(backends, "KEYS", 2)
        monkeypatch.setattr(backends, "TILE", 32)
        monkeypatch.setattr(backends, "MAX_SAVED_SCORE_BYTES", -1)
    else:
        monkeypatch.setattr(backends, "TILE", 2**62)
        monkeypatch.setattr(backends, "KEYS", 2**62)
    spy(F, "scaled_dot_product_attention")
    for name in ("_normalised", "_unnormalised", "checkpoint"):
        spy(backends, name)

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
            kernel = "_unnormalised" if way == "tiles" and n > 2 else "_normalised"
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
        masked=draw(st.sampled_from(["not", "some", "a whole sample"])),
        dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])),
    )


def make(c: dict) -> tuple[Attention, Tensor, Tensor, Tensor | None]:
    torch.manual_seed(0)
    widths = dict(qk_channels=c["qk_channels"], v_channels=c["v_channels"])
    attention = noisy(Attention(c["cq"], c["ck"], heads=c["heads"], **widths), 0.5).to(c["dtype"])
    queries = torch.randn(1 if c["shared"] else c["b"], c["m"], c["cq"], dtype=c["dtype"])
    keys = torch.randn(c["b"], c["n"], c["ck"], dtype=c["dtype"])
    mask = None
    if c["masked"] != "not":
        mask = torch.rand(c["b"], c["n"]) < 0.6
        mask[-1] = c["masked"] != "a whole sample"
    return attention, queries, keys, mask


@pytest.mark.parametrize("path", PATHS, indirect=True, ids="-".join)
@given(c=cases())
def test_results_equal_the_formula(path: Callable, c: dict) -> None:
    attention, queries, keys, mask = make(c)
    p = restated.arrays(attention)
    wanted = restated.attention(
        p, "", restated.array(queries), restated.array(keys), restated.boolean(mask), c["heads"]
    )
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found = attention(queries, keys, mask)
            path(attention, keys.shape[1])
        assert found.dtype == c["dtype"]
        assert_close(found.double(), torch.from_numpy(wanted), TOLERANCE[c["dtype"]])
    if c["masked"] == "a whole sample":  # the weighted sum is zero before the output projection
        assert_close(found[-1], attention.output.bias.expand_as(found[-1]), TOLERANCE[c["dtype"]])


@pytest.mark.parametrize("path", PATHS, indirect=True, ids="-".join)
@settings(max_examples=10)
@given(c=cases())
def test_gradients_equal_those_of_the_formula(path: Callable, c: dict) -> None:
    """Along a random direction of each tensor, against the exact derivative of the formula by a complex step."""
    attention, queries, keys, mask = make(c)
    found = attention(queries.requires_grad_(), keys.requires_grad_(), mask)
    weights = torch.randn_like(found)
    (found * weights).sum().backward()
    path(attention, keys.shape[1])
    values = restated.arrays(attention) | {"queries": restated.array(queries), "keys": restated.array(keys)}
    gradients = {name: p.grad for name, p in attention.named_parameters()}
    gradients |= {"queries": queries.grad, "keys": keys.grad}
    scale = max(float(g.abs().max()) for g in gradients.values())
    rng = np.random.default_rng(0)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        direction = rng.standard_normal(values[name].shape)
        moved = values | {name: values[name] + 1e-30j * direction}
        result = restated.attention(moved, "", moved["queries"], moved["keys"], restated.boolean(mask), c["heads"])
        wanted = ((result * restated.array(weights)).sum()).imag / 1e-30
        reached = (restated.array(gradient) * direction).sum()
        assert abs(reached - wanted) <= TOLERANCE[c["dtype"]] * scale * direction.size, name
    # It adds one number to all scores of a query, which cancels; without any gradient distributed training stops.
    assert float(attention.key.bias.grad.abs().max()) <= TOLERANCE[c["dtype"]] * scale


def test_no_kernel_is_asked_for_weights_over_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kernels of torch give zeros for them, some NaN."""
    for name in ("_fused", "_tiled"):
        monkeypatch.setattr(backends, name, lambda q, k, v, allowed, *_: seen.append(allowed) or torch.nan * q)
    mask, seen = torch.tensor([[True, False], [False, False]]), []
    q, k = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 2, 4)
    for kernel in ("fused", "tiled"):
        read = backends.weighted_sum(q, k, k, mask=mask, scale=1.0, kernel=kernel)
        assert not read[1].any()  # whatever the kernel gives
        assert seen.pop()[:, 0, 0].tolist() == [[True, False], [True, True]]


def planned(attention: Attention, m: int, n: int, dtype: torch.dtype, device: str, dropout: float = 0.0) -> tuple:
    """What is decided for this attention, without computing it."""
    return backends.plan(
        m,
        n,
        query_channels=attention.query.in_features,
        key_channels=attention.key.in_features,
        qk_channels=attention.query.out_features,
        v_channels=attention.value.out_features,
        heads=attention.heads,
        dropout=dropout,
        dtype=dtype,
        device=torch.device(device),
    )


@pytest.mark.parametrize(
    ("m", "n", "cq", "ck", "qk", "v", "side"),
    [
        (1, 784, 512, 512, 512, 512, "queries"),  # a classifier's decoder
        (182_528, 2048, 322, 512, 512, 512, "keys"),  # the decoder of optical flow
        (512, 50_176, 1024, 261, 261, 261, "queries"),  # the encoder of an image
        (512, 512, 1024, 1024, 1024, 1024, "both"),  # among latents
    ],
)
def test_the_short_side_is_projected(m: int, n: int, cq: int, ck: int, qk: int, v: int, side: str) -> None:
    with torch.device("meta"):
        attention = Attention(cq, ck, qk_channels=qk, v_channels=v)
        several = Attention(cq, ck, heads=2, qk_channels=512, v_channels=512)
    assert planned(attention, m, n, torch.float32, "cpu").side == side
    assert planned(several, m, n, torch.float32, "cpu").side == "both"
    assert planned(attention, m, n, torch.float32, "cpu", dropout=0.1).side == "both"  # falls on weights: not linear


@pytest.mark.parametrize(
    ("qk", "v", "dtype", "device", "dropout", "kernel"),
    [
        (64, 64, torch.float32, "cpu", 0.0, "fused"),
        (64, 66, torch.float32, "cpu", 0.0, "fused"),  # padding by so little costs less than tiles
        (32, 160, torch.float32, "cpu", 0.0, "tiled"),  # the language model's heads
        (64, 64, torch.float32, "cpu", 0.1, "tiled"),  # the fused kernel would hold all scores
        (64, 64, torch.bfloat16, "cpu", 0.0, "tiled"),
        (64, 64, torch.bfloat16, "cuda", 0.0, "fused"),
        (32, 160, torch.float32, "cuda", 0.1, "fused"),
        (32, 160, torch.float32, "meta", 0.0, "fused"),
    ],
)
def test_the_kernel_is_the_one_that_was_measured_to_be_quickest(
    qk: int, v: int, dtype: torch.dtype, device: str, dropout: float, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = Attention(8, 8, heads=2, qk_channels=2 * qk, v_channels=2 * v)
    assert planned(attention, 5, 7, dtype, device, dropout).kernel == kernel
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)  # in a graph, live sizes decide nothing
    one = Attention(8, 8)
    assert planned(one, 1, 10_000, dtype, device, dropout) == ("both", "fused")


def test_bfloat16_of_an_autocast_decides_as_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    ways = []
    monkeypatch.setattr(
        backends, "_tiled", lambda q, k, v, *_: ways.append((q.dtype, v.dtype)) or v[:, :, : q.shape[-2]]
    )
    attention = Attention(8, 8, heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        attention(torch.randn(1, 3, 8), torch.randn(1, 5, 8))
    assert ways == [(torch.bfloat16, torch.bfloat16)]


@pytest.mark.parametrize(("m", "n", "heads", "dropout"), [(300, 40, 1, 0.1), (40, 300, 1, 0.1), (60, 60, 3, 0.0)])
def test_scores_of_a_long_attention_are_not_held_for_the_backward_pass(
    m: int, n: int, heads: int, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = noisy(Attention(6, 6, heads=heads, qk_channels=3 * heads, v_channels=6 * heads, dropout=dropout))
    queries, keys, held = torch.randn(1, m, 6, requires_grad=True), torch.randn(1, n, 6), []

    def run(limit: int) -> tuple[int, list[Tensor]]:
        held.clear()
        monkeypatch.setattr(backends, "MAX_SAVED_SCORE_BYTES", limit)
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
            result = attention(queries, keys)
        gradients = torch.autograd.grad(result.square().mean(), [queries, *attention.parameters()], allow_unused=True)
        return max(held), [result, *(g for g in gradients if g is not None)]

    monkeypatch.setattr(backends, "TILE", 1024)
    monkeypatch.setattr(backends, "KEYS", 64)
    most, wanted = run(4 * m * n * heads)
    assert most == heads * m * n
    most, found = run(4 * m * n * heads - 1)
    assert most < m * n // 3
    if not dropout:  # which falls elsewhere in tiles
        for ours, theirs in zip(found, wanted, strict=True):
            assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize("tiles", [False, True])
def test_gradients_under_dropout_are_those_of_what_was_drawn(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if tiles:
        for name, value in (("KEYS", 4), ("TILE", 64), ("MAX_SAVED_SCORE_BYTES", -1)):
            monkeypatch.setattr(backends, name, value)
    attention = noisy(Attention(3, 3, dropout=0.4)).double()
    queries, keys = (torch.randn(2, n, 3, dtype=torch.float64, requires_grad=True) for n in (5, 9))

    def drawn(*rows: Tensor) -> Tensor:
        torch.manual_seed(1)
        return attention(*rows)

    assert torch.autograd.gradcheck(drawn, (queries, keys))
    assert not torch.equal(drawn(queries, keys), attention.eval()(queries, keys))


@pytest.mark.parametrize("keys", [9, 4], ids=["whole", "tiles"])
def test_dropout_falls_on_weights_that_sum_to_one(keys: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of values that are all one, the weights that were kept are read: one on average, as far from it as follows."""
    monkeypatch.setattr(backends, "KEYS", keys)
    q, k, samples, p = torch.randn(1, 1, 2, 3), torch.randn(1, 1, 9, 3), 20_000, 0.4
    values = torch.ones(samples, 1, 9, 1)
    options = dict(mask=None, scale=1.0, dropout=p, kernel="tiled")
    read = backends.weighted_sum(q, k.expand(samples, -1, -1, -1), values, **options)[:, 0, :, 0]
    wanted = ((q @ k.mT).softmax(-1).square().sum(-1) * p / (1 - p)).sqrt()[0, 0]
    assert_close(read.std(0), wanted, 0.03)
    assert_close(read.mean(0), torch.ones(2), 5 * float(wanted.max()) / samples**0.5)


def test_widths_default_to_those_of_the_keys() -> None:
    attention = Attention(6, 10)
    assert (attention.query.out_features, attention.value.out_features, attention.output.out_features) == (10, 10, 6)
    attention = Attention(6, 10, qk_channels=8)
    assert (attention.key.out_features, attention.value.out_features) == (8, 8)


def test_dropout_falls_in_training_only_and_keeps_the_mean() -> None:
    attention = noisy(Attention(4, 4, dropout=0.5)).eval()
    queries, keys = torch.randn(1, 3, 4), torch.randn(1, 20, 4)
    whole = attention(queries, keys)
    assert torch.equal(whole, attention(queries, keys))
    attention.train()
    drawn = attention(queries, keys.expand(20_000, -1, -1)).detach()
    assert float(drawn.std(0).min()) > 0.01
    assert_close(drawn.mean(0, keepdim=True), whole, 0.03)


@given(c=cases(), residual=st.booleans(), gelu=st.sampled_from(["exact", "tanh"]), widening=st.integers(1, 3))
def test_cross_attend_equals_the_formula(c: dict, residual: bool, gelu: str, widening: int) -> None:
    c |= dict(dtype=torch.float64)
    _, queries, keys, mask = make(c)
    widths = dict(heads=c["heads"], qk_channels=c["qk_channels"], v_channels=c["v_channels"])
    options = dict(widening=widening, query_residual=residual, gelu=gelu)
    block = noisy(CrossAttentionLayer(c["cq"], c["ck"], **widths, **options)).double()
    assert block.mlp[0].out_features == widening * c["cq"]
    p = restated.arrays(block)
    arguments = (restated.array(queries), restated.array(keys), restated.boolean(mask))
    wanted = restated.cross_attend(p, "", *arguments, heads=c["heads"], residual=residual, gelu=gelu)
    found = block(queries, keys, mask)
    assert_close(found, torch.from_numpy(wanted), 1e-8)
    if mask is not None:
        poisoned = keys.masked_fill(~mask[..., None], float("nan")).requires_grad_()
        result = block(queries, poisoned, mask)
        assert torch.equal(result, found)
        result.sum().backward()
        assert all(p.grad.isfinite().all() for p in block.parameters())
        assert poisoned.grad.isfinite().all()
        assert not poisoned.grad[~mask].any()


@given(heads=st.integers(1, 3), gelu=st.sampled_from(["exact", "tanh"]), b=st.integers(1, 3), m=st.integers(1, 5))
def test_self_attend_equals_the_formula(heads: int, gelu: str, b: int, m: int) -> None:
    block = noisy(SelfAttentionLayer(6, heads=heads, qk_channels=2 * heads, v_channels=3 * heads, gelu=gelu)).double()
    rows = torch.randn(b, m, 6, dtype=torch.float64)
    wanted = restated.self_attend(restated.arrays(block), "", restated.array(rows), heads=heads, gelu=gelu)
    assert_close(block(rows), torch.from_numpy(wanted), 1e-9)


@pytest.mark.parametrize("kind", [SelfAttentionLayer, functools.partial(CrossAttentionLayer, 6)])
def test_what_no_product_made_is_computed_again_for_the_backward_pass(
    kind: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = noisy(kind(6, heads=2, widening=3, residual_dropout=0.3)).double().train()
    rows = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)

    def run(least: int) -> tuple[int, list[Tensor]]:
        held: dict[int, int] = {}
        monkeypatch.setattr(module, "RECOMPUTE_MIN_BYTES", least)
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: held.update({t.data_ptr(): t.numel()}) or t, lambda t: t
        ):
            result = block(*[rows] * (2 if isinstance(block, CrossAttentionLayer) else 1))
        return sum(held.values()), [result, *torch.autograd.grad(result.square().mean(), [rows, *block.parameters()])]

    size = rows.numel() * rows.element_size()
    all_held, wanted = run(size + 1)
    some_held, found = run(size)
    # A normalised row and three times its width after the GELU.
    assert all_held - some_held >= 4 * rows.numel()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, wanted, strict=True))


def test_what_is_computed_again_stands_in_nobodys_way(monkeypatch: pytest.MonkeyPatch) -> None:
    block, rows = noisy(SelfAttentionLayer(6, heads=2)).double(), torch.randn(1, 3, 6, dtype=torch.float64)
    parameters, seen = dict(block.named_parameters()), []

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(block, parameters, (rows,)).square().sum()

    wanted = torch.func.grad(loss)(parameters)
    monkeypatch.setattr(module, "RECOMPUTE_MIN_BYTES", 0)
    found = torch.func.grad(loss)(parameters)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    block.mlp.register_forward_hook(lambda *_: seen.append("hook"))
    block(rows).sum().backward()
    assert seen == ["hook"]
    block.mlp = torch.nn.Linear(6, 6).double()
    assert block(rows).shape == rows.shape


def test_residual_dropout_falls_on_both_layers() -> None:
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
def test_nothing_to_attend_is_refused(m: int, n: int) -> None:
    with pytest.raises(kit.InputError, match=f"{m} queries over {n} rows: neither may be empty"):
        CrossAttentionLayer(4, 4)(torch.zeros(1, m, 4), torch.zeros(1, n, 4))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_gelu_is_refused_with_the_nearest() -> None:
    with pytest.raises(kit.AssemblyError, match=r"gelu is 'tan'; did you mean 'tanh'\? There are: exact, tanh"):
        CrossAttentionLayer(4, 4, gelu="tan")
