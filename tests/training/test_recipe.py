"""``train_recipe``: its task, its sizes and its defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import default_collate

import perceiver_kit as kit
from perceiver_kit.data.task import Task
from perceiver_kit.objectives import MaskedTokens
from perceiver_kit.training import train_recipe
from perceiver_kit.training.recipe import large_outputs

from .toys import ENCODER, QUIET, SIZES, Toys

pytestmark = QUIET


def test_a_recipe_trains_on_a_task_object(tmp_path: Path) -> None:
    data = Toys("masked_lm"), Toys("masked_lm", 6, seed=1)
    task = Task("toys", *data, dict(max_length=32, num_latents=3), "made here")
    sizes = ENCODER | SIZES["masked_lm"]
    del sizes["max_length"]  # the task sets it
    results = train_recipe("masked_lm", task, tmp_path, steps=2, batch=4, parameters=sizes, progress=False)
    assert {*results} == {"loss", "accuracy"}
    model = kit.load(tmp_path)
    assert model.recipe["parameters"]["max_length"] == 32
    assert model.recipe["parameters"]["num_latents"] == 8, "the caller's parameters override the task's"
    text = default_collate([data[1][i] for i in range(6)])
    loss, _ = MaskedTokens()(model(text["inputs"]), text["targets"])
    assert results["loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_large_outputs_have_more_declared_rows_than_a_step_decodes() -> None:
    with torch.device("meta"):
        models = {name: kit.build(name) for name in ("multimodal_autoencoding", "masked_lm", "optical_flow")}
        whole = kit.build("multimodal_autoencoding", preset="tiny", audio_samples=512 * 16)
        over = kit.build("multimodal_autoencoding", preset="tiny", audio_samples=513 * 16, num_frames=1, image_size=16)
    assert large_outputs(models["multimodal_autoencoding"]) == dict(audio=512, image=512)
    assert large_outputs(models["masked_lm"]) == large_outputs(models["optical_flow"]) == {}, "sized by their input"
    assert large_outputs(whole) == dict(image=512)
    assert large_outputs(over) == dict(audio=512)
    encoder = kit.Encoder(3, num_latents=2, latent_dim=8, layers=0)
    assert large_outputs(kit.PerceiverIO(kit.Inputs(x=kit.inputs.Features(3)), encoder)) == {}, "no outputs"


@pytest.mark.parametrize(
    ("steps", "given", "warmup"), [(40, None, 2), (59, None, 2), (19, None, 0), (40, 7, 7), (40, 0, 0)]
)
def test_the_default_warm_up_is_a_twentieth_of_the_steps(
    steps: int, given: int | None, warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("perceiver_kit.training.recipe.fit", lambda training, *_: seen.append(training) or {})
    task = Task("toys", Toys("masked_lm"), Toys("masked_lm"), {}, "made here")
    train_recipe("masked_lm", task, Path(), steps=steps, warmup=given, parameters=ENCODER | SIZES["masked_lm"])
    assert [training.warmup for training in seen] == [warmup]
