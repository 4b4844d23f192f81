"""Assemblies and calls of a model that are refused, each with its message."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import perceiver_kit as kit
from perceiver_kit import decoders, inputs, outputs, positions, queries

from .strategies import RECIPES, points_model, raw, raws, rows_by_name, tiny

recipes = pytest.mark.parametrize("recipe", RECIPES)


# ---- wrong assemblies


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(outputs=None), "decoder and outputs must be given together"),
        (dict(decoder=None), "decoder and outputs must be given together"),
        (dict(decoder=None, outputs=None), "queries only with both"),
        (dict(inputs=inputs.Features(3)), "inputs must be Inputs, got a Features"),
        (dict(encoder=nn.Linear(3, 3)), "encoder must be Block, got a Linear"),
        (dict(encoder=None), "encoder must be Block, got None"),
        (
            dict(encoder=kit.Encoder(4, num_latents=4, latent_dim=16, layers=1)),
            "inputs.channels is 3, but encoder.channels is 4; they must be equal",
        ),
        (dict(decoder=decoders.Decoder(7, 16)), "queries.channels is 8, but decoder.query_channels is 7"),
        (dict(decoder=decoders.Decoder(8, 15)), "encoder.latent_dim is 16, but decoder.latent_dim is 15"),
        (
            dict(outputs=outputs.Outputs(label=outputs.Classify(2, in_channels=9))),
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
            dict(outputs=outputs.Outputs(labels=outputs.Classify(2, in_channels=8))),
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
        image=outputs.ToPixels(3, in_channels=10),
        label=outputs.Classify(2, in_channels=10),
        rows=outputs.Rows(10),
        track=outputs.Rows(10),
    )
    encoder = kit.Encoder(3, num_latents=4, latent_dim=16, layers=1)
    return kit.PerceiverIO(every, encoder, asked, decoders.Decoder(10, 16), answers).eval()


POINTS = {"points": torch.zeros(2, 7, 3)}
WANTED = r"at of 'image' must be int64 \(k,\) or \(2, k\), flat indices into its grid \(2, 3\)"


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
def test_every_input_of_a_recipe_refuses_the_wrong_kind_and_rank(recipe: str) -> None:
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
def test_every_input_of_a_recipe_refuses_masks_that_do_not_fit(recipe: str) -> None:
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
