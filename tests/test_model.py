"""Properties of whole models, for every recipe at tiny size; models/ has them for random assemblies.

Whole outputs, ``at`` and chunks agree; masked rows and outputs that are not asked for change nothing.
"""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit import decoders, decoding, inputs, outputs, positions, queries

from .models.holding import holds_for_chunks, holds_for_some, holds_whatever_masked_rows_hold
from .strategies import RECIPES, assert_close, distance, points_model, raws, rows_by_name, tiny

# These may take different paths through attention, which round differently.
SINGLE = 1e-5
recipes = pytest.mark.parametrize("recipe", RECIPES)


@recipes
@settings(max_examples=3)
@given(data=st.data())
def test_at_and_chunks_equal_the_whole_output(recipe: str, data: st.DataObject) -> None:
    with torch.no_grad():
        holds_for_chunks(tiny(recipe), raws(tiny(recipe), 2), data, SINGLE)
        holds_for_some(tiny(recipe), raws(tiny(recipe), 2), data, SINGLE)


def test_inference_without_chunk_decodes_in_affordable_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("multimodal_autoencoding")
    tensors, calls = raws(model, 2), []
    handle = model.decoder.register_forward_pre_hook(lambda _, arguments: calls.append(arguments[0].shape[1]))
    monkeypatch.setitem(decoding.CHUNK_BYTES, "cpu", 2 * 4 * 1000 * model.queries.channels)
    try:
        with torch.no_grad():
            whole = model(tensors, at={"image": None})
            assert calls == [1000, 1000, 1000, 1000, 96]
            assert_close(model(tensors, at={"image": None}, chunk=3000)["image"], whole["image"], SINGLE)
            assert calls[5:] == [3000, 1096]
    finally:
        handle.remove()


# ---- masks


@recipes
def test_masked_content_never_changes_a_result(recipe: str) -> None:
    model = tiny(recipe)
    tensors = raws(model, 2)
    holds_whatever_masked_rows_hold(model, tensors, [*tensors][:1], whole_sample=True)
    everything = {name: torch.ones(2, n, dtype=torch.bool) for name, n in rows_by_name(model, tensors).items()}
    for name, value in model(tensors, mask=everything).items():
        assert_close(value, model(tensors)[name], SINGLE)


@recipes
def test_a_mask_changes_the_latents(recipe: str) -> None:
    """Otherwise a model that ignores masks would pass the tests above."""
    model = tiny(recipe)
    tensors = raws(model, 1)
    name, rows = max(rows_by_name(model, tensors).items(), key=lambda item: item[1])
    mask = {name: torch.arange(rows)[None] >= rows // 2}
    latents = model.encode(tensors).latents
    assert distance(model.encode(tensors, mask=mask).latents, latents) > 1e-4


@given(seed=st.integers(0, 2**16))
def test_raw_nan_under_a_mask_never_changes_a_result(seed: int) -> None:
    """For input blocks that cut their rows out of the raw values."""
    torch.manual_seed(seed)
    every = inputs.Inputs(
        audio=inputs.AudioPatches(2, positions=positions.Fourier(bands=1, max_resolution=(4,))),
        image=inputs.Patches((2, 2), out_channels=3),
        points=inputs.Features(3),
    )
    encoder = kit.Encoder(every.channels, num_latents=2, latent_dim=8, layers=1)
    tensors = {"audio": torch.randn(2, 8), "image": torch.randn(2, 3, 4, 4), "points": torch.randn(2, 3, 3)}
    mask = {"audio": torch.rand(2, 4) < 0.5, "image": torch.rand(2, 2, 2) < 0.5, "points": torch.rand(2, 3) < 0.5}
    wide = {
        "audio": mask["audio"].repeat_interleave(2, 1),
        "image": mask["image"].repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None],
        "points": mask["points"][..., None],
    }
    wanted = encoder(every(tensors, mask)[0])
    poisoned = {name: value.where(wide[name], float("nan")) for name, value in tensors.items()}
    assert torch.equal(encoder(every(poisoned, mask)[0]), wanted)


# ---- samples and rows


@recipes
def test_samples_of_a_batch_are_independent(recipe: str) -> None:
    model = tiny(recipe)
    tensors = raws(model, 2)
    together = model(tensors)
    for i in range(2):
        for name, value in model({key: value[i : i + 1] for key, value in tensors.items()}).items():
            assert_close(value, together[name][i : i + 1], SINGLE)


def test_a_bare_tensor_is_the_only_modality() -> None:
    model, points = points_model().eval(), torch.randn(2, 7, 3)
    keep = torch.rand(2, 7) < 0.5
    assert torch.equal(model(points)["label"], model({"points": points})["label"])
    assert torch.equal(model(points, mask=keep)["label"], model({"points": points}, mask={"points": keep})["label"])


