"""Sounds and videos of any length: windows, averaged outputs, and sources that are refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import perceiver_kit as kit
from perceiver_kit import processors
from perceiver_kit.data.media import write_audio
from perceiver_kit.errors import InputError

from ..data.making import grey, video
from ..data.test_scenes import HUM
from ..data.test_sounds import tone

pytestmark = pytest.mark.usefixtures("checked")


def built(name: str, **options) -> nn.Module:
    model = kit.build(name, preset="tiny", **options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("seconds", [0.1, 0.256, 2.0, 6.0])
def test_the_outputs_for_the_windows_of_a_sound_are_averaged(seconds: float, tmp_path: Path) -> None:
    model = built("audio_classification", num_labels=3).eval()
    path = tone(tmp_path / "a.flac", 500, seconds, rate=8000)
    answer = kit.predict(model, path)
    windows = model.recipe and processors.recipes.classify_sound(2048, 8000).item(path).inputs["audio"]
    assert windows.shape == (-(-round(seconds * 8000) // 2048), 2048)
    with torch.no_grad():
        wanted = model({"audio": windows})["label"].mean(0)
    torch.testing.assert_close(answer.outputs["label"], wanted, rtol=1e-4, atol=1e-4)
    assert answer.best == f"class {int(wanted.argmax())}"
    assert Image.open(io.BytesIO(answer._repr_png_())).format == "PNG"


def test_files_samples_and_lists_give_the_same_answers(tmp_path: Path) -> None:
    model = built("audio_classification")
    paths = [tone(tmp_path / f"{i}.wav", 300 * i + 100, 0.2 * i + 0.3) for i in range(3)]
    many = kit.predict(model, paths, progress=False)
    assert [answer.source for answer in many] == paths
    for path, answer in zip(paths, many, strict=True):
        torch.testing.assert_close(kit.predict(model, path).outputs["label"], answer.outputs["label"])
    sound = 0.3 * torch.sin(2 * torch.pi * 100 * torch.arange(2400) / 8000)
    torch.testing.assert_close(kit.predict(model, sound).outputs["label"], many[0].outputs["label"], atol=1e-2, rtol=0)


def test_bad_sounds_are_named_and_skipped(tmp_path: Path) -> None:
    model = built("audio_classification")
    good = tone(tmp_path / "good.wav", 440)
    silent = write_audio(tmp_path / "silent.wav", torch.zeros(900), 8000)
    (tmp_path / "empty.ogg").touch()
    for path, message in ((silent, "silent.wav is silent"), (tmp_path / "empty.ogg", "empty.ogg")):
        with pytest.raises(InputError, match=message):
            kit.predict(model, path)
    with pytest.warns(UserWarning, match="skipped") as caught:
        answers = kit.predict(model, [silent, good, tmp_path / "empty.ogg"], on_error="skip", progress=False)
    assert len(caught) == 2 and [answer.source for answer in answers] == [good]
    for source in ("a.txt", torch.zeros(2, 3), torch.zeros(4, dtype=torch.int64), 5):
        with pytest.raises(InputError, match="expected"):
            kit.predict(model, source)


def test_a_video_is_read_with_what_it_has(tmp_path: Path) -> None:
    model = built("video_classification").eval()
    reader = kit.processors.recipes.classify_clip(4, 16, 25.0, 1280).reader
    both = video(tmp_path / "both.mkv", grey(11), sound=HUM)
    dumb = video(tmp_path / "dumb.mkv", grey(11))
    heard = tone(tmp_path / "heard.wav", 440, 0.4)
    assert {n: tuple(x.shape) for n, x in reader.read(both).items()} == {"video": (3, 4, 3, 16, 16), "audio": (3, 1280)}
    assert [*reader.read(dumb)] == ["video"] and [*reader.read(heard)] == ["audio"]
    answers = kit.predict(model, [both, dumb, heard], progress=False)
    for path, answer in zip((both, dumb, heard), answers, strict=True):
        with torch.no_grad():
            wanted = model(reader.read(path))["label"].mean(0)
        torch.testing.assert_close(answer.outputs["label"], wanted, rtol=1e-4, atol=1e-4)
        assert answer.figure() is not None
    with pytest.raises(InputError, match=r"short\.mkv is shorter than a window"):
        kit.predict(model, video(tmp_path / "short.mkv", grey(3)))
    alone = built("video_classification", audio_samples=None)
    assert kit.predict(alone, both).best
    with pytest.raises(InputError, match=r"expected the path of a file that ends in \.mp4"):
        kit.predict(alone, heard)


def test_what_has_no_windows_is_read_with_each() -> None:
    readers = {"sound": processors.SoundWindows(10, 8000), "points": processors.Array()}
    item = processors.Processor(readers).item({"sound": torch.rand(25), "points": [[1.0, 2.0]]})
    assert item.windows and item.inputs["sound"].shape == (3, 10)
    assert item.inputs["points"].tolist() == [[[1.0, 2.0]]] * 3
    readers = {"sound": processors.SoundWindows(10, 8000), "noise": processors.SoundWindows(5, 8000)}
    with pytest.raises(InputError, match=r"as many windows each, got \{'sound': 3, 'noise': 5\}"):
        processors.Processor(readers).item({"sound": torch.rand(25), "noise": torch.rand(25)})
