"""Every objective of the registry and of the recipes: gradients, JSON, refused targets and arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.declarations import objective_for
from perceiver_kit.objectives import (
    AnswerSpan,
    Classification,
    Contrast,
    Detection,
    EndPointError,
    MaskedTokens,
    MultiLabel,
    NextTokens,
    Objective,
    Quantile,
    Reconstruction,
    Regression,
    Segmentation,
    Tags,
    Weighted,
)

from .objective_cases import measured, three
from .strategies import raws, tiny

EVERY = [
    Classification("a", label_smoothing=0.1),
    Regression("a"),
    MultiLabel("a", labels=3),
    Tags("a", names=("O", "B-x", "I-x")),
    AnswerSpan("a", end="b", longest=8),
    MaskedTokens("a"),
    NextTokens("a", label_smoothing=0.1, z_loss=1e-4),
    EndPointError("a", valid="seen", scales=2, robust=True),
    Detection("a", "b", no_object=0.2),
    Segmentation("a"),
    Quantile("a"),
    Contrast("a", temperature=0.2),
    Reconstruction("a"),
    Weighted({"x": Regression("a"), "type": Weighted({"y.z": MaskedTokens("b")})}, weights={"x": 0.5}),
    objective_for("multimodal_autoencoding"),
]


@pytest.mark.parametrize("objective", EVERY, ids=lambda objective: type(objective).__name__)
def test_an_objective_is_plain_json(objective: Objective) -> None:
    document = kit.spec(objective)
    again = kit.build(document)
    assert kit.spec(again) == document
    assert type(again) is type(objective)
    plain = {name: value for name, value in vars(objective).items() if name[0] != "_" and name != "recorded"}
    assert {name: value for name, value in vars(again).items() if name in plain} == plain


def test_every_registered_objective_is_tested() -> None:
    assert {type(objective).__name__ for objective in EVERY} == set(kit.list("objectives"))


@pytest.mark.parametrize("recipe", kit.list())
def test_the_objective_of_every_recipe_gives_gradients(recipe: str) -> None:
    model, objective = tiny(recipe, train=True), objective_for(recipe)
    outputs = model(raws(model, 2))
    targets = {name: _target(output, name, recipe) for name, output in outputs.items()}
    if recipe == "question_answering":
        targets["allowed"] = torch.ones_like(outputs["start"], dtype=torch.bool)
    loss, parts = objective(outputs, targets)
    assert {*parts} >= {*outputs}  # boxes have two terms
    gradients = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    model.requires_grad_(False)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(bool(gradient.abs().max() > 0) for gradient in gradients) > len(gradients) / 2
    found = measured(objective, [(outputs, targets)])
    assert found
    assert all(math.isfinite(value) for value in found.values())


def _target(output: Tensor, name: str, recipe: str) -> Tensor:
    if recipe in ("masked_lm", "causal_lm"):
        text = torch.randint(output.shape[-1], output.shape[:2])
        return torch.where(torch.rand(text.shape) < 0.3, text, -100)
    if recipe == "question_answering":
        return torch.tensor([[1, -100], [2, 0]])
    if name == "class":
        return torch.tensor([[3, -100], [5, 4]])
    if name == "box":
        return torch.rand(2, 2, 4) / 2 + 0.1
    if recipe == "token_classification":
        return torch.randint(output.shape[-1], output.shape[:2])
    if recipe == "multitask_text" and output.shape[-1] > 1:
        return torch.tensor([1, -100])
    if name == "future":
        return torch.rand(output.shape[:-1])
    return torch.arange(len(output)) if name == "label" and output.ndim == 2 else torch.rand_like(output) * 2 - 1


def test_the_weights_of_multimodal_autoencoding_are_published() -> None:
    assert objective_for("multimodal_autoencoding").weights == {"image": 0.03, "audio": 1.0, "label": 1e-4}


def _apply(objective: Objective, output: Tensor, **targets: Tensor) -> None:
    objective({objective.output: output}, targets)


IMAGE = torch.zeros(2, 2, 4, 4)
REFUSED = {
    "classes of another batch": (
        lambda: _apply(Classification(), torch.zeros(4, 3), label=torch.zeros(5).long()),
        "(4,)",
    ),
    "classes in a column": (
        lambda: _apply(Classification(), torch.zeros(4, 3), label=torch.zeros(4, 1).long()),
        "(4, 1)",
    ),
    "classes as floats": (lambda: _apply(Classification(), torch.zeros(4, 3), label=torch.zeros(4)), "int64 (4,)"),
    "one-hot integers": (
        lambda: _apply(Classification(), torch.zeros(4, 3), label=torch.eye(4, 3).long()),
        "float (4, 3)",
    ),
    "values of another shape": (lambda: _apply(Regression("y"), torch.zeros(4, 1), y=torch.zeros(4)), "float32 (4, 1)"),
    "an image of another shape": (lambda: _apply(Reconstruction("y"), IMAGE, y=IMAGE[..., :1]), "(2, 2, 4, 1)"),
    "labels of another shape": (
        lambda: _apply(MultiLabel(labels=3), torch.zeros(2, 3), label=torch.zeros(2)),
        "(2, 3)",
    ),
    "text of another length": (
        lambda: _apply(MaskedTokens(), torch.zeros(2, 5, 9), text=torch.zeros(2, 4).long()),
        "(2, 5)",
    ),
    "text as floats": (lambda: _apply(MaskedTokens(), torch.zeros(2, 5, 9), text=torch.zeros(2, 5)), "float32"),
    "flow of another size": (lambda: _apply(EndPointError(), IMAGE, flow=IMAGE[:1]), "(1, 2, 4, 4)"),
    "validity with channels": (lambda: _apply(EndPointError(), IMAGE, flow=IMAGE, valid=IMAGE[:, :1] > 0), "(2, 4, 4)"),
    "more scales than pixels": (
        lambda: _apply(EndPointError(scales=4), IMAGE, flow=IMAGE),
        "scales: expected at most 3",
    ),
    "no output of an objective": (lambda: Weighted({"a": Regression("a")})({"b": IMAGE}, {"b": IMAGE}), "none of a"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_targets_are_refused(what: str) -> None:
    call, said = REFUSED[what]
    with pytest.raises(kit.InputError) as error:
        call()
    assert said in str(error.value)


def test_wrong_names_and_arguments_are_refused_with_a_hint() -> None:
    outputs, targets = three()
    with pytest.raises(kit.UnknownName, match="outputs has no 'labels'; did you mean 'label'"):
        Classification("labels")(outputs, targets)
    with pytest.raises(kit.UnknownName, match=r"targets has no 'label'.*audio"):
        Classification()(outputs, {"audio": targets["audio"]})
    with pytest.raises(kit.UnknownName, match="did you mean 'multimodal_autoencoding'"):
        objective_for("multimodal_autoencoder")
    with pytest.raises(kit.UnknownName, match="weights names 'imgae'; did you mean 'image'"):
        Weighted(dict(image=Reconstruction("image")), weights=dict(imgae=0.1))
    for nothing in ({}, None, [Regression("image")]):
        with pytest.raises(kit.AssemblyError, match="at least one objective by name"):
            Weighted(nothing)
    for weight, shown in ((math.nan, "nan"), ("1", "'1'"), (True, "True"), (None, "None")):
        with pytest.raises(kit.AssemblyError, match=f"weight of 'image' must be a finite number, got {shown}"):
            Weighted(dict(image=Reconstruction("image")), weights=dict(image=weight))
    with pytest.raises(kit.AssemblyError, match="'image' must be an objective, got a Linear"):
        Weighted(dict(image=torch.nn.Linear(1, 1)))
    with pytest.raises(kit.AssemblyError, match="label_smoothing"):
        Classification(label_smoothing=1.5)
    for wrong in (lambda: EndPointError(scales=0), lambda: MultiLabel(labels=0)):
        with pytest.raises(kit.AssemblyError, match="at least 1"):
            wrong()


@pytest.mark.parametrize("wrong", [-1, 3, 255])
def test_classes_out_of_range_are_refused_with_the_range(wrong: int) -> None:
    said = f"^target '.*' must be classes from 0 to 2, got {min(wrong, 0)} to {max(wrong, 0)}$"
    with pytest.raises(kit.InputError, match=said):
        Classification("label")({"label": torch.zeros(2, 3)}, {"label": torch.tensor([0, wrong])})
    with pytest.raises(kit.InputError, match=said):
        MaskedTokens("text")({"text": torch.zeros(1, 3, 3)}, {"text": torch.tensor([[0, -100, wrong]])})


def test_training_may_leave_out_rows_without_a_class() -> None:
    class Whole(MaskedTokens):
        def loss_sum(self, output: Tensor, target: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
            return output.square().sum(), torch.tensor(output.numel())

    rows = {"text": torch.tensor([[-100, 7], [3, -100]])}
    assert torch.equal(MaskedTokens().needed(rows)["text"], torch.tensor([[False, True], [True, False]]))
    assert Whole().needed(rows) == {}, "its loss reads all rows"
    assert Classification("text", valid="kept").needed(rows) == {}, "valid has as many elements as the whole target"
    assert Classification("text").needed({"text": rows["text"].float()}) == {}, "probabilities"
    assert Classification("text").needed({"text": torch.zeros(2, 3, 3, dtype=torch.int64)}) == {}, "pixels"
