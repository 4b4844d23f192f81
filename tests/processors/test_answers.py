"""Answers of each task: best, scores, outputs, pictures and files."""

from __future__ import annotations

import io
import json
import re
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from einops import repeat
from PIL import Image
from torch import nn

import perceiver_kit as kit
from perceiver_kit import processors
from perceiver_kit.data.folders import videos
from perceiver_kit.data.media import load_audio
from perceiver_kit.data.tasks import open_task
from perceiver_kit.data.video import load_clip
from perceiver_kit.declarations import processor_of

from ..data.making import grey, picture, texts, video

pytestmark = pytest.mark.usefixtures("checked")


def built(name: str, **options) -> nn.Module:
    model = kit.build(name, preset="tiny", **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_flow_is_in_pixels_with_colours_and_numbers(tmp_path: Path) -> None:
    model = built("optical_flow", num_latents=4, layers=1)
    first, second = (picture(tmp_path / f"{i}.png", i, size=(40, 50)) for i in range(2))
    answer = kit.predict(model, (first, second))
    assert answer.best.shape == (2, 40, 50)
    frames = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in (first, second)])
    expected = model.eval()(frames.permute(0, 3, 1, 2)[None] / 127.5 - 1)["flow"][0]
    torch.testing.assert_close(answer.best, expected)
    assert "flow of 40 × 50 pixels, mean" in str(answer)
    colours, numbers = answer.write(tmp_path / "out")
    shown = torch.from_numpy(np.array(Image.open(colours))).permute(2, 0, 1) / 255
    torch.testing.assert_close(shown, kit.plots.flow_to_rgb(answer.best), atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(torch.from_numpy(np.load(numbers)).permute(2, 0, 1), answer.best)
    assert [path.name for path in answer.write(tmp_path / "out")] == ["out_2_flow.png", "out_2_flow.npy"]
    assert json.loads(json.dumps(answer.json()))["mean_pixels"] == pytest.approx(float(answer.best.norm(dim=0).mean()))


def test_a_folder_of_frames_gives_the_flow_of_each_pair(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i, size=(20, 20)) for i in range(3)]
    answers = kit.predict(built("optical_flow", num_latents=4, layers=1), tmp_path, progress=False)
    assert [answer.source for answer in answers] == [(paths[0], paths[1]), (paths[1], paths[2])]


