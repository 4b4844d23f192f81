"""Sound and video written and read again; files that cannot be read or written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from perceiver_kit.data import media
from perceiver_kit.data.media import load_audio, write_audio, write_video
from perceiver_kit.data.video import load_clip
from perceiver_kit.errors import InputError

pytestmark = pytest.mark.usefixtures("checked")

pytest.importorskip("av")
RATE = 16_000


def tone(seconds: float = 0.5) -> torch.Tensor:
    return 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(int(RATE * seconds)) / RATE)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mkv", ".mp4"])
def test_sound_is_read_as_it_was_written(suffix: str, tmp_path: Path) -> None:
    file = write_audio(tmp_path / f"sound{suffix}", tone(), RATE)
    found = load_audio(file, rate=RATE)
    if suffix == ".mp4":  # lossy, with a little silence at the end
        correlation = np.corrcoef(found[: len(tone())], tone()[: len(found)])[0, 1]
        assert correlation > 0.99
        return
    assert found.shape == tone().shape
    assert (found - tone()).abs().max() <= 0.5 / 32768 + 1e-6
    assert torch.equal(load_audio(file, rate=RATE, seconds=0.1), found[: RATE // 10])
    assert abs(len(load_audio(file, rate=RATE // 2)) - len(found) // 2) <= 32


def test_video_is_read_as_it_was_written(tmp_path: Path) -> None:
    frames = torch.randint(256, (6, 3, 16, 24)).float() / 127.5 - 1
    clip = load_clip(write_video(tmp_path / "a.mkv", frames, 25, tone(6 / 25), RATE), size=(16, 24), rate=RATE)
    assert (clip.frames - frames).abs().max() < 1e-5, "FFV1 is lossless"
    assert clip.fps == 25
    assert (clip.audio - tone(6 / 25)).abs().max() <= 1 / 32768
    smooth = torch.linspace(-1, 1, 24).expand(6, 3, 16, 24)
    lossy = load_clip(write_video(tmp_path / "a.mp4", smooth, 12.5), size=(16, 24)).frames
    assert (lossy - smooth).abs().mean() < 0.1


def test_a_failed_write_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_audio(tmp_path / "a.wav", tone(), RATE)
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(media, "write_atomically", fail)
    with pytest.raises(InputError, match=r"a\.wav cannot be written"):
        write_audio(file, -tone(), RATE)
    assert file.read_bytes() == before
    assert [*tmp_path.iterdir()] == [file]


def test_wrong_files_and_values_are_refused(tmp_path: Path) -> None:
    frames = torch.zeros(2, 3, 4, 5)
    with pytest.raises(InputError, match=r"the suffix '\.mp5' is unknown; did you mean '\.mp4'"):
        write_video(tmp_path / "a.mp5", frames, 25)
    with pytest.raises(InputError, match="is unknown"):
        write_video(tmp_path / "a.wav", frames, 25)
    with pytest.raises(InputError, match=r"an even height and width, got \(2, 3, 4, 5\); use .mkv"):
        write_video(tmp_path / "a.mp4", frames, 25)
    with pytest.raises(InputError, match="fps must be above 0"):
        write_video(tmp_path / "a.mkv", frames, 0)
    with pytest.raises(InputError, match="audio must be finite"):
        write_audio(tmp_path / "a.wav", torch.full((9,), torch.nan), RATE)
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(InputError, match=r"text\.wav cannot be read"):
        load_audio(tmp_path / "text.wav")
    with pytest.raises(InputError, match="no such file"):
        load_audio(tmp_path / "none.wav")
    with pytest.raises(InputError, match="has no sound"):
        load_audio(write_video(tmp_path / "silent.mkv", frames, 25))
