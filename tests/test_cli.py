"""The command line: what each command prints and writes, and mistakes as one line with exit code 2."""

from __future__ import annotations

import json

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.cli import main


def test_list_names_recipes_and_the_blocks_of_a_kind(capsys):
    assert main(["list"]) == 0
    assert capsys.readouterr().out.split() == kit.list()
    assert main(["list", "inputs"]) == 0
    assert capsys.readouterr().out.split() == kit.list("inputs")


@pytest.mark.parametrize("recipe", kit.list())
def test_describe_shows_a_recipe_with_its_sources(recipe, capsys):
    assert main(["describe", recipe, "--preset", "tiny"]) == 0
    assert capsys.readouterr().out.strip() == kit.describe(recipe, preset="tiny").strip()


def test_draw_writes_the_picture_that_it_names(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["draw", "optical_flow"]) == 0
    assert capsys.readouterr().out.strip() == "optical_flow.svg"
    with torch.device("meta"):
        assert (tmp_path / "optical_flow.svg").read_text() == kit.draw(kit.build("optical_flow")).svg
    assert main(["draw", "masked_lm", "--preset", "tiny", "--out", "a.svg"]) == 0
    assert "preset tiny" in (tmp_path / "a.svg").read_text()


def test_convert_goes_there_and_back_with_equal_tensors(tmp_path, capsys):
    model = kit.build("masked_lm", preset="tiny", decoder_qk_channels=256)
    kit.save(model, tmp_path / "ours")
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "theirs")]) == 0
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["model_type"] == "perceiver"
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "back")]) == 0
    assert capsys.readouterr().out.count("format") == 2
    back = kit.load(tmp_path / "back").state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in model.state_dict().items())


def test_convert_overwrites_nothing(tmp_path, capsys):
    kit.save(kit.build("masked_lm", preset="tiny"), tmp_path / "ours")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    for destination in ("there", "there/file"):
        assert main(["convert", str(tmp_path / "ours"), str(tmp_path / destination)]) == 2
        assert "is not an empty directory" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # Lightning's, about a run of a few steps
def test_train_leaves_a_model_its_metrics_and_their_picture(tmp_path, capsys, caplog):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(20):
        (texts / f"{number}.txt").write_text("In the beginning was the word. " * 20)
    run = tmp_path / "run"
    arguments = ["train", "masked_lm", "--data", str(texts), "--out", str(run), "--batch", "4", "--save-every", "2"]
    caplog.set_level("INFO")
    assert main([*arguments, "--steps", "3", "--set", "max_length=64", "--set", "num_latents=4"]) == 0
    assert "loss" in capsys.readouterr().out
    assert caplog.messages[0] == "texts: 174 samples to train on, 19 held out\nsizes: max_length=64"
    assert not [line for line in caplog.messages if "litlogger" in line or "litmodels" in line]
    assert kit.load(run).recipe["parameters"]["num_latents"] == 4
    assert {"config.json", "model.safetensors", "metrics.csv", "curves.png"} <= {file.name for file in run.iterdir()}
    assert kit.load(run)(torch.zeros(1, 9, dtype=torch.int64))["text"].shape == (1, 9, 262)
    assert main([*arguments, "--steps", "3"]) == 2
    assert "resume it, or choose another directory" in capsys.readouterr().err


def test_describe_shows_a_saved_model_with_its_classes(tmp_path, capsys):
    model = kit.build("image_classification_conv", preset="tiny", labels=["cat", "dog"])
    kit.save(model, tmp_path / "pets")
    assert main(["describe", str(tmp_path / "pets")]) == 0
    assert "classes  label      cat, dog" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "masked_ml"], "did you mean 'masked_lm'"),
        (["describe", "masked_lm", "--preset", "tinny"], "did you mean 'tiny'"),
        (["draw", "masked_ml"], "did you mean 'masked_lm'"),
        (["draw", "masked_lm", "--preset", "tiny", "--out", "no/folder.svg"], "no/folder.svg cannot be written"),
        (["list", "inptus"], "did you mean 'inputs'"),
        (["convert", "nowhere", "out"], "neither a directory nor the id"),
        (["predict", "digits", "a.png"], "did you mean 'zoo:digits'"),
        (["train", "masked_lm", "--data", "nowhere"], "no data and no path 'nowhere'"),
        (["train", "masked_ml", "--data", "bible"], "did you mean 'masked_lm'"),
        (["train", "masked_lm", "--data", "mnist"], "not for masked_lm. It reads: a path, bible"),
        (["train", "spec.json", "--data", "bible", "--num-labels", "9"], "--set and --num-labels are for a recipe"),
        (["train", "masked_lm", "--data", "bible", "--set", "max_lenght=9"], "did you mean 'max_length'"),
        (["demo", "--clip", "nowhere.mp4"], "nowhere.mp4"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert error.splitlines()[-1].startswith("perceiver-kit: ")
    assert not [*tmp_path.glob("runs*")]


def test_a_parameter_without_a_value_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["train", "masked_lm", "--data", "bible", "--set", "max_length"])
    assert "expected NAME=VALUE, got 'max_length'" in capsys.readouterr().err


def test_stopping_a_command_is_one_line_and_exit_code_130(capsys, monkeypatch):
    def stopped(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("perceiver_kit.cli._list", stopped)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "perceiver-kit: stopped\n"
