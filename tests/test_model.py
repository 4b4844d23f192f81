"""Properties of whole models, for every recipe at tiny size; models/ has them for random assemblies.

Whole outputs, ``at`` and chunks agree; masked rows and outputs that are not asked for change nothing.
"""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import decoders, decoding, inputs, outputs, positions, queries

from .models.holding import holds_for_chunks, holds_for_some, holds_whatever_masked_rows_hold
from .strategies import RECIPES, assert_close, distance, raw, raws, tiny

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


def rows_by_name(model: nn.Module, tensors: dict) -> dict[str, int]:
    layout = model.inputs(tensors)[0].layout
    return {name: math.prod(layout.grid(name)) for name in layout}


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


def points_model(**options) -> kit.PerceiverIO:
    blocks = {
        "inputs": inputs.Inputs(points=inputs.Features(3)),
        "encoder": kit.Encoder(3, num_latents=4, latent_dim=16, layers=1),
        "queries": queries.Queries(label=queries.LearnedQuery(1, 8)),
        "decoder": decoders.Decoder(8, 16),
        "outputs": outputs.Outputs(label=outputs.Classify(8, 10)),
    }
    return kit.PerceiverIO(**blocks | options)


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
            outputs=outputs.Outputs(image=outputs.ToPixels(query.channels, 3)),
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


# ---- wrong assemblies


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(outputs=None), "a decoder needs outputs and outputs need a decoder"),
        (dict(decoder=None), "a decoder needs outputs and outputs need a decoder"),
        (dict(decoder=None, outputs=None), "queries need both"),
        (dict(inputs=inputs.Features(3)), "inputs must be Inputs, got a Features"),
        (dict(encoder=nn.Linear(3, 3)), "encoder must be Block, got a Linear"),
        (dict(encoder=None), "encoder must be Block, got a NoneType"),
        (
            dict(encoder=kit.Encoder(4, num_latents=4, latent_dim=16, layers=1)),
            "inputs.channels is 3, but encoder.channels is 4; they must be equal",
        ),
        (dict(decoder=decoders.Decoder(7, 16)), "queries.channels is 8, but decoder.query_channels is 7"),
        (dict(decoder=decoders.Decoder(8, 15)), "encoder.latent_dim is 16, but decoder.latent_dim is 15"),
        (
            dict(outputs=outputs.Outputs(label=outputs.Classify(9, 2))),
            "decoder.out_channels is 8, but outputs 'label' in_channels is 9",
        ),
        (
            dict(queries=queries.Queries(label=queries.InputQuery("points", channels=8))),
            "rows of input 'points' is 3, but query 'label' is 8",
        ),
        (
            dict(queries=queries.Queries(label=queries.ContentQuery("points", content_channels=8))),
            "content of input 'points' is 3, but query 'label' is 8",
        ),
    ],
)
def test_blocks_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        points_model(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            dict(outputs=outputs.Outputs(labels=outputs.Classify(8, 2))),
            "outputs names 'labels'; did you mean 'label'",
        ),
        (
            dict(queries=queries.Queries(label=queries.LearnedQuery(1, 8), extra=queries.LearnedQuery(1, 8))),
            "queries names 'extra'; There are: label",
        ),
        (
            dict(queries=queries.Queries(label=queries.InputQuery("point", channels=8))),
            "query 'label' follows names 'point'; did you mean 'points'",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.UnknownName, match=message):
        points_model(**options)


# ---- wrong calls


@pytest.fixture(scope="module")
def grid_model() -> kit.PerceiverIO:
    """Points → a 2 × 3 image, the points' own rows, and a label."""
    every = inputs.Inputs(points=inputs.Features(3), track=inputs.Features(2), hide=dict(track=0.0))
    asked = queries.Queries(
        image=queries.PositionQuery(positions.Fourier(bands=2, max_resolution=(4, 4)), size=(2, 3)),
        label=queries.LearnedQuery(1, 4),
        rows=queries.InputQuery("points", channels=3),
        track=queries.InputQuery("track", channels=3),
    )
    answers = outputs.Outputs(
        image=outputs.ToPixels(10, 3), label=outputs.Classify(10, 2), rows=outputs.Rows(10), track=outputs.Rows(10)
    )
    encoder = kit.Encoder(3, num_latents=4, latent_dim=16, layers=1)
    return kit.PerceiverIO(every, encoder, asked, decoders.Decoder(10, 16), answers).eval()


