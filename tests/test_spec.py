"""``kit.spec`` and ``kit.build``: any model made of blocks ⇄ plain JSON; everything else is refused."""

from __future__ import annotations

import copy
import functools
import json
import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import perceiver_kit as kit
from perceiver_kit import decoders, inputs, outputs, positions, queries

from .blocks import registered
from .strategies import RECIPES


def through_json(spec: dict) -> dict:
    """The spec after writing and reading a file."""
    return json.loads(json.dumps(spec, allow_nan=False))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_rebuilt_from_their_specs(recipe: str) -> None:
    with torch.device("meta"):
        model = kit.build(recipe)
        spec = kit.spec(model)
        rebuilt = kit.build(through_json(spec))
    assert shapes(rebuilt) == shapes(model)
    assert str(rebuilt) == str(model)  # all modules with their settings
    assert kit.spec(rebuilt) == spec == through_json(spec)
    expected = {"name": recipe, "preset": "base", "parameters": model.recipe["parameters"]}
    assert rebuilt.recipe == model.recipe == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipe_in_a_spec_is_metadata_only(recipe: str) -> None:
    with torch.device("meta"):
        model = kit.build(recipe, preset="tiny")
        spec = kit.spec(model)
        spec["recipe"] |= dict(preset="base", parameters={"dict": {"num_latents": 5}})
        assert shapes(kit.build(spec)) == shapes(model)
        del spec["recipe"]
        assert shapes(kit.build(spec)) == shapes(model)


def small(**options: Any) -> kit.PerceiverIO:
    inputs_block = options.pop("inputs", None) or inputs.Inputs(points=inputs.Features(3))
    blocks = dict(
        inputs=inputs_block,
        encoder=kit.Encoder(inputs_block.channels, num_latents=4, latent_dim=8, layers=1),
        queries=queries.Queries(label=queries.LearnedQuery(1, 8)),
        decoder=decoders.Decoder(8, 8),
        outputs=outputs.Outputs(label=outputs.Classify(10, in_channels=8)),
    )
    return kit.PerceiverIO(**blocks | options)


def nodes(value: Any) -> Iterator[dict]:
    """Blocks of a spec and references to them, in order."""
    if isinstance(value, dict):
        if "block" in value or "same_as" in value:
            yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


def test_a_shared_block_is_written_once_and_stays_shared() -> None:
    shared = positions.Learned((7,), 4)
    inputs_block = inputs.Inputs(
        left=inputs.Features(3, positions=shared),
        right=inputs.Features(4, positions=shared, combine="add"),
        other=inputs.Features(2, positions=positions.Learned((7,), 4)),
    )
    model = small(inputs=inputs_block)
    spec = through_json(kit.spec(model))
    found = [node for node in nodes(spec) if node.get("block") == "positions.Learned"]
    assert len([node for node in found if "id" in node]) == 1
    assert [node for node in nodes(spec) if "same_as" in node] == [{"same_as": found[0]["id"]}]
    blocks = kit.build(spec).inputs.blocks
    assert blocks["left"].positions is blocks["right"].positions
    assert blocks["left"].positions is not blocks["other"].positions


def test_several_shared_blocks_stay_distinct() -> None:
    one, other = inputs.Features(3), inputs.Features(3)
    model = small(inputs=inputs.Inputs(a=one, b=other, c=one, d=other))
    blocks = kit.build(through_json(kit.spec(model))).inputs.blocks
    assert blocks["a"] is blocks["c"] is not blocks["b"]
    assert blocks["b"] is blocks["d"]


class OneArgument(kit.Block):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text(max_size=3) | st.sampled_from(["tuple", "dict", "block", "same_as"]), inner, max_size=3
        )
    ),
)


class EveryArgumentKind(kit.Block):
    """Parameters of every kind that Python has."""

    def __init__(self, one: int, /, two: int, three: int = 3, *more: int, last: int = 0, **named: int) -> None:
        super().__init__()


@pytest.mark.parametrize("given", [(1, 2), (1, 2, 7), (1, 2, 7, 8, 9)], ids=len)
def test_arguments_of_every_kind_are_restored(given: tuple[int, ...]) -> None:
    with registered("inputs", EveryArgumentKind):
        found = kit.build(through_json(kit.spec(EveryArgumentKind(*given, last=4, other=5)))).recorded
    one, two, three, *more = given if len(given) > 2 else (*given, 3)
    assert found == dict(one=one, two=two, three=three, more=tuple(more), last=4, named={"other": 5})


@settings(max_examples=100)
@given(value=PLAIN)
def test_plain_arguments_keep_value_and_type(value: Any) -> None:
    with registered("inputs", OneArgument):
        found = kit.build(through_json(kit.spec(OneArgument(value)))).recorded["value"]
    assert repr(found) == repr(value)  # repr distinguishes (1,) from [1], 1 from 1.0 and True


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, {1, 2}, b"x", torch.zeros(1), object, nn.Linear(1, 1)])
def test_other_arguments_are_refused(value: Any) -> None:
    message = r"spec: model.value is .* but an argument must be None, bool, int"
    with registered("inputs", OneArgument), pytest.raises(kit.AssemblyError, match=message):
        kit.spec(OneArgument(value))


