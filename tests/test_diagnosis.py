"""The diagnosis of a model: known attention, known latents, and gradients equal to those of a backward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import perceiver_kit as kit

from .strategies import points_model, raws, tiny

pytestmark = pytest.mark.usefixtures("checked")


def test_uniform_and_collapsed_models_are_recognised() -> None:
    model = points_model()
    batch = {"points": torch.randn(3, 20, 3)}
    with torch.no_grad():
        model.encoder.cross[0].attention.query.weight.zero_()
        model.encoder.latents.copy_(torch.ones(4, 1) * torch.randn(1, 16))
    found = kit.diagnose(model, batch)
    assert found.attention["encoder.cross.0"] == (pytest.approx(20, rel=1e-4), 20)
    assert found.likeness == pytest.approx(1, abs=1e-4)
    assert found.reads == {}, "one query differs from no other"
    with torch.no_grad():
        model.encoder.cross[0].attention.output.weight.zero_()
    assert kit.diagnose(model, batch).sample_share == pytest.approx(0, abs=1e-6), "the inputs are not read"


def test_distinct_latents_have_full_rank_and_local_queries_differ() -> None:
    model = kit.build("multimodal_autoencoding", preset="quick", anchored=False)
    raw = {"image": torch.randn(2, 4, 3, 32, 32), "audio": torch.randn(2, 1280)}
    before = kit.diagnose(model, raw)
    after = kit.diagnose(kit.anchor(model, raw), raw)
    assert after.attention["encoder.cross.0"][0] < 0.3 * before.attention["encoder.cross.0"][0]
    assert after.reads["decoder.cross"] > 2 * before.reads["decoder.cross"]
    assert after.likeness < before.likeness
    assert 0 < after.rank < 84


def test_gradients_are_those_of_the_objective_and_the_model_is_unchanged() -> None:
    model = tiny("sequence_classification", train=True)  # shared with other tests
    model.zero_grad(set_to_none=True)
    text, label = torch.randint(6, 262, (4, 30)), torch.tensor([0, 1, 1, 0])
    batch = {"inputs": {"text": text}, "targets": {"label": label}, "mask": {"text": torch.rand(4, 30) < 0.7}}
    objective = kit.objectives.Classification()
    found = kit.diagnose(model, batch, objective=objective)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    model.eval()
    objective(model(batch["inputs"], mask=batch["mask"]), batch["targets"])[0].backward()
    for stage in ("encoder.cross", "encoder.latents", "inputs", "outputs"):
        norms = [p.grad.square().sum() for name, p in model.named_parameters() if name.startswith(stage)]
        assert found.gradients[stage] == pytest.approx(float(sum(norms)) ** 0.5, rel=1e-4)
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("recipe", ["optical_flow", "masked_lm", "image_classification_conv"])
def test_recipes_are_diagnosed_printed_and_drawn(recipe: str, tmp_path: Path) -> None:
    model = tiny(recipe, train=True)
    found = kit.diagnose(model, raws(model, 2))
    assert {"encoder.cross.0", "decoder.cross"} <= {*found.attention}
    for name, (spread, rows) in found.attention.items():
        assert 1 <= spread <= rows * 1.0001, name
        assert name in str(found)
    figure = found.draw(tmp_path / "found.png")
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
    assert [len(axes.patches) for axes in figure.axes] == [len(found.attention), len(found.gradients)]


def test_bad_batches_are_refused() -> None:
    model = points_model()
    with pytest.raises(kit.InputError, match="at least two samples"):
        kit.diagnose(model, {"points": torch.randn(1, 20, 3)})
    with pytest.raises(kit.InputError, match="objective needs a batch with targets"):
        kit.diagnose(model, {"points": torch.randn(2, 20, 3)}, objective=kit.objectives.Classification())
