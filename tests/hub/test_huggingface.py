"""Hugging Face's checkpoints there and back without a changed bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import perceiver_kit as kit
from perceiver_kit.hub.huggingface import convertible, read_config, write_config

from . import reference
from .reference import ask, relative
from .test_parity import CASES, Case, at, models, raw

SMALL = {case.recipe: case for case in reversed(CASES)}
CONVERSIONS = convertible()
each_recipe = pytest.mark.parametrize("recipe", CONVERSIONS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_there_and_back_is_the_same_model(case: Case, tmp_path: Path) -> None:
    theirs, ours = models(case)
    kit.to_huggingface(ours, tmp_path)
    back = reference.architecture(case.recipe).from_pretrained(tmp_path).eval()
    before, after = theirs.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    # What the code reads of a config must survive; what it never does (layer_norm_eps) need not.
    written = json.loads((tmp_path / "config.json").read_text())
    for key, value in theirs.config.to_dict().items():
        if key in written and key not in ("id2label", "label2id"):
            assert written[key] == (list(value) if isinstance(value, tuple) else value), key
    given, options = raw(case, torch.float32), at(case)
    with torch.no_grad():
        found, wanted = (ask(case.recipe, model, given, **options)[0] for model in (back, theirs))
        assert relative(found, wanted) < 1e-6  # theirs compute on tensors as they lie in the file: rounding differs
        again = kit.load(tmp_path)
        assert not again.training
        for name, value in again(given, **options).items():
            assert torch.equal(value, ours(given, **options)[name])


@each_recipe
def test_names_are_a_bijection_and_shapes_agree_at_published_size(recipe: str) -> None:
    with torch.device("meta"):
        ours = kit.build(recipe)
        config = write_config(recipe, ours.recipe["parameters"])
        theirs = reference.architecture(recipe)(transformers.PerceiverConfig.from_dict(config))
    names = reference.parameters(recipe, ours)
    assert len(set(names.values())) == len(names)
    wanted = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    assert {names[name]: tuple(ours.state_dict()[name].shape) for name in names} == wanted
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@each_recipe
def test_numbers_of_a_config_survive_both_ways(recipe: str) -> None:
    with torch.device("meta"):
        parameters = kit.build(recipe).recipe["parameters"]
    name, again = read_config(write_config(recipe, parameters), "config.json")
    differing = {key for key in again if again[key] != parameters[key]}
    assert name == recipe and all(
        (again[key], parameters[key]) in [((224, 224), 224), (30720, None)] for key in differing
    )


def test_what_a_config_leaves_out_has_the_references_value() -> None:
    defaults = transformers.PerceiverConfig()
    for conversion in CONVERSIONS.values():
        for ours, (theirs, default) in conversion.sizes.items():
            assert default == getattr(defaults, theirs), ours


@pytest.mark.parametrize("saved", CONVERSIONS, indirect=True)
def test_a_config_may_leave_out_what_is_default(saved: Path) -> None:
    wanted = kit.load(saved)
    config = json.loads((saved / "config.json").read_text())
    defaults = transformers.PerceiverConfig().to_dict() | {"_label_trainable_num_channels": 1024}
    kept = {"model_type", "architectures", "id2label"}
    left = {key: value for key, value in config.items() if key in kept or (key in defaults and value != defaults[key])}
    assert len(left) < len(config) - 10
    (saved / "config.json").write_text(json.dumps(left))
    assert kit.spec(kit.load(saved)) == kit.spec(wanted)


@pytest.mark.parametrize("labels", [1, 2, 3, 40])
def test_labels_are_counted_where_they_are_not_stored(labels: int, tmp_path: Path) -> None:
    theirs = reference.configured(
        "sequence_classification", **SMALL["sequence_classification"].config | {"num_labels": labels}
    )
    ours = reference.converted(theirs, tmp_path)
    assert ("id2label" in json.loads((tmp_path / "config.json").read_text())) == (labels != 2)
    assert ours(torch.zeros(1, 4, dtype=torch.int64))["label"].shape == (1, labels)
    back = reference.architecture("sequence_classification").from_pretrained(
        kit.to_huggingface(ours, tmp_path / "back")
    )
    assert back.config.num_labels == labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_survive(dtype: torch.dtype, tmp_path: Path) -> None:
    theirs = reference.configured("masked_lm", **SMALL["masked_lm"].config).to(dtype)
    ours = reference.converted(theirs, tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