def test_replaced_children_are_in_the_spec() -> None:
    model = small()
    model.decoder = decoders.Decoder(8, 8, heads=2)
    model.outputs = outputs.Outputs(label=outputs.Classify(3, in_channels=8))
    model.inputs.blocks._modules["points"].positions = None
    rebuilt = kit.build(through_json(kit.spec(model)))
    assert rebuilt.decoder.cross.attention.heads == 2
    assert rebuilt.outputs.blocks["label"].channels == 3


def test_copies_have_the_same_spec() -> None:
    model = small()
    twin = copy.deepcopy(model)
    assert kit.spec(twin) == kit.spec(model)
    twin.outputs = outputs.Outputs(label=outputs.Classify(3, in_channels=8))
    assert kit.spec(model) != kit.spec(twin)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m.decoder, "cross", nn.Linear(2, 2)),
        lambda m: setattr(m.outputs.blocks["label"], "project", nn.Linear(8, 11)),
        lambda m: setattr(m.outputs.blocks["label"], "project", nn.Linear(8, 10, bias=False)),
        lambda m: setattr(m.outputs.blocks["label"].project, "bias", m.encoder.cross[0].query_norm.bias),
        lambda m: setattr(m.encoder.cross[0].query_norm, "weight", m.encoder.cross[0].query_norm.bias),
        lambda m: m.encoder.transformer.append(nn.Linear(1, 1)),
        lambda m: m.register_buffer("extra", torch.zeros(1)),
    ],
)
def test_a_model_changed_by_hand_is_refused(change) -> None:
    model = small()
    change(model)
    with pytest.raises(kit.AssemblyError, match=r"not what its blocks' arguments make: .* differs in name, shape or"):
        kit.spec(model)


@pytest.mark.parametrize("name", ["stages", "grid", "a.b", ""])
def test_a_parameter_named_like_an_attribute_is_refused(name: str) -> None:
    class Clashing(kit.inputs.Input):
        def __init__(self, buffer: bool) -> None:
            super().__init__(3)
            register = self.register_buffer if buffer else self.register_parameter
            register(name, torch.nn.Parameter(torch.zeros(3)))

    for buffer in (False, True):
        with pytest.raises(kit.AssemblyError, match=r"Clashing: .*; a parameter or buffer needs a name of its own"):
            Clashing(buffer)


def test_unregistered_blocks_are_refused() -> None:
    class Mine(decoders.Decoder):
        pass

    with pytest.raises(kit.AssemblyError, match=r"Mine is not registered: put @kit.register"):
        kit.spec(small(decoder=Mine(8, 8)))


def test_modules_that_are_not_blocks_are_refused() -> None:
    with pytest.raises(kit.AssemblyError, match="spec takes a model made of blocks, got a Linear"):
        kit.spec(nn.Linear(2, 2))


def edited(spec: dict, path: Sequence[Any], value: Any) -> dict:
    """A copy of the spec with this value at a path; ``...`` deletes."""
    spec = through_json(spec)
    node = functools.reduce(operator.getitem, path[:-1], spec)
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return spec


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("perceiver_kit", 2, r'a spec is \{"perceiver_kit": 1, "model": …\} as kit.spec writes it, got keys'),
        ("model", ..., r"as kit.spec writes it, got keys \['perceiver_kit'\]"),
        ("model", 3, "spec: model must be a block, got an int"),
        ("model/block", "models.PerceiverOI", "spec: model: no model 'PerceiverOI'; did you mean 'PerceiverIO'"),
        ("model/block", "model.PerceiverIO", "spec: model: no kind 'model'; did you mean 'models'"),
        ("model/block", "recipes.masked_lm", "spec: model: recipes.masked_lm is not a block or a dataclass"),
        ("model/block", "os.system", "spec: model: no kind 'os'"),
        ("model/block", None, "spec: model: no kind 'None'"),
        ("model/arguments", [], "spec: model has keys"),
        ("model/arguments/encoder", ..., "missing a required argument: 'encoder'"),
        ("model/arguments/coder", None, r"spec: model \(models.PerceiverIO\): .*'coder'; did you mean 'encoder'"),
        ("model/arguments/encoder/arguments/layers", -1, "spec: model.encoder .* layers must be an int .* got -1"),
        ("model/arguments/encoder/arguments/layers", "2", "spec: model.encoder .* layers must be an int .* got '2'"),
        ("model/arguments/encoder/arguments/layers", {"n": 1}, r"spec: model.encoder.layers has keys \['n'\]"),
        ("model/arguments/encoder/arguments/layers", {"tuple": 1}, r"model.encoder.layers has keys \['tuple'\]"),
        ("model/arguments/encoder/arguments/layers", {"same_as": 7}, "refers to block 7, which is not made before it"),
        ("model/arguments/encoder/arguments/layers", math.nan, "spec: model.encoder.layers is nan, but an argument"),
        ("model/arguments/encoder/arguments/channels", 4, "inputs.channels is 3, but encoder.channels is 4"),
        ("model/arguments/inputs/arguments/named", 3, r"model.inputs \(inputs.Inputs\): .*not iterable; it takes"),
        ("model/arguments/inputs/arguments/named", ["abc"], r"model.inputs \(inputs.Inputs\): dictionary update"),
        ("model/arguments/encoder/arguments/self", 3, r"model.encoder \(.*\): .*multiple values .*'self'"),
    ],
)
def test_errors_of_a_spec_name_the_path(path: str, value: Any, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        kit.build(edited(kit.spec(small()), path.split("/"), value))
