"""What a run leaves: a model, metrics, a plot."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset, default_collate

import perceiver_kit as kit
from perceiver_kit.declarations import objective_for
from perceiver_kit.objectives import Reconstruction, Regression, Weighted
from perceiver_kit.positions import Fourier
from perceiver_kit.training import Data, Training, fit

from .toys import FEW, QUIET, Toys, alone, prepared, run, small

pytestmark = QUIET


@pytest.mark.usefixtures("curves_drawn")
def test_fit_leaves_a_model_metrics_and_their_plot(tmp_path: Path) -> None:
    recipe, directory = "multimodal_autoencoding", tmp_path / "run"
    training, data = prepared(recipe, steps=20, queries=FEW)
    results = fit(training, data, directory, validate_every=5, save_every=7, progress=False)
    left = {path.name for path in directory.iterdir()}
    assert left == {"checkpoints", "config.json", "curves.png", "metrics.csv", "model.safetensors", "tensorboard"}
    assert (directory / "curves.png").stat().st_size > 1000
    assert [path.name for path in (directory / "checkpoints").iterdir()] == ["last.ckpt"]

    saved = kit.load(directory)
    assert kit.spec(saved) == kit.spec(training.model)
    assert all(torch.equal(value, training.model.state_dict()[name]) for name, value in saved.state_dict().items())

    # Held-out metrics cover all six samples, evaluated in batches of four and two.
    whole = default_collate([data.held_out[i] for i in range(6)])
    with torch.no_grad():
        outputs = saved(whole["inputs"])
    loss, parts = training.objective(outputs, whole["targets"])
    assert results["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, value in parts.items():
        assert results[name] == pytest.approx(value.item(), rel=1e-5)
    error = (outputs["image"] - whole["targets"]["image"]).square().mean().item()
    assert results["image_psnr"] == pytest.approx(10 * math.log10(4 / error), rel=1e-5)
    accuracy = (outputs["label"].argmax(-1) == whole["targets"]["label"]).double().mean().item()
    assert results["label_accuracy"] == pytest.approx(accuracy)

    with open(directory / "metrics.csv", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [int(row["step"]) for row in rows if row["train/loss"]] == [9, 19]
    assert {4, 9, 14, 19} <= {int(row["step"]) for row in rows if row["held_out/loss"]}
    assert float(rows[-1]["held_out/loss"]) == pytest.approx(results["loss"])


@pytest.mark.parametrize("recipe", ["masked_lm", "optical_flow"])
def test_the_held_out_loss_is_a_mean_over_elements_of_all_batches(recipe: str, tmp_path: Path) -> None:
    """Batches of four and two samples, which differ in their numbers of masked bytes or valid pixels."""
    training, data = prepared(recipe, steps=2)
    results = fit(training, data, tmp_path / "run", progress=False)
    whole = default_collate([data.held_out[i] for i in range(6)])
    with torch.no_grad():
        outputs = kit.load(tmp_path / "run")(whole["inputs"])
    loss, _ = training.objective(outputs, whole["targets"])
    assert results["loss"] == pytest.approx(loss.item(), rel=1e-6)


def test_iterable_data_train_but_do_not_resume(tmp_path: Path) -> None:
    class Iterable(IterableDataset):
        def __iter__(self) -> Any:
            yield from ({k: v for k, v in Toys("masked_lm")[i].items() if k != "draw"} for i in range(5))

    def train(**options: Any) -> dict[str, float]:
        training = Training(small("masked_lm"), objective_for("masked_lm"), steps=4)
        data = Data(Iterable(), Iterable(), batch=2, steps=4)
        return fit(training, data, tmp_path, save_every=2, progress=False, **options)

    assert math.isfinite(train(validate_every=2)["loss"])
    with pytest.raises(kit.InputError, match="an IterableDataset cannot be read from the middle"):
        train(resume=True)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_held_out_data_are_evaluated_every_few_steps(accumulate: int, tmp_path: Path) -> None:
    run(dict(recipe="masked_lm", directory=tmp_path / "run", steps=6, accumulate=accumulate, validate_every=2))
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["held_out/loss"]]
    assert steps[:3] == [1, 3, 5]
    assert {*steps[3:]} <= {6}, "and at the end"


def test_modalities_of_any_name_have_metrics(tmp_path: Path) -> None:
    """Metrics are modules, whose names must not contain dots in PyTorch."""
    model = kit.PerceiverIO(
        kit.Inputs({"a.b": kit.inputs.Features(3)}),
        kit.Encoder(3, num_latents=2, latent_dim=8, layers=1),
        kit.Queries({"a.b": kit.queries.PositionQuery(Fourier(bands=1, max_resolution=(4,)), size=(4,))}),
        kit.Decoder(3, 8),
        kit.Outputs({"a.b": kit.outputs.Project(3, in_channels=3)}),
    )

    class Rows(Toys):
        def sample(self, index: int, random: torch.Generator, training: bool) -> dict[str, Any]:
            rows = torch.full((4, 3), index / 10)
            return dict(inputs={"a.b": rows}, targets={"a.b": rows})

    objective = Weighted({"a.b": Regression("a.b"), "%": Reconstruction("a.b")})
    rows = Rows("", 4)
    results = fit(Training(model, objective, steps=1), Data(rows, rows, batch=2, steps=1), tmp_path, progress=False)
    assert {*results} == {"loss", "a.b", "%", "a.b_mse", "a.b_mae", "%_psnr"}


def test_training_without_held_out_data_returns_nothing(tmp_path: Path) -> None:
    assert run(dict(recipe="masked_lm", directory=tmp_path / "run", steps=1, held_out=False)) == {}
    kit.load(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated")  # raised by PyTorch's own imports
def test_a_compiled_model_keeps_its_names_and_spec() -> None:
    """Its checkpoints are those of the plain model. The forward pass is not run: compiling takes minutes."""
    plain, compiled = alone("sequence_classification"), alone("sequence_classification", compile_model=True)
    assert compiled.model._compiled_call_impl is not None
    assert [*compiled.state_dict()] == [*plain.state_dict()]
    assert kit.spec(compiled.model) == kit.spec(plain.model)
