"""perceiver-pytorch's models, converted: the same outputs as the package computes."""

from __future__ import annotations

import pytest
import torch
from perceiver_pytorch import Perceiver, PerceiverIO, PerceiverLM

import perceiver_kit as kit

from ..strategies import assert_close, noisy

LATENTS = dict(num_latents=4, latent_dim=8, latent_heads=2, latent_dim_head=3, cross_dim_head=5)
IMAGES = dict(num_freq_bands=3, max_freq=6.0, input_channels=2, num_classes=3, **LATENTS)


@pytest.mark.parametrize(
    "options",
    [
        dict(depth=3, weight_tie_layers=True, self_per_cross_attn=2),
        dict(depth=2, inverted_cross_attn=(True, False), cross_heads=2),
        dict(depth=1, fourier_encode_data=False, input_axis=1),
        dict(depth=2, final_classifier_head=False, weight_tie_layers=True, inverted_cross_attn=True),
    ],
    ids=str,
)
def test_a_perceiver_computes_the_same(options: dict) -> None:
    theirs = noisy(Perceiver(**(IMAGES | options))).eval()
    ours = kit.from_perceiver_pytorch(theirs)
    data = torch.randn(2, *(5, 4)[: options.get("input_axis", 2)], 2)
    mask = torch.rand(data.shape[:-1]) < 0.7
    wanted = theirs(data, mask=mask)
    found = ours(data, mask=mask)["logits"] if ours.outputs else ours.encode(data, mask=mask).latents
    assert_close(found, wanted, 1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    twin = kit.build(kit.spec(ours)).eval()
    twin.load_state_dict(ours.state_dict())
    assert_close(twin.encode(data, mask=mask).latents, ours.encode(data, mask=mask).latents, 1e-9)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options", [dict(logits_dim=3), dict(decoder_ff=True, inverted_cross_attn=True)], ids=str)
def test_a_perceiver_io_computes_the_same(options: dict, tied: bool) -> None:
    theirs = noisy(PerceiverIO(depth=3, dim=6, queries_dim=7, weight_tie_layers=tied, **LATENTS, **options)).eval()
    queries, data, mask = torch.randn(4, 7), torch.randn(2, 9, 6), torch.rand(2, 9) < 0.7
    ours = kit.from_perceiver_pytorch(theirs, queries=queries)
    assert_close(ours(data, mask=mask)["logits"], theirs(data, mask=mask, queries=queries), 1e-5)
    assert_close(ours.encode(data).latents, theirs(data), 1e-5)


def test_a_language_model_computes_the_same() -> None:
    theirs = noisy(PerceiverLM(num_tokens=11, dim=6, max_seq_len=9, depth=2, **LATENTS)).eval()
    ids = torch.randint(11, (2, 7))
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    ours = kit.from_perceiver_pytorch(theirs)
    assert_close(ours(ids, mask=mask)["text"][mask], theirs(ids, mask=mask)[mask], 1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.nn.Linear(2, 2), "takes a Perceiver, PerceiverIO or PerceiverLM .*, got a Linear"),
        (lambda: Perceiver(depth=2, attn_residual=True, **IMAGES), "attn_residual has no counterpart"),
        (lambda: Perceiver(depth=2, **(IMAGES | dict(max_freq=2.5))), "max_freq must be a whole number, got 2.5"),
        (
            lambda: Perceiver(depth=3, weight_tie_layers=True, inverted_cross_attn=(True, True, False), **IMAGES),
            "inverted_cross_attn differs between layers of equal weights",
        ),
        (lambda: PerceiverIO(depth=1, dim=6, queries_dim=7, **LATENTS), r"needs queries, floats \(o, 7\), got None"),
    ],
)
def test_what_has_no_counterpart_is_refused(make: object, message: str) -> None:
    with pytest.raises(kit.CheckpointError, match=message):
        kit.from_perceiver_pytorch(make())


def test_bad_queries_and_modules_without_layers_are_refused() -> None:
    general = PerceiverIO(depth=1, dim=6, queries_dim=7, **LATENTS)
    for queries, got in (
        ([[1.0] * 7], "a list"),
        (torch.ones(3, 7).long(), r"int64 \(3, 7\)"),
        (torch.ones(0, 7), r"float32 \(0, 7\)"),
    ):
        with pytest.raises(kit.CheckpointError, match=rf"needs queries, floats \(o, 7\), got {got}"):
            kit.from_perceiver_pytorch(general, queries=queries)  # type: ignore[arg-type]
    with pytest.raises(kit.CheckpointError, match="queries are of a PerceiverIO alone; leave them out"):
        kit.from_perceiver_pytorch(Perceiver(depth=1, **IMAGES), queries=torch.ones(3, 7))
    with pytest.raises(kit.CheckpointError, match="depth must be at least 1, got a module without layers"):
        kit.from_perceiver_pytorch(PerceiverIO(depth=0, dim=6, queries_dim=7, **LATENTS), queries=torch.ones(3, 7))
