"""Steps of every recipe: losses fall, rates, clipping, averages, precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import default_collate

import perceiver_kit as kit
from perceiver_kit.declarations import objective_for
from perceiver_kit.positions import Fourier
from perceiver_kit.training import Data, Training, fit, rate_at

from .toys import QUIET, RECIPES, RecordingTraining, Toys, alone, batch, losses, run, small

pytestmark = QUIET


# ---- optimisation


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("recipe", ["image_classification_fourier", "multimodal_autoencoding"])
def test_the_loss_falls(recipe: str, tmp_path: Path) -> None:
    few = dict(queries=dict(image=32)) if recipe.startswith("multimodal") else {}
    config = dict(recipe=recipe, directory=tmp_path / "run", steps=60, batch=8, rate=0.01, warmup=5, **few)
    results = run(config)
    steps = losses(tmp_path / "run")
    assert sorted(steps) == [*range(60)]
    each = [steps[i] for i in range(60)]
    assert sum(each[-5:]) < 0.5 * sum(each[:5])
    assert results["loss"] < 0.6 * each[0]
    if "accuracy" in results:
        assert results["accuracy"] == 1


def test_accumulating_is_a_larger_batch(tmp_path: Path) -> None:
    """Equal mean gradients: equal weights after three steps of AdamW, which normalises gradients."""
    for name, size, micro in (("once", 8, 1), ("twice", 4, 2), ("fourfold", 2, 4)):
        run(dict(recipe="sequence_classification", directory=tmp_path / name, batch=size, accumulate=micro, rate=1e-3))
        assert sorted(losses(tmp_path / name)) == [*range(3 * micro)]
    before = small("sequence_classification").state_dict()
    expected = weights(tmp_path / "once")
    assert max((expected[name] - before[name]).abs().max() for name in expected) > 1e-3
    for other in ("twice", "fourfold"):
        for name, value in weights(tmp_path / other).items():
            if not name.endswith("key.bias"):  # softmax is invariant to it: its gradient is rounding error
                torch.testing.assert_close(value, expected[name], rtol=0, atol=5e-5, msg=f"{other} {name}")


@pytest.mark.parametrize("schedule", ["cosine", "constant_then_cosine"])
def test_every_step_has_the_given_rate_and_decay(schedule: str, tmp_path: Path) -> None:
    seen = []

    class Recording(Training):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            seen.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])

    recipe = "sequence_classification"
    options = dict(steps=8, rate=0.01, weight_decay=0.3, warmup=3, schedule=schedule)
    training = Recording(small(recipe), objective_for(recipe), **options)
    fit(training, Data(Toys(recipe), None, batch=2, steps=8), tmp_path, accumulate=2, progress=False)
    rates = [0.01 * rate_at(step, steps=8, warmup=3, schedule=schedule) for step in range(8)]
    assert seen == [[(pytest.approx(rate), 0.3), (pytest.approx(rate), 0.0)] for rate in rates]


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_clipped_by_their_common_norm(clip: float | None, tmp_path: Path) -> None:
    norms = []

    class Recording(Training):
        def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
            super().configure_gradient_clipping(optimizer, *args, **kwargs)
            norms.append(torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None]).norm().item())

    training = Recording(small("sequence_classification"), objective_for("sequence_classification"), steps=2)
    fit(training, Data(Toys("sequence_classification"), None, batch=4, steps=2), tmp_path, clip=clip, progress=False)
    assert len(norms) == 2
    assert (max(norms) <= 1e-3 * 1.001) if clip else (min(norms) > 0.01)


def test_the_average_of_weights_is_saved_and_evaluated(tmp_path: Path) -> None:
    history: list[dict[str, Tensor]] = []

    class Recording(RecordingTraining):
        def on_before_zero_grad(self, optimizer: Any) -> None:
            history.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

    training = Recording(small("image_classification_fourier"), objective_for("image_classification_fourier"), steps=6)
    toys = Toys("image_classification_fourier", 6, seed=1)
    data = Data(Toys("image_classification_fourier"), toys, batch=4, steps=6)
    results = fit(training, data, tmp_path, ema=0.7, validate_every=2, save_every=4, progress=False)
    # Gradients are zeroed before a step: the history holds the initial weights and those after each step but the last.
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    history = [*history[1:], {name: checkpoint["current_model_state"][f"model.{name}"] for name in history[0]}]
    assert len(history) == 6
    average = dict(history[0])
    for step in history[1:]:
        average = {name: 0.7 * average[name] + 0.3 * step[name] for name in average}
    saved = kit.load(tmp_path)
    for name, parameter in saved.named_parameters():
        torch.testing.assert_close(parameter.detach(), average[name], rtol=1e-5, atol=1e-6)
    assert max((average[name] - history[-1][name]).abs().max() for name in average) > 1e-4
    whole = default_collate([toys[i] for i in range(6)])
    with torch.no_grad():
        loss, _ = training.objective(saved(whole["inputs"]), whole["targets"])
    assert results["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_lamb_trains(tmp_path: Path) -> None:
    recipe = "image_classification_fourier"
    run(dict(recipe=recipe, directory=tmp_path / "run", steps=40, batch=8, rate=0.03, optimizer="lamb"))
    each = [*losses(tmp_path / "run").values()]
    assert sum(each[-5:]) < 0.7 * sum(each[:5])


def test_recomputed_activations_give_the_same_step() -> None:
    def step(**options: bool) -> tuple[int, dict[str, Tensor]]:
        training, calls = alone("masked_lm", **options), []
        training.model.encoder.transformer[0].norm.register_forward_hook(lambda *_: calls.append(1))
        training.training_step(batch("masked_lm", [(0, 0), (1, 0)]), 0).backward()
        return len(calls), {name: parameter.grad for name, parameter in training.model.named_parameters()}

    (once, expected), (twice, gradients) = step(), step(checkpoint_activations=True)
    assert (once, twice) == (1, 2), "the backward pass recomputes"
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-6, atol=1e-7, msg=name)


# ---- precision


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_steps_in_mixed_precision(recipe: str) -> None:
    training = alone(recipe)
    with torch.autocast("cpu", torch.bfloat16):
        loss = training.training_step(batch(recipe, [(0, 0), (1, 0)]), 0)
    loss.backward()
    assert loss.isfinite()
    gradients = [parameter.grad for parameter in training.model.parameters() if parameter.grad is not None]
    assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)  # outputs may start at zero, and stop the others


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [("multimodal_autoencoding", "bf16-mixed"), *((recipe, "bf16-true") for recipe in RECIPES)],
)
def test_every_recipe_trains_in_bfloat16(recipe: str, precision: str, tmp_path: Path) -> None:
    results = run(dict(recipe=recipe, directory=tmp_path / "run", precision=precision, rate=0.01, validate_every=2))
    assert all(math.isfinite(value) for value in results.values())
    before = small(recipe).state_dict()
    saved = kit.load(tmp_path / "run")
    state = saved.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert all(value.dtype == before[name].dtype for name, value in state.items())
    changed = sum(not torch.equal(value, before[name]) for name, value in state.items())
    assert changed > 0.9 * len(state)
    with torch.no_grad():
        assert all(value.isfinite().all() for value in saved(default_collate([Toys(recipe)[0]])["inputs"]).values())


def test_positions_are_computed_in_single_precision() -> None:
    """ "bf16-true" makes bfloat16 the default type of a step, in which neighbouring coordinates are equal."""
    positions = {ends: Fourier(bands=64, max_resolution=(1000,), ends=ends) for ends in ("both", "half_open")}
    expected = {ends: block((1000,)) for ends, block in positions.items()}
    torch.set_default_dtype(torch.bfloat16)
    try:
        result = {ends: block((1000,)) for ends, block in positions.items()}
    finally:
        torch.set_default_dtype(torch.float32)
    for ends in positions:
        assert torch.equal(result[ends], expected[ends])


def test_metrics_count_in_single_precision() -> None:
    """256 + 1 is 256 in bfloat16."""
    training = alone("optical_flow").to(torch.bfloat16)
    training.on_validation_start()
    meter = training.meters["epe"]
    for _ in range(300):
        meter.update(torch.ones(1))
    meter.update(torch.zeros(100))
    assert float(meter.compute()) == pytest.approx(0.75)