def test_an_output_that_follows_a_missing_input_is_refused() -> None:
    """Even where mask tokens replace the input: its length is unknown."""
    every = inputs.Inputs(other=inputs.Features(3), points=inputs.Features(3, grid=(7,)), hide=dict(points=0.0))
    query = queries.PositionQuery(positions.Learned((7,), 8), follows="points")
    answers = outputs.Outputs(label=outputs.Rows(8))
    model = points_model(inputs=every, queries=queries.Queries(label=query), outputs=answers)
    both = {"points": torch.randn(2, 5, 3), "other": torch.randn(2, 4, 3)}
    assert model(both)["label"].shape == (2, 5, 8)
    with pytest.raises(kit.InputError, match="follows the input 'points', which was left out"):
        model({"other": both["other"]})


def test_mean_pooling_needs_no_queries() -> None:
    model = points_model(queries=None, decoder=decoders.MeanPool(16, out_channels=8)).eval()
    points = torch.randn(2, 7, 3)
    latents = model.encode(points).latents
    wanted = model.outputs.blocks["label"].project(model.decoder.project(latents.mean(1)))
    assert_close(model(points)["label"], wanted, SINGLE)
    assert model(points, at={"label": torch.tensor([0, 0])})["label"].shape == (2, 2, 10)


def test_a_model_may_only_encode() -> None:
    model = points_model(queries=None, decoder=None, outputs=None)
    encoded = model.encode(torch.randn(2, 7, 3))
    assert encoded.latents.shape == (2, 4, 16)
    for call in (lambda: model(torch.randn(2, 7, 3)), lambda: model.decode(encoded)):
        with pytest.raises(kit.InputError, match="this model has no decoder: use encode"):
            call()


def test_size_overrides_the_grid_of_an_output() -> None:
    def made(size: tuple[int, int]) -> kit.PerceiverIO:
        torch.manual_seed(0)
        query = queries.PositionQuery(positions.Fourier(bands=2, max_resolution=(4, 4)), size=size)
        return points_model(
            queries=queries.Queries(image=query),
            decoder=decoders.Decoder(query.channels, 16),
            outputs=outputs.Outputs(image=outputs.ToPixels(3, in_channels=query.channels)),
        ).eval()

    points, small, large = torch.randn(2, 7, 3), made((2, 3)), made((4, 5))
    assert torch.equal(small(points, size={"image": (4, 5)})["image"], large(points)["image"])
    index = torch.tensor([19, 0])
    found = small(points, size={"image": (4, 5)}, at={"image": index})["image"]
    assert torch.equal(found, large(points, at={"image": index})["image"])


@recipes
def test_copies_and_pickles_give_the_same_results(recipe: str) -> None:
    model = tiny(recipe)
    tensors = raws(model, 1)
    wanted = model(tensors)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for name, value in twin(tensors).items():
            assert torch.equal(value, wanted[name])
        assert kit.spec(twin) == kit.spec(model)


def test_at_on_the_meta_device_has_the_right_shape() -> None:
    """Indices cannot be checked there."""
    with torch.device("meta"):
        model = kit.build("multimodal_autoencoding", preset="tiny")
        tensors = {name: value.to("meta") for name, value in raws(tiny("multimodal_autoencoding"), 2).items()}
        found = model(tensors, at={"image": torch.empty(2, 7, dtype=torch.int64), "label": None})
    assert {name: tuple(value.shape) for name, value in found.items()} == {"image": (2, 7, 3), "label": (2, 4)}


class Centred(outputs.Rows):
    """Rows minus their mean: each depends on all of them."""

    mixes_rows = True

    def forward(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(1, keepdim=True)


@pytest.mark.parametrize("gradients", [True, False])
def test_outputs_that_mix_rows_ignore_chunk(gradients: bool) -> None:
    places = positions.Fourier(bands=2, max_resolution=(9,))
    every, ask = (
        inputs.Inputs(points=inputs.Features(3)),
        queries.Queries(line=queries.PositionQuery(places, size=(9,))),
    )
    answer = outputs.Outputs(line=Centred(ask.channels))
    encoder = kit.Encoder(3, num_latents=2, latent_dim=8, layers=1)
    model = kit.PerceiverIO(every, encoder, ask, kit.Decoder(ask.channels, 8), answer).eval()
    with torch.set_grad_enabled(gradients):
        encoded = model.encode(torch.randn(2, 5, 3))
        whole = model.decode(encoded)["line"]
        assert_close(model.decode(encoded, chunk=4)["line"], whole, SINGLE)
    assert whole.mean(1).abs().max() < 1e-5
