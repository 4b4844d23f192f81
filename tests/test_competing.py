"""Queries that compete for rows equal slot attention on every path; latent layers may start as the identity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit import attention_backends

pytestmark = pytest.mark.usefixtures("checked")

B, M, N = 2, 5, 33


def slot_attention(attention: kit.Attention, queries: Tensor, rows: Tensor, readable: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and output by the definition of Locatello et al. 2020, in float64; ``readable`` is (b, m, n)."""
    attention = attention.double()
    q, k, v = attention.query(queries.double()), attention.key(rows.double()), attention.value(rows.double())
    weights, read = [], []
    for h in range(attention.heads):
        part = [x.chunk(attention.heads, -1)[h] for x in (q, k, v)]
        scores = torch.einsum("bmc,bnc->bmn", part[0].expand(len(rows), -1, -1), part[1]) * attention.scale
        shares = scores.exp() * readable
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-30)
        weights.append(shares / shares.sum(2, keepdim=True).clamp(min=1e-30))
        read.append(weights[-1] @ part[2])
    return torch.stack(weights, 1), attention.output(torch.cat(read, -1))


MASKS = {
    "none": {},
    "rows": dict(mask=torch.rand(B, N, generator=torch.Generator().manual_seed(0)) < 0.5),
    "pairs": dict(mask=torch.rand(B, M, N, generator=torch.Generator().manual_seed(1)) < 0.4),
    "causal": dict(causal=True),
    "queries": dict(query_mask=torch.tensor([[True] * 5, [True, False, True, False, True]])),
}


@pytest.mark.parametrize("shared", [True, False], ids=["shared queries", ""])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("tile", [None, 2**9], ids=["whole", "tiled"])
@pytest.mark.parametrize("name", MASKS)
def test_it_is_slot_attention(
    name: str, tile: int | None, heads: int, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile:
        monkeypatch.setattr(attention_backends, "COMPETE_MAX_BYTES", tile)
    torch.manual_seed(0)
    attention = kit.Attention(8, 6, heads=heads, qk_channels=8, v_channels=4, compete=True)
    queries, rows = 3 * torch.randn(1 if shared else B, M, 8), 3 * torch.randn(B, N, 6, requires_grad=True)
    options = MASKS[name]
    readable = torch.ones(B, M, N, dtype=torch.bool)
    if "mask" in options:
        readable = readable & (options["mask"] if options["mask"].ndim == 3 else options["mask"][:, None])
    if "causal" in options:
        readable = readable.tril(N - M)
    if "query_mask" in options:
        readable = readable & options["query_mask"][..., None]
    found, weights = attention(queries, rows, **options), attention.weights(queries, rows, **options)
    torch.testing.assert_close(attention.formula(queries, rows, **options), found, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.square().sum(), rows)
    wanted_weights, wanted = slot_attention(attention, queries, rows, readable)
    torch.testing.assert_close(weights.double(), wanted_weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)
    (expected,) = torch.autograd.grad(wanted.square().sum(), rows)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_captured_maps_are_those_that_were_used() -> None:
    encoder = kit.Encoder(6, num_latents=5, latent_dim=8, layers=0, compete=True)
    rows = torch.randn(B, N, 6)
    with kit.capture_attention(encoder) as maps:
        encoder(rows)
    layer = encoder.cross[0]
    weights, _ = slot_attention(
        layer.attention, layer.query_norm(encoder.latents[None]), layer.key_norm(rows), torch.ones(B, M, N)
    )
    torch.testing.assert_close(maps["cross.0"][0].double(), weights, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_competing_latents_read_different_rows() -> None:
    """With diffuse attention all latents read the average row; competing ones differ more."""
    torch.manual_seed(0)
    spread = {}
    for compete in (False, True):
        torch.manual_seed(0)
        layer = kit.CrossAttentionLayer(16, 16, compete=compete)
        queries = torch.randn(1, 8, 16)
        read = layer.attention(0.3 * queries, torch.randn(1, 400, 16))
        spread[compete] = (read.var(1).mean() / read.square().mean()).item()
    assert spread[True] > 1.1 * spread[False], spread


@torch.no_grad()
def test_a_quiet_start_leaves_the_latents_as_they_were_read() -> None:
    rows = torch.randn(2, 20, 6)
    sizes = dict(num_latents=5, latent_dim=16, blocks=2, layers=2, self_heads=2)
    quiet = kit.Encoder(6, **sizes, quiet_start=True)
    torch.testing.assert_close(quiet(rows), quiet.cross[0](quiet.latents[None], rows))
    assert not torch.allclose(kit.Encoder(6, **sizes)(rows), quiet(rows))
