"""The choice of a side and a kernel, and what each kernel must keep to: masks, memory, dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perceiver_kit import attention_backends as backends
from perceiver_kit import tiled_attention as tiles
from perceiver_kit.attention import Attention
from perceiver_kit.masks import Masks

from .strategies import assert_close, noisy


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
    queries, keys = (torch.randn(1, n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 6))

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