def test_a_clip_is_decoded_with_its_class(tmp_path: Path) -> None:
    model = built("multimodal_autoencoding", num_latents=8, layers=1)
    path = video(tmp_path / "clip.mkv", grey(8, step=20), sound=np.sin(np.arange(3000) / 5)[:, None])
    answer = kit.predict(model, path)
    assert answer.scores == kit.predict(model, {"clip": path}).scores
    inputs = processors.recipes.decode_clip(4, 32).item(path).inputs
    assert {name: tuple(x.shape) for name, x in inputs.items()} == {"image": (4, 3, 32, 32), "audio": (7680,)}
    expected = model.eval()({name: x[None] for name, x in inputs.items()})
    for name, output in expected.items():
        torch.testing.assert_close(answer.outputs[name], output[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kit.predict(model, dict(inputs)).outputs, answer.outputs)
    assert answer.best == f"class {int(expected['label'].argmax())}"
    clip, sound = answer.write(tmp_path / "out")
    with av.open(str(clip)) as container:
        assert len([*container.decode(video=0)]) == 4
    with wave.open(str(sound)) as file:
        assert (file.getframerate(), file.getnframes()) == (48_000, 7680)
    assert "<video" in answer._repr_html_()


def test_a_gain_of_the_sound_is_read_and_taken_back(tmp_path: Path) -> None:
    """By the loader of the data, the reader and the answer."""
    path = video(tmp_path / "clip.mkv", grey(40, step=5), sound=np.sin(np.arange(96_000) / 5)[:, None] / 50)
    plain, louder = (videos(path, num_frames=4, image_size=32, parts=1, gain=gain) for gain in (1.0, 20.0))
    for part in ("inputs", "targets"):
        torch.testing.assert_close(louder.train[0][part]["audio"], 20 * plain.train[0][part]["audio"])
    processor = processors.recipes.decode_clip(4, 32, gain=20.0)
    expected = processors.recipes.decode_clip(4, 32).item(path).inputs["audio"]
    read = processor.item(path).inputs
    torch.testing.assert_close(read["audio"], 20 * expected)
    answer = processors.ClipAnswer(path, "a", None, dict(read), clip=processor.reader)  # type: ignore[arg-type]
    torch.testing.assert_close(answer.sound, expected)
    task = open_task(path, recipe="multimodal_autoencoding", preset="tiny", gain=20.0)
    assert task.processor.reader.gain == 20.0


@pytest.mark.parametrize(("size", "shown"), [((11, 16), (154, 224)), ((33, 125), (32, 124))])
@pytest.mark.parametrize("signed", [True, False])
def test_decoded_clips_are_read_again(
    size: tuple[int, int], shown: tuple[int, int], signed: bool, tmp_path: Path
) -> None:
    levels = torch.linspace(0, 1, 6)
    frames = repeat(levels * 2 - 1 if signed else levels, "t -> t c h w", c=3, h=size[0], w=size[1]).clone()
    sound = 0.5 * torch.sin(torch.arange(6 * 1920) * 2 * torch.pi * 440 / 48_000)
    sound[:2] = torch.tensor([torch.nan, 3])
    clip = processors.VideoClip(6, size, signed=signed)
    answer = processors.ClipAnswer("clip", "a", None, {"image": frames, "audio": sound}, clip=clip)
    film, wav = answer.write(tmp_path / "out")
    with av.open(str(film)) as container:
        assert (container.streams.video[0].height, container.streams.video[0].width) == shown
    found = load_clip(film, size=32, fps=25)
    torch.testing.assert_close((found.frames.mean((1, 2, 3)) + 1) / 2, levels, atol=0.02, rtol=0)
    assert int(torch.fft.rfft(found.audio).abs().argmax()) == pytest.approx(440 * 6 / 25, abs=1)
    expected = torch.cat([torch.tensor([0, 32767 / 32768]), sound[2:]])
    torch.testing.assert_close(load_audio(wav, rate=48_000), expected, atol=1e-4, rtol=0)
    frames[0, 0, 0, 0] = torch.nan
    assert answer.video()[4:8] == b"ftyp"


@pytest.mark.parametrize(
    ("problem", "logits", "best"),
    [
        (None, [0.0, 2.0, 1.0], "b"),
        ("multi_label_classification", [-1.0, 2.0, 1.0], ("b", "c")),
        ("regression", [-1.0, 2.0, 1.0], {"a": -1.0, "b": 2.0, "c": 1.0}),
        (None, [3.5], 3.5),
    ],
)
def test_classes_labels_and_values(problem: str | None, logits: list[float], best: object) -> None:
    block = SimpleNamespace(problem_type=problem)
    labels = dict(label=("a", "b", "c")[: len(logits)])
    model = SimpleNamespace(labels=labels, outputs=SimpleNamespace(blocks=dict(label=block)))
    found, scores = processors.Classes().scores({"label": torch.tensor(logits)}, model)
    assert found == best
    if problem is None and len(logits) > 1:
        assert [*scores] == ["b", "c", "a"]
        assert sum(scores.values()) == pytest.approx(1)


def test_masked_bytes_are_marked_in_a_notebook() -> None:
    model = built("masked_lm", num_latents=4, layers=1)
    answer = kit.predict(model, "<a>[MASK][MASK] b")
    shown = answer._repr_html_()
    assert shown.startswith("<div><p>&lt;a&gt;<mark>")
    assert len(answer.scores) == 2
    assert len(answer.json()["scores"][0]) == 5


def test_answers_draw_themselves_until_the_source_is_gone(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    answer = kit.predict(built("image_classification_learned", num_latents=4, layers=1), path)
    assert len(answer.figure().axes) == 2
    assert Image.open(io.BytesIO(answer._repr_png_())).format == "PNG"
    path.unlink()
    assert len(answer.figure().axes) == 1
    assert "<img" in answer._repr_html_()


def test_boxes_are_drawn_on_the_source_in_its_own_proportions(tmp_path: Path) -> None:
    model = built("object_detection")
    path = picture(tmp_path / "a.png", size=(60, 90))
    reader = kit.Processor(processor_of(model).readers, processors.FoundObjects(threshold=0.0))
    answer: Any = kit.predict(model, path, processor=reader)
    assert answer.picture().shape == (3, 60, 90)
    assert kit.predict(model, {"image": path}, processor=reader).picture().shape == (3, 60, 90)
    assert kit.predict(model, picture(tmp_path / "b.png", size=(20, 2048))).picture().shape == (3, 10, 1024)
    axes = answer.figure().axes[0]
    assert len(axes.patches) == len(answer.best) == 8
    assert all(label.get_va() == ("bottom" if label.get_position()[1] > 5 else "top") for label in axes.texts)
    path.unlink()
    assert answer.figure() is None and answer.write(tmp_path / "out") == []


def test_the_page_has_a_row_for_each_recipe() -> None:
    text = (Path(__file__).parents[2] / "docs" / "predicting.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE))
    for name in kit.list():
        outputs = kit.build(name, preset="tiny").outputs.blocks
        assert all(f"{output} (" in rows[name].split("|")[-1] for output in outputs), name


def test_new_texts_and_videos_are_read_as_in_training(tmp_path: Path) -> None:
    folder = texts(tmp_path / "texts", "a", "b")
    task = open_task(folder, recipe="sequence_classification", preset="tiny", max_length=50)
    sample = task.train[0]
    ids = sample["inputs"]["text"][sample["mask"]["text"]]
    assert any(torch.equal(task.processor.item(path).inputs["text"], ids) for path in folder.rglob("*.txt"))

    sound = np.sin(np.arange(8000) / 5)[:, None]
    path = video(tmp_path / "a.mkv", grey(24, step=9), sound=sound)
    task = open_task(path, recipe="multimodal_autoencoding", preset="tiny")
    sample, read = task.train[0]["inputs"], task.processor.item(path).inputs
    torch.testing.assert_close(read["image"], sample["image"])
    torch.testing.assert_close(read["audio"], sample["audio"])
