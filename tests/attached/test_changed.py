"""Hooks, pruning, quantisation and patched classes act on every recipe."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils import prune

from perceiver_kit import attention_backends
from perceiver_kit.inputs import Conv1x1, Neighbourhoods, TextTokens
from perceiver_kit.outputs import TiedText
from perceiver_kit.plain import is_plain, match_dtype
from perceiver_kit.positions import Learned, Projected

from ..strategies import RECIPES, assert_close, raws, tiny

LAYERS = (nn.Linear, nn.Conv2d)


def changed(recipe: str, change: Callable[[nn.Module], object]) -> nn.Module:
    """A copy of a tiny recipe with a change of every linear layer and convolution."""
    model = copy.deepcopy(tiny(recipe))
    for layer in [layer for layer in model.modules() if isinstance(layer, LAYERS)]:
        change(layer)
    return model


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_hook_fires_once_a_call(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each query in the decoder, for each block in the latent transformer, which shares its weights, and for
    each stage that shares the layer, such as positions of inputs and queries."""
    monkeypatch.setattr(attention_backends, "RECOMPUTE_MIN_BYTES", 0)
    fired: Counter[nn.Module] = Counter()
    model = changed(recipe, lambda layer: layer.register_forward_hook(lambda module, *_: fired.update([module])))
    repeats = {"encoder.transformer": getattr(model.encoder, "blocks", 1), "decoder": len(model.queries.blocks)}
    chunk = None if getattr(model.decoder, "mixes_rows", False) else 2**20
    places = Counter(layer for _, layer in model.named_modules(remove_duplicate=False))
    wanted = {
        layer: next((n for part, n in repeats.items() if name.startswith(part)), places[layer])
        for name, layer in model.named_modules()
        if isinstance(layer, LAYERS)
    }
    with torch.no_grad():
        model(raws(model, 1), chunk=chunk)
    assert fired == wanted
    output = model.requires_grad_().train()(raws(model, 1), chunk=chunk)
    sum(value.square().mean() for value in output.values()).backward()
    assert fired == {layer: 2 * n for layer, n in wanted.items()}, "recomputation calls no hooked layer again"


@pytest.mark.parametrize("recipe", RECIPES)
def test_pruned_weights_are_never_stale(recipe: str) -> None:
    model = changed(recipe, lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3)).train()
    model.requires_grad_()
    tensors = raws(model, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        loss = sum(value.square().mean() for value in model(tensors).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model(tensors)
    for layer in model.modules():
        if isinstance(layer, LAYERS):
            assert torch.equal(layer.weight, layer.weight_orig * layer.weight_mask)


@pytest.mark.parametrize("recipe", RECIPES)
@torch.no_grad()
def test_dynamic_quantisation_rounds_and_no_more(recipe: str) -> None:
    model = tiny(recipe)
    tensors = raws(model, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the successor of quantize_dynamic
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    for name, value in quantised(tensors).items():
        wanted = model(tensors)[name]
        assert not torch.equal(value, wanted)
        assert float((value - wanted).norm() / wanted.norm()) < 0.1


def test_text_is_tied_to_what_the_embedding_gives() -> None:
    text = TextTokens(5, 4)
    output, rows = TiedText(text), torch.randn(2, 3, 4)
    wanted = 2 * output(rows)
    text.embedding.register_forward_hook(lambda module, ids, table: 2 * table)
    assert_close(output(rows), wanted, 1e-6)


@pytest.mark.parametrize(
    ("block", "layer", "rows"),
    [
        (Conv1x1(5), "conv", torch.randn(2, 3, 4, 6)),
        (Conv1x1(5, stride=(1, 2, 1)), "conv", torch.randn(2, 3, 3, 4, 6)),
        (Neighbourhoods(5), "project", torch.randn(2, 2, 3, 4, 6)),
    ],
    ids=["image", "video", "neighbourhoods"],
)
def test_a_layer_that_is_called_gives_the_rows_of_one_that_is_read(block: nn.Module, layer: str, rows: Tensor) -> None:
    wanted, seen = block(rows).rows, []
    handle = block.get_submodule(layer).register_forward_hook(lambda *_: seen.append(layer))
    assert_close(block(rows).rows, wanted, 1e-5)
    assert seen == [layer]
    handle.remove()
    block(rows)
    assert seen == [layer]


def test_a_convolution_of_another_size_is_called() -> None:
    block, frames = Conv1x1(5), torch.randn(2, 3, 4, 6)
    for other in (nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 1, padding=1), nn.Conv2d(3, 5, 1, stride=2)):
        block.conv = other
        assert_close(block.embed(frames, "image"), rearrange(other(frames), "b c h w -> b h w c"), 1e-6)


def test_a_class_that_is_patched_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(3, 3)
    assert is_plain(layer)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, rows: rows)
    assert not is_plain(layer)


def test_rows_take_the_type_of_the_first_floating_point_weight() -> None:
    rows = torch.randn(2, 3)
    assert match_dtype(rows, nn.Linear(3, 3).bfloat16()).dtype == torch.bfloat16
    assert match_dtype(rows.double(), nn.Sequential(nn.GELU(), nn.Linear(3, 3))).dtype == torch.float32
    assert match_dtype(rows, nn.Identity()) is rows
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(layer.weight.to(torch.float8_e4m3fn))  # such layers cast their input themselves
    assert match_dtype(rows.double(), layer).dtype == torch.float32
    for name in ("weight", "bias"):  # as nn.DataParallel does in its replicas
        value = getattr(layer, name).detach().half()
        delattr(layer, name)
        setattr(layer, name, value)
    assert match_dtype(rows, layer).dtype == torch.float16


def test_projected_positions_accept_a_layer_without_weights() -> None:
    positions = Projected(Learned((4,), 3), 2)
    positions.project = nn.Identity()
    assert positions((4,)).shape == (4, 3)
