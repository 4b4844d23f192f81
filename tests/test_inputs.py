"""Modalities as rows: order, padding, hiding, masks and errors; tests/inputs/ compares each block with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import inputs, positions, registry

from .blocks import input_blocks
from .strategies import NAMES, RAW, RECIPES, axes, raw, tiny

INPUTS = [name for name in kit.list("inputs") if name != "Inputs"]


def test_every_input_block_is_tested() -> None:
    """A new block needs a line in RAW."""
    assert set(INPUTS) <= set(RAW)


@given(drawn=input_blocks(), batch=st.integers(1, 3))
def test_rows_are_content_with_its_positions(drawn: tuple[nn.Module, tuple], batch: int) -> None:
    block, grid = drawn
    value = raw(block, batch, grid)
    tokens = block(value, "raw")
    content = block.embed(value, "raw")
    assert tokens.layout.segments == (("raw", grid),)
    assert content.shape == (batch, *grid, block.content_channels)
    rows = content.flatten(1, -2)
    if block.positions is not None:
        coordinates = block.coordinates(value, "raw")
        places = block.positions(grid) if coordinates is None else block.positions.of(coordinates)
        rows = rows + places if block.combine == "add" else torch.cat([rows, places.expand(batch, -1, -1)], -1)
    assert torch.equal(tokens.rows, rows)
    assert tokens.rows.shape[-1] == block.channels


@given(data=st.data(), batch=st.integers(1, 3), padding=st.integers(0, 2))
def test_modalities_are_padded_and_joined_in_alphabetical_order(data: st.DataObject, batch: int, padding: int) -> None:
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    drawn = {name: data.draw(input_blocks()) for name in names}
    blocks = {name: block for name, (block, _) in drawn.items()}
    every = inputs.Inputs(blocks, min_padding=padding)
    value = {name: raw(block, batch, grid) for name, (block, grid) in drawn.items()}
    tokens, content = every(value)
    assert content == {}
    assert tokens.mask is None
    assert tokens.layout.segments == tuple((name, drawn[name][1]) for name in sorted(names))
    assert every.channels == max(block.channels for block in blocks.values()) + padding
    for name, block in blocks.items():
        rows, width = tokens[name], block.channels
        assert torch.equal(rows[..., :width].double(), block(value[name]).rows.double())
        if width < every.channels:
            vector = every.padding[name].vector.view(-1)
            assert torch.equal(rows[..., width:], vector.expand_as(rows[..., width:]))
        else:
            assert name not in every.padding
    again, kept = every(value, content=names)
    assert torch.equal(again.rows, tokens.rows)
    for name, block in blocks.items():
        assert torch.equal(kept[name], block.embed(value[name], name).flatten(1, -2))


def pair(**options) -> inputs.Inputs:
    """Two modalities, one with a declared grid."""
    return inputs.Inputs(
        image=inputs.Patches((1, 1), grid=(2, 3), positions=positions.Fourier(bands=1, max_resolution=(2, 3))),
        points=inputs.Features(2),
        **options,
    )


VALUE = {"image": torch.ones(2, 3, 2, 3), "points": torch.ones(2, 4, 2)}


def token_of(every: inputs.Inputs, name: str) -> Tensor:
    return every.mask_tokens[name].vector.view(-1)


def test_missing_modalities_become_mask_tokens_on_their_declared_grid() -> None:
    every = pair(hide=dict(image=0.0, points=0.0), min_padding=1)
    tokens, _ = every({"points": VALUE["points"]})
    assert tokens.layout.segments == (("image", (2, 3)), ("points", (4,)))
    assert torch.equal(tokens["image"], token_of(every, "image").expand(2, 6, -1))
    tokens, _ = every({"image": VALUE["image"]})
    assert tokens.layout.segments == (("image", (2, 3)),)  # points have no declared grid, so no rows
    tokens, _ = every({"points": VALUE["points"]}, {"points": torch.ones(2, 4) > 0})
    assert tokens.mask.all()
    assert tokens.mask.shape == (2, 10)


@pytest.mark.parametrize(
    ("hide", "hidden"),
    [(0.0, False), (0.5, False), (1.0, True), ((1.0, 0.0), False), ((0.0, 1.0), True), ((0.5, 1.0), True)],
)
def test_evaluation_hides_all_or_nothing(hide: object, hidden: bool) -> None:
    every = pair(hide=dict(image=hide)).eval()
    tokens, content = every(VALUE, content=["image"])
    is_token = (tokens["image"] == token_of(every, "image")).all(-1)
    assert is_token.all() if hidden else not is_token.any()
    assert content["image"].any() != hidden  # hidden from content queries too
    assert (every(VALUE)[0].rows == tokens.rows).all()


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_training_hides_rows_with_the_probability_given(probability: float) -> None:
    every = pair(hide=dict(points=(probability, 0.0))).train()
    tokens, content = every({"image": torch.ones(1, 3, 2, 3), "points": torch.ones(1, 20_000, 2)}, content=["points"])
    hidden = (tokens["points"] == token_of(every, "points")).all(-1)
    assert abs(hidden.double().mean() - probability) < 0.02
    assert torch.equal(content["points"][..., 0], 1.0 - hidden.float())
    assert not (tokens["image"] == token_of(every, "points")).all(-1).any()


@given(seed=st.integers(0, 2**16))
def test_masked_content_is_zero_but_keeps_its_positions(seed: int) -> None:
    """A masked row can still be a query."""
    torch.manual_seed(seed)
    every, image = pair(min_padding=1), torch.randn(2, 3, 2, 3)
    mask = torch.rand(2, 2, 3) < 0.5
    value = VALUE | {"image": image.masked_fill(~mask[:, None], float("nan"))}
    tokens, content = every(value, {"image": mask}, content=["image"])
    assert torch.equal(tokens.mask, torch.cat([mask.flatten(1), torch.ones(2, 4) > 0], 1))
    wanted, _ = every(VALUE | {"image": image * mask[:, None]})
    assert torch.equal(tokens.rows, wanted.rows)
    assert torch.equal(content["image"], (image * mask[:, None]).flatten(2).mT)


@given(names=st.lists(st.text(min_size=1, max_size=6) | st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
def test_a_modality_may_have_any_name(names: list[str]) -> None:
    every = inputs.Inputs({name: inputs.Features(2) for name in names}, hide=dict.fromkeys(names, 0.0), min_padding=1)
    tokens, _ = every({name: torch.full((1, 2, 2), float(i)) for i, name in enumerate(names)})
    assert [*tokens.layout] == sorted(names)
    for i, name in enumerate(names):
        assert (tokens[name][..., :2] == i).all()
    assert len(every.state_dict()) == 2 * len(names)  # each name has a padding and a mask token
    assert kit.spec(kit.build(kit.spec(every))) == kit.spec(every)


def test_names_that_resemble_escaped_names_do_not_collide() -> None:
    names = ["a.b", "a%2Eb", "a%252Eb", "type", "%type", "%25type", "class", "%class", "a\nb", "a%0Ab"]
    every = inputs.Inputs({name: inputs.Features(i + 1) for i, name in enumerate(names)}, min_padding=1)
    assert len(every.state_dict()) == len(names)
    assert [every.blocks[name].channels for name in names] == [*range(1, len(names) + 1)]


def test_legal_names_are_unchanged_in_the_state_dict() -> None:
    every = inputs.Inputs({"image": inputs.Features(2), "a.b": inputs.Features(2)}, min_padding=1)
    assert sorted(every.state_dict()) == ["padding.a%2Eb.vector", "padding.image.vector"]


BAD = [
    (inputs.Patches((2, 2)), torch.zeros(2, 3, 5, 4), r"raw is \(2, 3, 5, 4\) but patches of \(2, 2\) need height"),
    (inputs.Patches((2, 2)), torch.zeros(2, 3, 4, 5), "need height and width divisible by them; crop or pad"),
    (inputs.Patches((2, 2, 2)), torch.zeros(2, 3, 3, 4, 4), "need frames, height and width divisible by them"),
    (inputs.Patches((2, 2)), torch.zeros(2, 1, 4, 4), r"must be float \(b, 3, h, w\), got float32 \(2, 1, 4, 4\)"),
    (inputs.Patches((2, 2)), torch.zeros(3, 4, 4), r"must be float \(b, 3, h, w\), got float32 \(3, 4, 4\)"),
    (
        inputs.Patches((1, 2, 2)),
        torch.zeros(2, 3, 4, 4),
        r"must be float \(b, t, 3, h, w\), got float32 \(2, 3, 4, 4\)",
    ),
    (inputs.Patches((2, 2)), torch.zeros(2, 3, 4, 4).long(), r"must be float .* got int64 \(2, 3, 4, 4\)"),
    (inputs.Patches((2, 2)), torch.zeros(2, 3, 4, 4).byte(), r"must be float .* got uint8 \(2, 3, 4, 4\)"),
    (inputs.Patches((2, 2)), torch.zeros(0, 3, 4, 4), r"raw has no elements along b: float32 \(0, 3, 4, 4\)"),
    (inputs.Patches((2, 2)), torch.zeros(2, 3, 0, 4), r"raw has no elements along h: float32 \(2, 3, 0, 4\)"),
    (inputs.Patches((2, 2)), np.zeros((2, 3, 4, 4)), "got a ndarray"),
    (inputs.Pixels((1, 1)), torch.zeros(2, 4, 4, 3), r"must be float \(b, 3, h, w\), got float32 \(2, 4, 4, 3\)"),
    (inputs.Conv1x1(4), torch.zeros(2, 4, 4), r"must be float \(b, 3, h, w\), got float32 \(2, 4, 4\)"),
    (inputs.ConvStem(4), torch.zeros(2, 1, 8, 8), r"must be float \(b, 3, h, w\), got float32 \(2, 1, 8, 8\)"),
    (
        inputs.ConvStem(4, axes=3),
        torch.zeros(2, 3, 8, 8),
        r"must be float \(b, t, 3, h, w\), got float32 \(2, 3, 8, 8\)",
    ),
    (inputs.ConvStem(4, padding="huggingface"), torch.zeros(2, 3, 2, 8), "too small for a stem"),
    (inputs.Neighbourhoods(4), torch.zeros(2, 3, 3, 8, 8), r"must be float \(b, 2, 3, h, w\), got float32 \(2, 3, 3"),
    (
        inputs.MovingPatches(2),
        torch.zeros(2, 1, 3, 4, 4),
        r"raw is \(2, 1, 3, 4, 4\), but motion needs at least two frames",
    ),
    (inputs.MovingPatches(2), torch.zeros(2, 2, 3, 4, 5), "but motion needs .* height and width divisible by 2"),
    (inputs.AudioPatches(4), torch.zeros(2, 6), r"raw is \(2, 6\) but patches need .* divisible by 4: crop or pad"),
    (inputs.AudioPatches(4), torch.zeros(2, 1, 8), r"must be float \(b, samples\), got .*; mono, without a channel"),
    (inputs.OneHot(3), torch.zeros(2, 4), r"must be float \(b, 3\), got float32 \(2, 4\); one-hot labels"),
    (inputs.OneHot(3), torch.zeros(2).long(), r"must be float \(b, 3\), got int64 \(2,\); one-hot labels"),
    (inputs.Features(3), torch.zeros(2, 0, 3), r"raw has no elements along n: float32 \(2, 0, 3\)"),
    (inputs.Features(3), torch.zeros(2, 4, 5, 3), r"must be float \(b, n, 3\), got float32 \(2, 4, 5, 3\)"),
    (inputs.Features(3, axes=2), torch.zeros(2, 4, 3), r"must be float \(b, n1, n2, 3\), got float32 \(2, 4, 3\)"),
    (inputs.TextTokens(11, 4), torch.zeros(2, 3), r"must be int64 \(b, n\), got float32 \(2, 3\); token ids"),
    (inputs.TextTokens(11, 4), torch.zeros(2, 3).int(), r"must be int64 \(b, n\), got int32 \(2, 3\)"),
    (inputs.TextTokens(11, 4), torch.tensor([[0, 11]]), "raw must be ids from 0 to 10, got 0 to 11"),
    (inputs.TextTokens(11, 4), torch.tensor([[-1, 3]]), "raw must be ids from 0 to 10, got -1 to 3"),
    (inputs.TextTokens(11, 4), torch.zeros(2, 0).long(), r"raw has no elements along n: int64 \(2, 0\)"),
    (
        inputs.PastTokens(11, 4, ngrams=(2,), buckets=8),
        torch.tensor([[0, 11]]),
        "raw must be ids from 0 to 10, got 0 to 11",
    ),
    (inputs.Embedded(inputs.Features(3), 4), torch.zeros(2, 4), r"must be float \(b, n, 3\), got float32 \(2, 4\)"),
    (inputs.LogMel(16, bands=3, window=4, hop=4), torch.zeros(2, 3), r"raw is \(2, 3\) but a row needs 4 samples"),
    (inputs.Matches(4), torch.zeros(2, 3, 3, 8, 8), r"must be float \(b, 2, 3, h, w\), got float32 \(2, 3, 3"),
    (inputs.Points(2, channels=1), torch.zeros(2, 5, 2), r"must be float \(b, n, 3\), .*; 2 coordinates, then 1 feat"),
    (inputs.Table(1, categories=(3,), channels=4), torch.tensor([[0.5, 3.0]]), "column 1 must be .* 0 to 2, or NaN"),
]


@pytest.mark.parametrize(("block", "value", "message"), BAD)
def test_bad_raw_tensors_are_refused(block: nn.Module, value: object, message: str) -> None:
    for call in (lambda: block(value, "raw"), lambda: inputs.Inputs(raw=block)({"raw": value})):
        with pytest.raises(kit.InputError, match=f"{message}|raw must be a tensor with a batch axis, {message}"):
            call()


def test_every_input_block_refuses_a_bad_tensor() -> None:
    assert {type(block).__name__ for block, _, _ in BAD} == set(INPUTS)


@pytest.mark.parametrize(
    ("value", "mask", "message"),
    [
        ({"image": VALUE["image"]}, None, r"inputs lacks 'points', .* \(may be left out: none\)"),
        ({}, None, "inputs is empty; give at least one of image, points"),
        (VALUE | {"point": 1}, None, "inputs names 'point'; did you mean 'points'"),
        (VALUE | {"points": torch.ones(3, 4, 2)}, None, r"share one batch size, got \{'image': 2, 'points': 3\}"),
        (VALUE | {"points": torch.ones(1, 4, 2)}, None, r"share one batch size, got \{'image': 2, 'points': 1\}"),
        (VALUE | {"points": None}, None, "points must be a tensor with a batch axis, got None"),
        (VALUE | {"points": torch.tensor(0.0)}, None, r"points must be a tensor with a batch axis, got float32 \(\)"),
        (VALUE["image"], None, r"inputs must be a mapping with image, points, got float32 \(2, 3, 2, 3\)"),
        ([VALUE["image"]], None, "inputs must be a mapping with image, points, got a list"),
        (VALUE, torch.ones(2, 6) > 0, r"mask must be a mapping with image, points, got bool \(2, 6\)"),
        (VALUE, {"imgae": torch.ones(2, 6) > 0}, "mask names 'imgae'; did you mean 'image'"),
        (
            VALUE,
            {"image": torch.ones(2, 6)},
            r"mask of 'image' must be bool \(2, 6\) or \(2, 2, 3\).*got float32",
        ),
        (VALUE, {"image": torch.ones(2, 3, 2) > 0}, r"must be bool \(2, 6\) or \(2, 2, 3\).* got bool \(2, 3, 2\)"),
        (VALUE, {"image": torch.ones(6) > 0}, r"must be bool \(2, 6\) or \(2, 2, 3\).* got bool \(6,\)"),
        (VALUE, {"points": torch.ones(1, 4) > 0}, r"mask of 'points' must be bool \(2, 4\), .* got bool \(1, 4\)"),
        (VALUE, {"points": None}, r"mask of 'points' must be bool \(2, 4\), .* got None"),
    ],
)
def test_wrong_calls_are_refused(value: object, mask: object, message: str) -> None:
    with pytest.raises((kit.InputError, kit.UnknownName), match=message):
        pair()(value, mask)


@pytest.mark.parametrize(
    ("hidden", "got"),
    [
        (torch.ones(2, 5) > 0, r"bool \(2, 5\)"),
        (torch.ones(3) > 0, r"bool \(3,\)"),
        (torch.ones(2, 4), r"float32 \(2, 4\)"),
        ([True, False], "a list"),
    ],
)
def test_bad_hidden_masks_are_refused(hidden: object, got: str) -> None:
    every = pair(hide=dict(points=0.5))
    with pytest.raises(kit.InputError, match=rf"hidden of 'points' must be bool \(2,\) or \(2, 4\), got {got}"):
        every(VALUE, hidden={"points": hidden})
    with pytest.raises(kit.UnknownName, match="hidden names 'image'; There are: points"):
        every(VALUE, hidden={"image": torch.ones(2) > 0})


def test_unknown_modalities_are_refused_with_the_nearest() -> None:
    with pytest.raises(kit.UnknownName, match="no modality 'imgae'; did you mean 'image'"):
        pair().blocks["imgae"]


def test_masks_of_missing_modalities_are_refused() -> None:
    with pytest.raises(kit.InputError, match="mask names 'image', but inputs has no 'image'"):
        pair(hide=dict(image=0.0))({"points": VALUE["points"]}, {"image": torch.ones(2, 6) > 0})


FOURIER = positions.Fourier(bands=1, max_resolution=(4,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: inputs.Inputs(),
            r"Inputs: expected at least one modality, got none; one named like an argument",
        ),
        (lambda: inputs.Inputs([inputs.OneHot(2)]), r"give blocks by name, such as Inputs\(image=…\), got a list"),
        (lambda: inputs.Inputs({"a": inputs.OneHot(2)}, a=inputs.OneHot(2)), r"needs one block, got \['a', 'a'\]"),
        (lambda: inputs.Inputs({"": inputs.OneHot(2)}), "a modality's name must be a non-empty str, got ''"),
        (lambda: inputs.Inputs({"x\ud800": inputs.Features(3)}), "must be text that UTF-8 can write"),
        (lambda: inputs.Inputs({3: inputs.OneHot(2)}), "a modality's name must be a non-empty str, got 3"),
        (lambda: inputs.Inputs(a=FOURIER), r"'a' must be a block for inputs \(Input\), got Fourier"),
        (lambda: inputs.Inputs(a=inputs.OneHot(2), min_padding=-1), "min_padding must be an int of at least 0, got -1"),
        (lambda: pair(hide=dict(imgae=0.5)), "Inputs: hide names 'imgae'; did you mean 'image'"),
        (lambda: pair(hide=dict(image=1.5)), r"Inputs: hide: image must be a number in \[0, 1\], got 1.5"),
        (lambda: pair(hide=dict(image="all")), r"Inputs: hide: image must be a number in \[0, 1\], got 'all'"),
        (lambda: pair(hide=dict(image=(0.5, 0.5))), "image in evaluation is all or nothing, 0.0 or 1.0, got 0.5"),
        (lambda: pair(hide=True), "hide must map modalities to probabilities, got a bool"),
        (lambda: inputs.Features(0), "Features: channels must be an int of at least 1, got 0"),
        (lambda: inputs.Features(2, grid=(2, 2)), r"grid must have 1 axes, got \(2, 2\)"),
        (lambda: inputs.Features(2, positions=3), "positions must be a block of positions, got an int"),
        (lambda: inputs.Features(2, combine="sum"), "combine is 'sum'; There are: add, concat"),
        (
            lambda: inputs.Features(2, positions=FOURIER, combine="add"),
            r"positions of 3 channels cannot be added to content of 2; use Projected\(positions, 2\)",
        ),
        (
            lambda: inputs.Features(2, positions=positions.Learned((4,), 1), combine="add"),
            "positions of 1 channels cannot be added to content of 2",
        ),
        (lambda: inputs.Patches((4,)), r"size must be \(height, width\) or \(frames, height, width\), got \(4,\)"),
        (lambda: inputs.Patches(4), "size must be a tuple of positive ints, one per axis, got 4"),
        (lambda: inputs.Patches((2, 2), out_channels=0), "out_channels must be an int of at least 1, got 0"),
        (lambda: inputs.ConvStem(4, axes=1), r"axes must be 2 \(images\) or 3 \(video\), got 1"),
        (lambda: inputs.ConvStem(4, padding="hugging"), "padding is 'hugging'; did you mean 'huggingface'"),
        (lambda: inputs.AudioPatches(0), "samples_per_patch must be an int of at least 1, got 0"),
        (lambda: inputs.Neighbourhoods(4, size=2), "size must be odd, so that a pixel is in the centre, got 2"),
    ],
)
def test_wrong_arguments_are_refused(make, message: str) -> None:
    with pytest.raises((kit.AssemblyError, kit.UnknownName), match=message):
        make()


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_use_registered_input_blocks_with_grids_of_their_axes(recipe: str) -> None:
    blocks = tiny(recipe).inputs.blocks
    for name in blocks:
        assert registry.name_of(type(blocks[name])).startswith("inputs.")
        assert blocks[name].grid is None or len(blocks[name].grid) == axes(blocks[name])
