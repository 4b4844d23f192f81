"""``kit.assemble``, blocks without widths, and blocks that are replaced."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import nn

import perceiver_kit as kit
from perceiver_kit import inputs, outputs, positions, queries
from perceiver_kit.block import completed, with_arguments
from perceiver_kit.inputs import Features, Patches
from perceiver_kit.outputs import Classify, Project
from perceiver_kit.positions import Fourier

from .assemblies import Assembly, assemblies
from .strategies import RECIPES, raws, tiny

SIZES: dict[str, Any] = dict(num_latents=4, latent_dim=16, layers=1, self_heads=2)


def bare(block: kit.Block, keep: tuple[str, ...] = ()) -> Any:
    """The same block without the widths that its neighbours tell."""
    return with_arguments(
        block, **block.arguments() | {name: None for name in block.fills if name in block.recorded and name not in keep}
    )


def check_equal(found: Any, wanted: Any) -> None:
    assert kit.spec(found)["model"] == kit.spec(wanted)["model"]
    assert found.labels == wanted.labels


def assembled(model: Any) -> Any:
    """A model made again by ``assemble``, its blocks without widths."""
    pooled = model.decoder.query_channels == 0

    def asked(name: str) -> Any:
        block = model.queries.blocks[name]
        # The width of a learned query is free; that of the latents is only its default.
        return block if isinstance(block, queries.LearnedQuery) else bare(block)

    made: dict[int, Any] = {}

    def one(block: kit.Block) -> Any:
        return made.setdefault(id(block), block if isinstance(block, outputs.TiedText) else bare(block))

    answers = {name: one(model.outputs.blocks[name]) for name in model.outputs.blocks}
    asks = {}
    if not pooled:
        shared: dict[int, Any] = {}
        asks = {name: shared.setdefault(id(model.queries.blocks[name]), asked(name)) for name in model.queries.blocks}
    return kit.assemble(
        model.inputs,
        kit.Outputs(answers, of=model.outputs.of),
        queries=kit.Queries(asks, min_padding=model.queries.min_padding) if asks else None,
        encoder=bare(model.encoder),
        decoder=bare(model.decoder, keep=("out_channels",)),
        labels=model.labels,
    )


@settings(max_examples=6)
@given(assemblies().filter(lambda case: type(case.model) is kit.PerceiverIO))
def test_drawn_models_are_assembled_without_their_widths(case: Assembly) -> None:
    found = assembled(copy.deepcopy(case.model))
    check_equal(found, case.model)
    found.double().eval().load_state_dict(case.model.state_dict())
    with torch.no_grad():
        mine, theirs = found(case.raw), case.model(case.raw)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_assembled_without_their_widths(recipe: str) -> None:
    model: Any = copy.deepcopy(tiny(recipe))
    found = assembled(model)
    if type(model) is kit.PerceiverIO:
        check_equal(found, model)
    found.load_state_dict(model.state_dict())
    inputs = raws(model, 1)
    with torch.no_grad():
        mine, theirs = found.eval()(inputs), tiny(recipe)(inputs)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def example(**options: Any) -> Any:
    return kit.assemble(
        dict(depth=Patches((4, 4), channels=1, positions=positions.Fourier(bands=3)), points=Features(3)),
        dict(room=Classify(5), track=Project(3, size=(7,)), points=Project(2), depth=Project(16)),
        **(SIZES | options),
    )


def test_queries_are_chosen_by_the_form_of_the_output() -> None:
    model = example(labels={"room": ("a", "b", "c", "d", "e")})
    chosen = {name: (type(block).__name__, block.size, block.follows) for name, block in blocks(model).items()}
    assert chosen == {
        "room": ("LearnedQuery", (1,), None),
        "track": ("PositionQuery", (7,), None),
        "points": ("InputQuery", None, "points"),
        "depth": ("PositionQuery", None, "depth"),
    }
    assert blocks(model)["depth"].positions.max_resolution == (6, 6)  # 2 · bands for each axis
    out = model({"depth": torch.rand(2, 1, 8, 12), "points": torch.rand(2, 9, 3)})
    shapes = {name: tuple(value.shape) for name, value in out.items()}
    assert shapes == {"room": (2, 5), "track": (2, 7, 3), "points": (2, 9, 2), "depth": (2, 6, 16)}
    rebuilt: Any = kit.build(kit.spec(model))
    check_equal(rebuilt, model)
    assert kit.spec(rebuilt) == kit.spec(model)
    assert model.labels == {"room": ("a", "b", "c", "d", "e")}


def blocks(model: Any) -> dict[str, Any]:
    return {name: model.queries.blocks[name] for name in model.queries.blocks}


def test_a_given_query_is_taken_and_a_declared_grid_is_the_resolution() -> None:
    model = example(queries=dict(track=queries.LearnedQuery(7)))
    assert isinstance(blocks(model)["track"], queries.LearnedQuery)
    assert model.queries.channels == max(16, model.inputs.channels)  # at least the latents' width
    patches = Patches((2, 2), grid=(3, 5), positions=positions.Fourier(bands=2))
    assert patches.positions.max_resolution == (3, 5)  # type: ignore[union-attr]
    text = inputs.TextTokens(9, 8, positions=positions.Learned((6,)))
    model = kit.assemble(dict(text=text), dict(words=outputs.TiedText(text)), **SIZES)
    assert blocks(model)["words"].follows == "text"
    assert blocks(model)["words"].positions is not text.positions
    assert model.decoder.out_channels == 8


def test_a_decoder_that_pools_needs_no_queries() -> None:
    model = kit.assemble(dict(x=Features(3)), dict(y=Classify(4)), decoder=kit.MeanPool(), **SIZES)
    assert model({"x": torch.rand(2, 5, 3)})["y"].shape == (2, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(num_latent=3), "Encoder: .*did you mean 'num_latents'"),
        (dict(encoder=kit.Encoder(**SIZES)), "expected an encoder or its sizes, got both"),
        (dict(encoder=nn.Linear(3, 3)), "encoder must be a block, such as Encoder"),
        (dict(decoder=kit.MeanPool(), queries=dict(room=queries.LearnedQuery(1))), "MeanPool reads no queries"),
        (dict(queries=dict(rom=queries.LearnedQuery(1))), "assemble: queries names 'rom'; did you mean 'room'"),
        (
            dict(queries=dict(track=queries.LearnedQuery(8))),
            r"output 'track' has size \(7,\), but its query has size \(8,\)",
        ),
        (dict(queries=dict(track=queries.InputQuery("point"))), "did you mean 'points'"),
        (dict(decoder=kit.Decoder(latent_dim=8)), "encoder.latent_dim is 16, but decoder.latent_dim is 8"),
    ],
)
def test_wrong_assemblies_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.PerceiverKitError, match=message):
        example(**options)


def test_an_output_that_no_query_can_serve_is_refused() -> None:
    with pytest.raises(kit.AssemblyError, match=r"output 'y' has no size, .*give Project\(…, size=…\) or queries="):
        kit.assemble(dict(x=Features(3)), dict(y=Project(3)), **SIZES)
    two = dict(a=Classify(3, in_channels=4), b=Classify(3, in_channels=5))
    with pytest.raises(kit.AssemblyError, match=r"rows of one width, got in_channels {'a': 4, 'b': 5}"):
        kit.assemble(dict(x=Features(3)), two, **SIZES)


# ---- incomplete blocks


def test_an_incomplete_block_says_what_it_waits_for_and_survives_copies() -> None:
    block = Classify(10, problem_type="regression")
    for same in (block, copy.deepcopy(block), pickle.loads(pickle.dumps(block)), kit.build(kit.spec(block))):
        assert same.left_out == ("in_channels",) and same.classes == 10  # type: ignore[union-attr]
        assert not [*same.parameters()]
        with pytest.raises(kit.AssemblyError, match="Classify: in_channels is left out; give it, or join the block"):
            same(torch.zeros(1, 1, 4))
    with pytest.raises(kit.AssemblyError, match="Learned: channels is left out, and its neighbours do not say it"):
        Features(3, positions=positions.Learned((4,)))


def test_a_block_used_twice_stays_one() -> None:
    head = Project(2, size=(4,))
    model = kit.assemble(dict(x=Features(3)), dict(a=head, b=head), **SIZES)
    assert model.outputs.blocks["a"] is model.outputs.blocks["b"]  # type: ignore[union-attr]
    pair = completed(dict(a=head, b=head), model)
    assert pair["a"] is pair["b"] and head.left_out


def test_coordinates_and_shared_queries_are_assembled() -> None:
    clock = Fourier(bands=4, max_resolution=(24,), ranges=((0.0, 24.0),))
    model = kit.assemble(
        dict(history=inputs.Points(1, channels=2, positions=clock), cloud=inputs.Points(3, positions=Fourier(bands=2))),
        kit.Outputs(kind=Project(5, size=(6,)), box=Project(4, size=(6,)), of=dict(kind="objects", box="objects")),
        decoder=kit.decoders.SetDecoder(heads=2),
        **SIZES,
    )
    assert [*model.queries.blocks] == ["objects"]  # type: ignore[union-attr]
    assert model.inputs.blocks["cloud"].positions.max_resolution == (4, 4, 4)
    given = {"history": torch.rand(2, 9, 3), "cloud": torch.rand(2, 7, 3)}
    found = model(given)
    assert (found["kind"].shape, found["box"].shape) == ((2, 6, 5), (2, 6, 4))
    asked = dict(future=queries.CoordinateQuery(clock))
    model = kit.assemble(model.inputs, dict(future=Project(2)), queries=asked, **SIZES)
    assert model(given, queries={"future": torch.rand(8, 1)})["future"].shape == (2, 8, 2)


# ---- replaced blocks


def test_a_replaced_head_is_completed_checked_and_loses_its_names() -> None:
    model = example(labels={"room": ("a", "b", "c", "d", "e")}).double().eval()
    model.outputs.blocks["room"] = Classify(8)
    head = model.outputs.blocks["room"]
    assert head.in_channels == model.decoder.out_channels
    assert head.project.weight.dtype == torch.float64 and not head.training
    assert model.labels == {}
    assert kit.build(kit.spec(model)).outputs.blocks["room"].channels == 8  # type: ignore[union-attr, index]
    with pytest.raises(kit.AssemblyError, match=r"Classify for 'room': expected in_channels .*, got 3"):
        model.outputs.blocks["room"] = Classify(8, in_channels=3)
    with pytest.raises(kit.AssemblyError, match="'room': expected a block of kind Output, got a Features"):
        model.outputs.blocks["room"] = Features(3)
    with pytest.raises(kit.UnknownName, match="did you mean 'room'"):
        model.outputs.blocks["rooms"] = Classify(8)
    with pytest.raises(kit.AssemblyError, match="expected channels 3, as the block that it replaces, got 4"):
        model.inputs.blocks["points"] = Features(4)
    assert model.outputs.blocks["room"] is head
    assert isinstance(model.inputs.blocks["points"], nn.Module)
