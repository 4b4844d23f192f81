"""Masks of every kind: which are refused, how they combine, and that causal ones need no whole matrix."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import perceiver_kit as kit
from perceiver_kit import Attention, CrossAttentionLayer, Decoder, Encoder, Layout, SelfAttentionLayer, Tokens
from perceiver_kit import tiled_attention as tiles
from perceiver_kit.masks import Masks, combine

from . import restated
from .strategies import assert_close, noisy

B, M, N = 2, 3, 5
CALLS: dict[str, Callable[..., Tensor]] = {
    "formula": lambda **masks: Attention(4, 6).formula(torch.randn(B, M, 4), torch.randn(B, N, 6), **masks),
    "weights": lambda **masks: Attention(4, 6).weights(torch.randn(B, M, 4), torch.randn(B, N, 6), **masks),
    "forward": lambda **masks: Attention(4, 6)(torch.randn(B, M, 4), torch.randn(B, N, 6), **masks),
    "cross": lambda **masks: CrossAttentionLayer(4, 6)(torch.randn(B, M, 4), torch.randn(B, N, 6), **masks),
    "self": lambda **masks: SelfAttentionLayer(4, heads=1)(torch.randn(B, N, 4), **masks),
    "encoder": lambda **masks: Encoder(6, num_latents=M, latent_dim=8, layers=1)(torch.randn(B, N, 6), **masks),
    "decoder": lambda **masks: Decoder(4, 6)(torch.randn(B, M, 4), torch.randn(B, N, 6), **masks),
}


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize("call", sorted(CALLS.keys() - {"decoder"}))
@pytest.mark.parametrize(
    "mask", [ones(N), ones(B, N + 1), ones(1, N), ones(M + 4, N), ones(B + 1, M, N), ones(1, B, M, N), torch.ones(B, N)]
)
def test_masks_that_do_not_fit_are_refused(call: str, mask: Tensor) -> None:
    m = N if call == "self" else M
    expected = rf"mask must be bool \(2, 5\) or \(1, {m}, 5\) or \(2, {m}, 5\), True = may be read; got \w+ \("
    with pytest.raises(kit.InputError, match=expected):
        CALLS[call](mask=mask)


@pytest.mark.parametrize("call", ["formula", "weights", "forward", "cross", "decoder"])
@pytest.mark.parametrize("mask", [ones(M), ones(1, M), ones(B, N), torch.ones(B, M), [[True] * M] * B])
def test_query_masks_that_do_not_fit_are_refused(call: str, mask: object) -> None:
    with pytest.raises(kit.InputError, match=r"query_mask must be bool \(2, 3\), True = may be read; got "):
        CALLS[call](query_mask=mask)


@pytest.mark.parametrize("call", sorted(CALLS.keys() - {"decoder"}))
def test_causal_is_a_bool(call: str) -> None:
    with pytest.raises(kit.InputError, match="causal must be True or False, got an int"):
        CALLS[call](causal=1)


@given(m=st.integers(1, 6), n=st.integers(1, 6), masked=st.booleans())
def test_causal_queries_ignore_later_rows(m: int, n: int, masked: bool) -> None:
    attention = noisy(Attention(4, 6, heads=2)).double()
    queries, keys = torch.randn(2, m, 4).double(), torch.randn(2, n, 6).double()
    mask = torch.rand(2, n) < 0.7 if masked else None
    whole = attention(queries, keys, mask, causal=True)
    for i in range(m):
        count = n - m + i + 1
        if count <= 0:  # there are more queries than rows
            assert_close(whole[:, i], attention.output.bias.expand(2, -1), 1e-9)
        else:
            past = None if mask is None else mask[:, :count]
            assert_close(whole[:, i : i + 1], attention(queries[:, i : i + 1], keys[:, :count], past), 1e-9)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that is computed."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("m", [100, 200], ids=["some", "square"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_causal_attention_never_holds_all_scores(
    dropout: float, m: int, masked: bool, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("TILE_KEYS", 32), ("TILE_BYTES", 2**11), ("MAX_SAVED_SCORE_BYTES", 2**12)):
        monkeypatch.setattr(tiles, name, value)
    n = 200
    attention = Attention(8, 8, heads=2, dropout=dropout).train(training)
    queries, keys = torch.randn(1, m, 8), torch.randn(1, n, 8)
    mask = torch.rand(1, n) < 0.7 if masked else None
    with Largest() as largest, torch.set_grad_enabled(training):
        output = attention(queries, keys, mask, causal=True)
        if training:
            output.sum().backward()
    assert largest.elements < m * n / 8


def test_tiles_that_no_query_reads_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TILE_KEYS", 2), ("TILE_BYTES", 2 * 2 * 4)):
        monkeypatch.setattr(tiles, name, value)
    seen, compute = [], tiles._partial_softmax
    monkeypatch.setattr(tiles, "_partial_softmax", lambda *tile: seen.append(tile[0].shape) or compute(*tile))
    q, k = torch.randn(1, 1, 8, 3), torch.randn(1, 1, 8, 3)
    tiles.tiled(q, k, k, None, 1.0, 0.0, True)
    assert len(seen) == 1 + 2 + 3 + 4
    seen.clear()
    tiles.tiled(q[:, :, :4], k, k, None, 1.0, 0.0, True)
    assert len(seen) == 3 + 4


@given(first=st.sampled_from([None, (B, N), (1, M, N), (B, M, N)]), second=st.sampled_from([None, (B, N)]))
def test_combined_masks_allow_what_both_do(first: tuple | None, second: tuple | None) -> None:
    masks = [None if shape is None else torch.rand(shape) < 0.5 for shape in (first, second)]
    found = Masks(combine(*masks)).pairs(M, N, torch.device("cpu"))
    for b, i, j in itertools.product(range(B), range(M), range(N)):
        entries = [mask[b, j] if mask.ndim == 2 else mask[b % len(mask), i, j] for mask in masks if mask is not None]
        assert all(entries) == (found is None or bool(found.expand(B, M, N)[b, i, j]))


@given(kind=st.sampled_from(["none", "rows", "shared", "by query"]), own=st.booleans(), causal=st.booleans())
def test_the_encoder_takes_masks_beside_those_of_tokens(kind: str, own: bool, causal: bool) -> None:
    encoder = noisy(Encoder(6, num_latents=M, latent_dim=4, layers=1, blocks=2, cross_attends=2, self_heads=2)).double()
    rows = torch.randn(B, N, 6).double()
    shape = {"rows": (B, N), "shared": (1, M, N), "by query": (B, M, N)}.get(kind)
    mask = None if shape is None else torch.rand(shape) < 0.6
    of_tokens = torch.rand(B, N) < 0.6 if own else None
    found = encoder(Tokens(rows, Layout((("a", (N,)),)), of_tokens), mask, causal=causal)
    allowed = torch.ones(B, M, N, dtype=torch.bool) if not causal else ones(1, M, N).tril(N - M).expand(B, -1, -1)
    for other in (mask, of_tokens):
        if other is not None:
            allowed = allowed & (other[:, None] if other.ndim == 2 else other)
    p, keep = restated.arrays(encoder), allowed.numpy()
    latents = p["latents"][None].repeat(B, axis=0)
    past = ones(1, M, M).tril().expand(B, -1, -1).numpy() if causal else None
    for block in range(2):
        latents = restated.cross_attend(p, f"cross.{block}.", latents, restated.array(rows), keep)
        latents = restated.self_attend(p, "transformer.0.", latents, past, heads=2)
    assert_close(found, torch.from_numpy(latents), 1e-8)


@given(residual=st.booleans(), heads=st.sampled_from([1, 2]), shared=st.booleans())
def test_a_masked_query_reads_no_latents(residual: bool, heads: int, shared: bool) -> None:
    """As in the original: it gets the bias of the attention's output, then the MLP."""
    decoder = noisy(Decoder(3, 8, heads=heads, qk_channels=4, v_channels=4, query_residual=residual)).double()
    queries, latents = torch.randn(1 if shared else B, M, 3).double(), torch.randn(B, N, 8).double()
    mask = torch.rand(B, M) < 0.5
    found = decoder(queries, latents, query_mask=mask)
    assert_close(found[mask], decoder(queries, latents)[mask], 1e-9)
    cross = decoder.cross
    alone = cross.attention.output.bias + (queries if residual else 0 * queries)
    alone = alone + cross.mlp(cross.mlp_norm(alone))
    assert_close(found[~mask], alone.expand(B, -1, -1)[~mask], 1e-9) if not mask.all() else None
    assert torch.equal(decoder(queries, latents, query_mask=ones(B, M)), decoder(queries, latents))


