"""New heads on loaded weights, frozen stages, and learning rates by stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.inputs import Features, OneHot
from perceiver_kit.objectives import Classification
from perceiver_kit.outputs import Classify, Project
from perceiver_kit.registry import find

from .strategies import raws, tiny

SIZES: dict[str, Any] = dict(num_latents=2, latent_dim=8, layers=1)
CLASSIFIERS = [name for name in kit.list() if "num_labels" in find("recipes", name).signature.parameters]


def assembly(**outputs: Any) -> Any:
    return kit.assemble(dict(points=Features(3), kind=OneHot(4)), outputs, **SIZES)


@pytest.mark.parametrize("recipe", CLASSIFIERS)
def test_a_loaded_model_gets_another_number_of_classes(recipe: str, tmp_path: Path) -> None:
    model: Any = kit.build(recipe, preset="tiny", labels=("a", "b", "c"))
    [output] = model.labels
    kit.save(model, tmp_path)
    with pytest.warns(UserWarning, match=rf"these parameters are new, .*outputs\.blocks\.%?{output}\.project\.weight"):
        new: Any = kit.load(tmp_path, num_labels=7)
    assert not new.training and new.labels == {} and new.recipe["parameters"]["num_labels"] == 7
    assert new.outputs.blocks[output].width - model.outputs.blocks[output].width == 4
    assert all(value.isfinite().all() for value in new(raws(new, 1)).values())
    old, found = model.state_dict(), new.state_dict()
    fitting = [name for name in old if old[name].shape == found[name].shape]
    assert all(torch.equal(old[name], found[name]) for name in fitting)
    assert "encoder.latents" in fitting and len(fitting) > len(old) // 2
    assert kit.spec(kit.load(kit.save(new, tmp_path / "new"))) == kit.spec(new)
    same: Any = kit.load(tmp_path, num_labels=3)  # nothing is new
    assert same.labels == model.labels


def test_a_loaded_model_gets_other_classes_by_their_names(tmp_path: Path) -> None:
    kit.save(kit.build("image_classification_fourier", preset="tiny", labels=("a", "b")), tmp_path)
    with pytest.warns(UserWarning, match="these parameters are new"):
        new: Any = kit.load(tmp_path, labels=("x", "y", "z"))
    assert new.labels == {"label": ("x", "y", "z")}
    renamed: Any = kit.load(tmp_path, labels=("x", "y"))  # nothing is new
    assert renamed.labels == {"label": ("x", "y")}
    with pytest.raises(kit.AssemblyError, match="expected 4 names"), pytest.warns(UserWarning, match="new"):
        kit.load(tmp_path, num_labels=4, labels=("x", "y"))


def test_hugging_faces_checkpoints_get_a_new_head_too(tmp_path: Path) -> None:
    kit.to_huggingface(kit.build("sequence_classification", preset="tiny", num_labels=2), tmp_path)
    with pytest.warns(UserWarning, match="these parameters are new"):
        new: Any = kit.load(tmp_path, num_labels=5)
    assert new.recipe["parameters"]["num_labels"] == 5


def test_an_assembly_gets_a_new_head_and_keeps_its_type_and_sharing(tmp_path: Path) -> None:
    model = assembly(label=Classify(4, problem_type="regression"), place=Project(2, size=(5,))).bfloat16()
    kit.save(model, tmp_path)
    with pytest.warns(UserWarning, match=r"new, with random values: outputs\.blocks\.label\.project\.weight") as caught:
        new: Any = kit.load(tmp_path, num_labels=6)
    assert "place" not in str(caught[0].message)
    assert {parameter.dtype for parameter in new.parameters()} == {torch.bfloat16}
    assert new.outputs.blocks["label"].problem_type == "regression"
    assert torch.equal(new.outputs.blocks["place"].project.weight, model.outputs.blocks["place"].project.weight)


@pytest.mark.parametrize(
    ("outputs", "got"), [(dict(a=Project(2, size=(5,))), "none"), (dict(a=Classify(2), b=Classify(2)), "'a', 'b'")]
)
def test_a_model_without_one_output_of_classes_is_refused(outputs: dict, got: str, tmp_path: Path) -> None:
    kit.save(assembly(**outputs), tmp_path)
    with pytest.raises(kit.AssemblyError, match=f"one output of classes, got .*{got}"):
        kit.load(tmp_path, num_labels=3)
    for wrong in (0, -1, True):
        with pytest.raises(kit.AssemblyError, match="load: num_labels must be"):
            kit.load(tmp_path, num_labels=wrong)


# ---- freezing, rates


def test_stages_are_frozen_and_trained_again() -> None:
    model = assembly(label=Classify(4))
    assert kit.freeze(model, "inputs", "encoder") is model
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"queries", "decoder", "outputs"}
    kit.unfreeze(model, "encoder")
    assert all(p.requires_grad for p in model.encoder.parameters())
    for function in (kit.freeze, kit.unfreeze):
        with pytest.raises(kit.UnknownName, match="no stage 'encode'; did you mean 'encoder'"):
            function(model, "outputs", "encode")
        with pytest.raises(kit.AssemblyError, match="at least one stage"):
            function(model)
    with pytest.raises(kit.UnknownName, match="no stage 'outputs'"):
        kit.freeze(kit.PerceiverIO(kit.Inputs(x=Features(3)), kit.Encoder(**SIZES)), "outputs")


def test_rates_are_factors_by_stage_and_each_parameter_has_one() -> None:
    pytest.importorskip("pytorch_lightning")
    from perceiver_kit.training import Training

    model: Any = tiny("masked_lm", train=True)  # the embedding is shared by inputs and outputs
    options: dict[str, Any] = dict(steps=10, rate=0.5)
    rates = {"inputs": 0.1, "encoder": 0.2, "outputs": 0.0}
    optimizer = Training(model, Classification("text"), rates=rates, **options).configure_optimizers()["optimizer"]
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in optimizer.param_groups) == len([*model.parameters()])
    for name, parameter in model.named_parameters():
        factor = rates.get(name.partition(".")[0], 1.0)
        assert found[id(parameter)] == pytest.approx(0.5 * factor, rel=1e-6), name
    with pytest.raises(kit.UnknownName, match="Training: rates: the model has no stage 'encoders'"):
        Training(model, Classification("text"), rates={"encoders": 0.1}, **options)
    with pytest.raises(kit.AssemblyError, match="rates: of encoder must be a finite number"):
        Training(model, Classification("text"), rates={"encoder": -1.0}, **options)
