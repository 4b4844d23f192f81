"""The attention formula on every path that the code may take: outputs and gradients, against NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit import attention_backends as backends
from perceiver_kit import tiled_attention as tiles
from perceiver_kit.attention import Attention

from . import restated
from .attention_cases import PATHS, TOLERANCE, cases, make, outputs_and_gradients, pairs
from .strategies import assert_close, noisy

pytestmark = pytest.mark.usefixtures("checked")


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(heads=3, qk_channels=8), "qk_channels 8 must be divisible by heads 3"),
        (dict(heads=2, qk_channels=4, v_channels=5), "v_channels 5 must be divisible by heads 2"),
        (dict(heads=0), "heads must be an int of at least 1, got 0"),
        (dict(v_channels=True), "v_channels must be an int of at least 1, got True"),
        (dict(dropout=1.5), r"dropout must be a number in \[0, 1\], got 1.5"),
    ],
)
def test_wrong_widths_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        Attention(8, 8, **arguments)
