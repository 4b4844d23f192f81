"""The models of the zoo: their cards, their sizes, and that each holds its card's figures and predicts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import perceiver_kit as kit
from perceiver_kit.cli import main
from perceiver_kit.declarations import processor_of
from perceiver_kit.hub.zoo import card, card_text, place
from perceiver_kit.registry import find

ROOT = Path(__file__).parent.parent
MODELS = kit.list("zoo")
FIELDS = {
    *("name", "title", "recipe", "preset", "parameters", "figures", "data", "options", "held_out", "source", "licence"),
    *("command", "seed", "steps", "batch", "processor_seconds", "reads", "example", "limits"),
}
MAX_BYTES, MAX_TOTAL = 3_000_000, 20_000_000


def test_the_zoo_is_small() -> None:
    sizes = {name: sum(file.stat().st_size for file in place(f"zoo:{name}").iterdir()) for name in MODELS}
    assert max(sizes.values()) <= MAX_BYTES
    assert sum(sizes.values()) <= MAX_TOTAL
    for name in MODELS:
        assert {file.name for file in place(f"zoo:{name}").iterdir()} == {
            "card.json",
            "config.json",
            "model.safetensors",
        }


@pytest.mark.parametrize("name", MODELS)
def test_a_card_says_everything(name: str) -> None:
    content = card(f"zoo:{name}")
    assert {*content} == FIELDS
    assert content["name"] == name
    assert content["data"] in find("recipes", content["recipe"]).data
    assert f"zoo:{name}" in content["example"] and content["example"] in card_text(content)
    for figure in content["figures"]:
        assert figure["baselines"]
        assert f"{figure['ours']:.3f}" in card_text(content)
    assert all(content[field] for field in FIELDS - {"seed", "options"})


@pytest.mark.parametrize("name", MODELS)
def test_a_model_holds_the_figures_of_its_card(name: str) -> None:
    zoo = pytest.importorskip("benchmarks.zoo", reason="needs pytorch-lightning")
    model: Any = kit.load(f"zoo:{name}")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    content = card(f"zoo:{name}")
    assert content["parameters"] == sum(p.numel() for p in model.parameters())
    assert processor_of(model) is not None
    held_out = content["held_out"]
    task = zoo.share(model, content["data"], content["options"], held_out.pop("samples"))
    found = kit.evaluate(model, task, batch=held_out.pop("batch"), progress=False)
    assert found == pytest.approx(held_out, rel=2e-3, abs=2e-3)


def test_the_wheel_carries_them() -> None:
    """Hatchling packs what git does not ignore."""
    pathspec = pytest.importorskip("pathspec")
    ignored = pathspec.GitIgnoreSpec.from_lines((ROOT / ".gitignore").read_text().splitlines())
    files = [file.relative_to(ROOT) for name in MODELS for file in place(f"zoo:{name}").iterdir()]
    assert not [file for file in files if ignored.match_file(file)]
    assert ignored.match_file("model.safetensors")


def test_the_front_picture_is_of_these_models() -> None:
    """PNG keeps what docs/gallery.py wrote: each model that it shows, with the digest of its weights."""
    with Image.open(ROOT / "docs" / "assets" / "zoo.png") as picture:
        shown = dict(pair.split(":") for pair in picture.info["Models"].split())
    assert {*shown} == {"clip", "flow", "bible_masks", "bible_next"} & {*MODELS}
    for name, digest in shown.items():
        weights = (place(f"zoo:{name}") / "model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest().startswith(digest), f"{name} has changed: python docs/gallery.py"


def test_the_16_bits_are_read_as_float32_and_the_file_stays_strict(tmp_path: Path) -> None:
    name = MODELS[0]
    model: Any = kit.load(f"zoo:{name}")
    stored: Any = kit.load(place(f"zoo:{name}"))
    assert {p.dtype for p in stored.parameters()} == {torch.float16}
    for ours, theirs in zip(model.parameters(), stored.parameters(), strict=True):
        assert torch.equal(ours, theirs.float())
    weights = (place(f"zoo:{name}") / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-2])
    with pytest.raises(kit.CheckpointError):
        kit.load(tmp_path)


def test_names_are_listed_and_a_typing_error_gets_the_nearest() -> None:
    assert "clip" in MODELS
    assert sorted(MODELS) == MODELS
    with pytest.raises(kit.UnknownName, match="no model of the zoo 'clpi'; did you mean 'clip'"):
        kit.load("zoo:clpi")
    with pytest.raises(kit.AssemblyError, match=r"kit\.save"):
        kit.register("zoo")


def test_the_command_line_takes_models_of_the_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "zoo"]) == 0
    assert capsys.readouterr().out.split() == MODELS
    assert main(["describe", "zoo:clip"]) == 0
    assert card("zoo:clip")["limits"] in capsys.readouterr().out
    assert main(["convert", "zoo:clip", str(tmp_path / "converted")]) == 2  # a preset that has no counterpart there
    assert main(["predict", "zoo:clpi", "film.mp4"]) == 2
    assert "did you mean 'clip'" in capsys.readouterr().err
    points = tmp_path / "points.csv"
    points.write_text("\n".join(",".join(f"{x:.3f}" for x in row) for row in torch.randn(200, 3).tolist()))
    assert main(["predict", "zoo:shapes", str(points), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"] in kit.load("zoo:shapes").labels["label"]


@pytest.mark.parametrize("recipe", ["masked_lm", "token_classification", "question_answering", "multitask_text"])
def test_recipes_on_text_take_a_smaller_table(recipe: str) -> None:
    model: Any = kit.build(recipe, preset="quick", buckets=100)
    assert model.inputs.blocks["text"].table.weight.shape[0] == 100


def test_a_loaded_model_takes_another_number_of_classes() -> None:
    with pytest.warns(UserWarning, match="new"):
        model: Any = kit.load("zoo:shapes", num_labels=3)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
