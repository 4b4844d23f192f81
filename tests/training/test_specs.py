"""Training of an assembly from its spec, and from the weights of another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.cli import main
from perceiver_kit.declarations import objective_for
from perceiver_kit.inputs import Features, TextTokens
from perceiver_kit.outputs import Classify, Flow, Project

SIZES: dict[str, Any] = dict(num_latents=2, latent_dim=16, layers=1, self_heads=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ham", "spam"):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "texts" / name / f"{i}.txt").write_text(f"{name} number {i}")
    return tmp_path


def text_model(classes: int = 2) -> Any:
    return kit.assemble(dict(text=TextTokens(262, 16)), dict(label=Classify(classes)), **SIZES)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_line_trains_a_spec_and_starts_from_a_model(folder: Path) -> None:
    (folder / "spec.json").write_text(json.dumps(kit.spec(text_model())))
    common = ["--data", str(folder / "texts"), "--steps", "1", "--batch", "2"]
    assert main(["train", str(folder / "spec.json"), *common, "--out", str(folder / "run")]) == 0
    trained: Any = kit.load(folder / "run")
    assert trained.labels == {"label": ("ham", "spam")}
    assert kit.spec(trained)["model"]["arguments"]["encoder"] == kit.spec(text_model())["model"]["arguments"]["encoder"]
    more = ["--from", str(folder / "run"), "--freeze", "encoder", "--rates", "outputs=0.5", "--out", str(folder / "on")]
    assert main(["train", str(folder / "spec.json"), *common, *more]) == 0
    assert torch.equal(kit.load(folder / "on").encoder.latents, trained.encoder.latents)  # type: ignore[union-attr, arg-type]


def test_what_cannot_be_chosen_is_refused_in_words(folder: Path, capsys: pytest.CaptureFixture) -> None:
    model = kit.assemble(dict(depth=Features(3)), dict(room=Classify(2)), **SIZES)
    (folder / "spec.json").write_text(json.dumps(kit.spec(model)))
    assert main(["train", str(folder / "spec.json"), "--data", str(folder / "texts")]) == 2
    assert "no data are declared for a model of depth → room; there are data for" in capsys.readouterr().err
    assert main(["train", str(folder / "none.json"), "--data", str(folder / "texts")]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err


def test_objectives_are_chosen_from_the_outputs() -> None:
    outputs = dict(
        kind=Classify(2),
        tags=Classify(3, problem_type="multi_label_classification"),
        height=Classify(1, problem_type="regression"),
        track=Project(3, size=(5,)),
        flow=Flow(size=(2, 2)),
    )
    objective: Any = objective_for(kit.assemble(dict(x=Features(3)), outputs, **SIZES))
    chosen = {name: type(objective.objectives[name]).__name__ for name in objective.objectives}
    assert chosen == {
        "kind": "Classification",
        "tags": "MultiLabel",
        "height": "Regression",
        "track": "Reconstruction",
        "flow": "EndPointError",
    }
    assert objective.objectives["tags"].labels == 3
    one = text_model()
    assert objective_for(one, "Regression").output == "label"
    with pytest.raises(kit.UnknownName, match="no objective 'Regresion'; did you mean 'Regression'"):
        objective_for(one, "Regresion")
    with pytest.raises(kit.AssemblyError, match="for one output, got"):
        objective_for(kit.assemble(dict(x=Features(3)), outputs, **SIZES), "Regression")