def test_causal_layers_export_with_any_length() -> None:
    layer = SelfAttentionLayer(8, heads=2).eval()
    rows, mask = torch.randn(2, 5, 8), torch.rand(2, 5) < 0.7
    length = torch.export.Dim("length", min=2, max=64)
    exported = torch.export.export(
        layer, (rows, mask), {"causal": True}, dynamic_shapes={"rows": {1: length}, "mask": {1: length}, "causal": None}
    ).module()
    for n in (5, 9):
        rows, mask = torch.randn(2, n, 8), torch.rand(2, n) < 0.7
        assert_close(exported(rows, mask, causal=True), layer(rows, mask, causal=True), 1e-5)


def test_query_masks_of_a_model_are_checked_before_its_encoder_runs() -> None:
    model = kit.build("multimodal_autoencoding", preset="tiny", num_frames=1, image_size=16, audio_samples=160)
    model.encoder.register_forward_pre_hook(lambda *_: pytest.fail("the encoder runs"))
    clip = {"image": torch.rand(1, 1, 3, 16, 16), "audio": torch.rand(1, 160)}
    for wrong, at, message in (
        ({"imag": ones(1, 256)}, None, "query_mask names 'imag'; did you mean 'image'"),
        (ones(1, 256), None, r"query_mask must map outputs \(audio, image, label\), got bool \(1, 256\)"),
        ({"image": ones(1, 9)}, None, r"query_mask of 'image' must be bool \(1, 256\) or \(1, 1, 16, 16\), .*got bool"),
        ({"image": torch.ones(1, 256)}, None, r"query_mask of 'image' must be bool .*; got float32 \(1, 256\)"),
        ({"image": ones(1, 256)}, {"audio": None}, "query_mask names 'image', which at leaves out"),
    ):
        with pytest.raises(kit.PerceiverKitError, match=message):
            model(clip, at=at, query_mask=wrong)
    outputs = kit.Outputs(label=kit.outputs.Classify(2, in_channels=4))
    inputs, encoder = kit.Inputs(x=kit.inputs.Features(3)), Encoder(3, num_latents=M, latent_dim=8, layers=1)
    pooling = kit.PerceiverIO(inputs, encoder, None, kit.MeanPool(8, out_channels=4), outputs)
    with pytest.raises(kit.InputError, match="query_mask: the decoder MeanPool takes none; leave it out"):
        pooling(torch.randn(B, N, 3), query_mask={"label": ones(B, 1)})
