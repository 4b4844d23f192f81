"""``perceiver-kit predict``: train on one's own files, then answer for new ones."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import perceiver_kit as kit
from perceiver_kit.cli import main
from perceiver_kit.data.tasks import open_task

from .data.making import grey, picture, texts, video

pytest.importorskip("pytorch_lightning")
from perceiver_kit.training import train_recipe


def shade(path: Path, light: int) -> Path:
    """A picture of one grey with noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(light).integers(0, 30, (28, 28, 3))
    Image.fromarray((light + noise).astype(np.uint8)).save(path)
    return path


def printed(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.filterwarnings("ignore")  # Lightning's
def test_a_model_trained_on_a_folder_answers_with_its_names(tmp_path: Path, capsys) -> None:
    for number in range(6):
        shade(tmp_path / "data" / "dark" / f"{number}.png", 10 + number)
        shade(tmp_path / "data" / "light" / f"{number}.png", 200 + number)
    run = str(tmp_path / "run")
    command = ["train", "image_classification_conv", "--data", str(tmp_path / "data"), "--out", run]
    assert main([*command, "--steps", "15", "--batch", "8", "--rate", "1e-3"]) == 0
    capsys.readouterr()
    new = [shade(tmp_path / "new" / f"{light}.png", light) for light in (30, 190)]
    assert main(["predict", run, str(new[0]), str(new[1]), "--json"]) == 0
    rows = printed(capsys)
    assert [row["source"] for row in rows] == [str(path) for path in new]
    assert [row["best"] for row in rows] == ["dark", "light"]
    assert sorted(rows[0]["scores"]) == ["dark", "light"]
    assert main(["predict", run, str(tmp_path / "new"), str(new[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(new[1]), str(new[0]), str(new[0])]  # as given
    assert lines[1].startswith(f"{new[0]}: dark ")


@pytest.mark.filterwarnings("ignore")
def test_training_keeps_the_size_of_the_pictures_that_it_read(tmp_path: Path) -> None:
    """A recipe that reads any size does not have it among its parameters."""
    for name in ("dark", "light"):
        for number in range(2):
            picture(tmp_path / "data" / name / f"{number}.png", number)
    task = open_task(tmp_path / "data", recipe="image_classification_fourier", preset="tiny", image_size=(20, 12))
    options = dict(parameters=dict(num_latents=4, layers=1, blocks=1), steps=1, batch=2, progress=False)
    train_recipe("image_classification_fourier", task, tmp_path / "run", **options)
    model = kit.load(tmp_path / "run")
    read = model.processor.readers["image"]
    assert read.size == (20, 12)
    path = next((tmp_path / "data" / "dark").iterdir())
    items = [task.train[i]["inputs"]["image"] for i in range(len(task.train))]
    assert any(torch.allclose(read.read(path), item, atol=1e-6) for item in items)


def saved(name: str, directory: Path, **options) -> str:
    model = kit.build(name, preset="tiny", num_latents=4, layers=1, **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return str(kit.save(model, directory))


def test_bad_files_are_named_and_the_others_answered(tmp_path: Path, capsys) -> None:
    model = saved("image_classification_learned", tmp_path / "model")
    good = [picture(tmp_path / f"{i}.png", i) for i in range(2)]
    (tmp_path / "bad.png").write_text("no picture")
    sources = [str(path) for path in (good[0], tmp_path / "bad.png", tmp_path / "gone.png", good[1])]
    assert main(["predict", model, *sources, "--out", str(tmp_path / "out")]) == 1
    seen = capsys.readouterr()
    assert [line.split(": ")[0] for line in seen.out.splitlines()] == [sources[0], sources[3]]
    assert [sources[1] in line or sources[2] in line for line in seen.err.splitlines()] == [True, True]
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == [sources[0], sources[3]]
    assert main(["predict", model, sources[1]]) == 2


def test_texts_are_words_of_the_command_or_files(tmp_path: Path, capsys) -> None:
    model = saved("masked_lm", tmp_path / "model", max_length=40)
    path = next(texts(tmp_path / "texts", "a").rglob("*.txt"))
    path.write_text("from a [MASK]")
    assert main(["predict", model, "a [MASK]", str(path), "no mask", "--json"]) == 1
    seen = capsys.readouterr()
    assert [json.loads(line)["source"] for line in seen.out.splitlines()] == ["a [MASK]", str(path)]
    assert "no mask: expected a text with [MASK]" in seen.err


def test_flow_and_clips_are_written_as_files(tmp_path: Path, capsys) -> None:
    frames = [str(picture(tmp_path / f"{i}.png", i)) for i in range(4)]
    flow = saved("optical_flow", tmp_path / "flow")
    for _ in range(2):  # the second call replaces nothing
        assert main(["predict", flow, *frames, "--out", str(tmp_path / "out")]) == 0
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found >= {"0_flow.png", "0_flow.npy", "2_flow.png", "0_2_flow.png", "answers.jsonl"}
    capsys.readouterr()
    assert main(["predict", flow, *frames[:3]]) == 2
    assert "expected 2 files for each answer, got 3" in capsys.readouterr().err
    clip = saved("multimodal_autoencoding", tmp_path / "clip")
    film = video(tmp_path / "film.mkv", grey(5))
    assert main(["predict", clip, str(film), "--out", str(tmp_path / "out"), "--json"]) == 0
    (row,) = printed(capsys)
    assert [Path(path).name for path in row["files"]] == ["film_decoded.mp4", "film_decoded.wav"]


def test_version_and_unknown_devices(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"perceiver-kit {version('perceiver-kit')}"
    assert main(["predict", str(tmp_path), "a", "--device", "toaster"]) == 2
    assert "--device: " in capsys.readouterr().err