POINTS = {"points": torch.zeros(2, 7, 3)}
WANTED = r"at of 'image' must be int64 \(k,\) or \(2, k\), flat indices into its grid \(2, 3\)"


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(at={"image": torch.tensor([0, 6])}), WANTED + ", 0 to 5; got 0 to 6"),
        (dict(at={"image": torch.tensor([-1, 3])}), WANTED + ", 0 to 5; got -1 to 3"),
        (dict(at={"label": torch.tensor([1])}), r"at of 'label' must be .* grid \(1,\), 0 to 0; got 1 to 1"),
        (dict(at={"image": torch.tensor([0.0])}), WANTED + r"; got float32 \(1,\)"),
        (dict(at={"image": torch.tensor([0]).int()}), WANTED + r"; got int32 \(1,\)"),
        (dict(at={"image": torch.tensor(0)}), WANTED + r"; got int64 \(\)"),
        (dict(at={"image": torch.zeros(3, 2).long()}), WANTED + r"; got int64 \(3, 2\)"),
        (dict(at={"image": torch.zeros(1, 2).long()}), WANTED + r"; got int64 \(1, 2\)"),
        (dict(at={"image": torch.zeros(2, 2, 2).long()}), WANTED + r"; got int64 \(2, 2, 2\)"),
        (dict(at={"image": torch.zeros(0).long()}), WANTED + r"; got int64 \(0,\)"),
        (dict(at={"image": [0]}), WANTED + "; got a list"),
        (dict(at={"imgae": None}), "at names 'imgae'; did you mean 'image'"),
        (dict(at=torch.tensor([0])), r"at must map outputs \(image, label, rows, track\), got int64 \(1,\)"),
        (dict(chunk=0), "chunk must be a positive number of query rows, got 0"),
        (dict(chunk=-3), "chunk must be a positive number of query rows, got -3"),
        (dict(chunk=True), "chunk must be a positive number of query rows, got True"),
        (dict(chunk=2.0), "chunk must be a positive number of query rows, got 2.0"),
        (dict(size={"imgae": (1, 1)}), "size names 'imgae'; did you mean 'image'"),
        (dict(size=(1, 1)), "size must map outputs .* got a tuple"),
        (dict(size={"image": (2, 2, 2)}), r"size of 'image' must be a grid like its own, \(2, 3\), got \(2, 2, 2\)"),
        (dict(size={"image": 4}), r"size of 'image' must be a grid like its own, \(2, 3\), got 4"),
        (dict(size={"image": (0, 3)}), r"size of 'image' must be positive ints, got \(0, 3\)"),
        (dict(size={"image": (2.0, 3.5)}), r"size of 'image' must be positive ints, got \(2.0, 3.5\)"),
        (dict(size={"label": (2,)}, at={"label": None}), r"classes from one row, grid \(1,\), got \(2,\)"),
        (dict(size={"rows": (6,)}), r"its own, \(7,\), got \(6,\); its query reads the rows of input 'points'"),
        (dict(at={"track": None}), "follows the input 'track', which was left out"),
    ],
)
def test_wrong_arguments_of_decode_are_refused(grid_model: kit.PerceiverIO, options: dict, message: str) -> None:
    at = dict.fromkeys(["image", "label", "rows"])
    with pytest.raises((kit.InputError, kit.UnknownName), match=message):
        grid_model(POINTS, **{"at": at} | options)


def test_at_is_refused_for_outputs_that_mix_rows() -> None:
    class Mixing(outputs.Rows):
        mixes_rows = True

    model = points_model(outputs=outputs.Outputs(label=Mixing(8)))
    model(torch.zeros(2, 7, 3))
    with pytest.raises(kit.InputError, match="the rows of output 'label' depend on each other; decode it whole"):
        model(torch.zeros(2, 7, 3), at={"label": torch.tensor([0])})


def test_wrong_arguments_are_refused_before_encoding() -> None:
    model, calls = points_model(), []
    model.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(kit.UnknownName):
        model(torch.zeros(2, 7, 3), at={"lable": None})
    assert not calls


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_input_of_a_recipe_refuses_the_wrong_kind_and_rank(recipe: str, unchecked: None) -> None:
    model = tiny(recipe)
    good = raws(model, 2)
    for name, value in good.items():
        other_kind = value.long() if value.is_floating_point() else value.float()
        wrong = [other_kind, value[0], value[None], value[:0], value.bool(), value.numpy(), [1.0], None]
        for bad in wrong:
            with pytest.raises(kit.InputError, match=f"{name}|batch size"):
                model(good | {name: bad})
    with pytest.raises(kit.UnknownName, match="inputs names 'nothing'; There are: "):
        model(good | {"nothing": value})
    with pytest.raises(kit.InputError, match="inputs is empty; give at least one of "):
        model({})


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_input_of_a_recipe_refuses_masks_that_do_not_fit(recipe: str, unchecked: None) -> None:
    model = tiny(recipe)
    good = raws(model, 2)
    for name, rows in rows_by_name(model, good).items():
        wrong = [torch.ones(2, rows + 1) > 0, torch.ones(3, rows) > 0, torch.ones(rows) > 0, torch.ones(2, rows), 1]
        for bad in wrong:
            with pytest.raises(kit.InputError, match=f"mask of '{name}' must be bool "):
                model.encode(good, mask={name: bad})
    with pytest.raises(kit.UnknownName, match="mask names 'nothing'; There are: "):
        model.encode(good, mask={"nothing": torch.ones(2, 2) > 0})


@recipes
def test_inputs_of_different_batch_sizes_are_refused(recipe: str) -> None:
    model = tiny(recipe)
    good = raws(model, 2)
    if len(good) > 1:
        first = next(iter(good))
        with pytest.raises(kit.InputError, match=f"must share one batch size, got .*'{first}': 1"):
            model(good | {first: good[first][:1]})
    else:
        assert raw(model.inputs.blocks[next(iter(good))], 3).shape[0] == 3


class Centred(outputs.Rows):
    """Rows minus their mean: each depends on all of them."""

    mixes_rows = True

    def forward(self, rows: Tensor) -> Tensor:
        return rows - rows.mean(1, keepdim=True)


@pytest.mark.parametrize("gradients", [True, False])
def test_an_output_that_mixes_rows_sees_all_rows_whatever_the_chunk(gradients: bool) -> None:
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
