"""Class names: from recipes and folders into specs, checkpoints and Hugging Face's format, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PerceiverConfig, PerceiverForSequenceClassification

import perceiver_kit as kit
from perceiver_kit.data.tasks import open_task
from perceiver_kit.hub.huggingface import convertible, read_config, write_config
from perceiver_kit.inputs import Features
from perceiver_kit.outputs import Classify
from perceiver_kit.registry import find

CLASSIFIERS = [name for name in kit.list() if "num_labels" in find("recipes", name).signature.parameters]


def rebuilt(model: Any) -> Any:
    return kit.build(kit.spec(model))


@pytest.mark.parametrize("recipe", CLASSIFIERS)
def test_names_give_the_number_of_classes_and_survive_every_format(recipe: str, tmp_path: Path) -> None:
    names = ("cat", "dog", "größer", "a.b", "5")
    model: Any = kit.build(recipe, preset="tiny", labels=names)
    assert model.recipe["parameters"]["num_labels"] == 5
    [(output, found)] = model.labels.items()
    assert found == (*names, "no object")[: model.outputs.blocks[output].width]
    assert len(found) == model.outputs.blocks[output].width
    assert rebuilt(model).labels == model.labels
    loaded: Any = kit.load(kit.save(model, tmp_path / "ours"))
    assert loaded.labels == model.labels
    if recipe in convertible():
        parameters = model.recipe["parameters"] | convertible()[recipe].fixed
        config = write_config(recipe, parameters)
        assert config["label2id"] == {name: i for i, name in enumerate(names)}
        assert read_config(config, "config.json")[1]["labels"] == names
    unnamed: Any = kit.build(recipe, preset="tiny")
    assert unnamed.labels == {}


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression", None])
def test_hugging_faces_names_and_problem_type_survive(problem: Any, tmp_path: Path) -> None:
    names = {0: "neg", 1: "pos", 2: "pos", 3: "LABEL_3"}
    config = PerceiverConfig(
        d_model=32,
        d_latents=32,
        num_latents=4,
        num_self_attends_per_block=1,
        num_self_attention_heads=2,
        num_cross_attention_heads=2,
        qk_channels=32,
        v_channels=32,
        max_position_embeddings=16,
        id2label=names,
        problem_type=problem,
    )
    PerceiverForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    model: Any = kit.load(kit.save(kit.load(tmp_path / "theirs"), tmp_path / "ours"))
    assert model.labels == {"label": ("neg", "pos", "pos 2", "LABEL_3")}  # a name stands for one class
    assert model.outputs.blocks["label"].problem_type == problem
    model.labels = {"label": ("a", "b", "c", "d")}
    written = json.loads((kit.to_huggingface(model, tmp_path / "again") / "config.json").read_text())
    assert written["id2label"] == {"0": "a", "1": "b", "2": "c", "3": "d"}
    assert written["problem_type"] == problem
    PerceiverForSequenceClassification.from_pretrained(tmp_path / "again")


def test_placeholders_are_no_names(tmp_path: Path) -> None:
    model: Any = kit.build("sequence_classification", preset="tiny", num_labels=3)
    back: Any = kit.load(kit.to_huggingface(model, tmp_path))
    assert back.labels == {}


@pytest.mark.parametrize("id2label", [{"0": "a", "2": "b"}, {"0": "a", "1": 3}, {"0": "a", "1": ""}])
def test_a_config_with_damaged_names_is_refused(id2label: dict, tmp_path: Path) -> None:
    kit.to_huggingface(kit.build("sequence_classification", preset="tiny", num_labels=2), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": id2label}))
    with pytest.raises(kit.CheckpointError, match="id2label must have a name for each class from 0"):
        kit.load(tmp_path)


def assembly(labels: Any = None) -> kit.PerceiverIO:
    encoder = kit.Encoder(3, num_latents=2, latent_dim=8, layers=1)
    outputs = kit.Outputs(kind=Classify(2, in_channels=8), place=kit.outputs.Project(3, in_channels=8))
    return kit.PerceiverIO(
        kit.Inputs(points=Features(3)), encoder, None, kit.MeanPool(8, out_channels=8), outputs, labels=labels
    )


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ({"kind": ("a",)}, kit.AssemblyError, "labels of 'kind': expected 2 names, one for each class, got 1"),
        ({"kind": ("a", "a")}, kit.AssemblyError, "labels of 'kind': .*none twice, got 'a' twice"),
        ({"kind": "ab"}, kit.AssemblyError, "labels of 'kind': expected the names of the classes, .*got 'ab'"),
        ({"kind": ("a", "")}, kit.AssemblyError, "labels of 'kind'"),
        ({"kind": ()}, kit.AssemblyError, "labels of 'kind'"),
        ({"kin": ("a", "b")}, kit.UnknownName, "labels names 'kin'; did you mean 'kind'"),
        (["a", "b"], kit.AssemblyError, "labels: expected a dict from output to class names"),
    ],
)
def test_wrong_names_are_refused_at_construction_and_later(labels: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        assembly(labels)
    model = assembly({"kind": ["x", "y"]})
    with pytest.raises(error, match=message):
        model.labels = labels
    assert model.labels == {"kind": ("x", "y")}  # a refused change changes nothing


def test_names_of_any_output_can_be_set_and_removed() -> None:
    model = assembly({"kind": None})
    assert model.labels == {}
    model.labels = {"place": ("x", "y", "z")}
    assert rebuilt(model).labels == {"place": ("x", "y", "z")}
    model.labels = {}
    assert rebuilt(model).labels == {}


def test_a_recipe_refuses_names_that_contradict_num_labels() -> None:
    with pytest.raises(kit.AssemblyError, match="expected 3 names, one for each class, got 2"):
        kit.build("sequence_classification", preset="tiny", labels=("a", "b"), num_labels=3)


def test_data_give_their_names_to_the_model(tmp_path: Path) -> None:
    for name in ("ham", "spam"):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.txt").write_text(f"{name} {i}")
    task = open_task(tmp_path, recipe="sequence_classification", preset="tiny")
    model: Any = kit.build("sequence_classification", preset="tiny", **task.overrides)
    assert model.labels == {"label": ("ham", "spam")}
