"""Folders of sounds: classes or tables of labels, windows, and files that are silent, empty, damaged or short."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.data import soundfont
from perceiver_kit.data.labels import labelled_files, read_table
from perceiver_kit.data.media import load_audio, window_starts, write_audio
from perceiver_kit.data.sounds import PROMPTS, Sounds, read_sound
from perceiver_kit.data.tasks import open_task
from perceiver_kit.errors import InputError, MissingPackage
from perceiver_kit.training.recipe import train_recipe

pytestmark = pytest.mark.usefixtures("checked")

RATE = 8000


def tone(path: Path, hertz: float, seconds: float = 0.5, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_audio(path, 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate), rate)


def tones(root: Path, each: int = 4, **options: float) -> Path:
    for name, hertz in (("high", 2000), ("low", 300)):
        for number in range(each):
            tone(root / name / f"{number}.wav", hertz + 20 * number, **options)
    return root


def test_windows_cover_a_sound_and_padding_is_zero() -> None:
    for length in range(1, 40):
        starts = window_starts(length, 7)
        assert {index for start in starts for index in range(start, start + 7)} >= {*range(length)}
        assert starts[-1] + 7 == max(length, 7)
    data = Sounds([torch.arange(1, 11).short(), torch.ones(3).short()], torch.tensor([0, 1]), samples=4, cover=True)
    shown = [(data[i]["inputs"]["audio"] * 32768).tolist() for i in range(len(data))]
    assert shown == [[1, 2, 3, 4], [5, 6, 7, 8], [7, 8, 9, 10], [1, 1, 1, 0]]
    assert [int(data[i]["targets"]["label"]) for i in range(4)] == [0, 0, 0, 1]


def test_training_windows_lie_anywhere_at_another_loudness() -> None:
    data = Sounds([torch.arange(1, 1001).short()], torch.tensor([0]), samples=10)
    parts = [data[0, step]["inputs"]["audio"] for step in range(60)]
    ratios = torch.stack([part[-1] / part[0] for part in parts])  # the same for any loudness
    first = 9 / (ratios - 1)
    torch.testing.assert_close(first, first.round(), rtol=1e-2, atol=0.3)
    assert first.min() < 200 and first.max() > 800
    gains = torch.stack([part[0] * 32768 for part in parts]) / first
    assert 0.24 < gains.min() < 0.5 and 2 < gains.max() < 4.1


def test_a_folder_of_sounds_of_any_rate_by_class(tmp_path: Path) -> None:
    root = tones(tmp_path / "tones")
    tone(root / "low" / "other_rate.flac", 300, rate=22_050)
    task = open_task(root, recipe="audio_classification", preset="tiny")
    assert task.classes == ("high", "low") and task.overrides["num_labels"] == 2
    assert len(task.train) + len(task.held_out) // 2 == 9  # a held-out file has two windows of 0.256 s
    sample = task.train[0, 1]
    assert sample["inputs"]["audio"].shape == (2048,)
    peaks = [int(torch.fft.rfft(task.train[i]["inputs"]["audio"]).abs().argmax()) * RATE / 2048 for i in range(7)]
    labels = [int(task.train[i]["targets"]["label"]) for i in range(7)]
    assert [peak < 1000 for peak in peaks] == [label == 1 for label in labels]


def test_silent_empty_and_damaged_files_are_skipped_by_name_and_short_ones_named(tmp_path: Path) -> None:
    root = tones(tmp_path / "tones")
    write_audio(root / "low" / "silent.wav", torch.zeros(4000), RATE)
    (root / "low" / "empty.wav").touch()
    (root / "high" / "damaged.flac").write_bytes(b"fLaC" + bytes(range(60)))
    tone(root / "high" / "short.wav", 2000, seconds=0.1)
    with pytest.warns(UserWarning, match="skipped|padded") as caught:
        task = open_task(root, recipe="audio_classification", preset="tiny")
    skipped, short = (str(warning.message) for warning in caught)
    assert "skipped 3 of 12 files" in skipped and "silent.wav is silent: all of its 4000 samples are zero" in skipped
    assert all(name in skipped for name in ("empty.wav", "damaged.flac"))
    assert short.endswith("padded sounds shorter than a window of 0.256 s: high/short.wav")
    assert len(task.train) + len(task.held_out) // 2 == 9
    for path in (root / "high").iterdir():
        write_audio(path.with_suffix(".wav"), torch.zeros(100), RATE)
    refused = pytest.raises(InputError, match=r"class 'high' of .* has 0 readable files")
    with pytest.warns(UserWarning, match="skipped"), refused:
        open_task(root, recipe="audio_classification", preset="tiny")


@pytest.mark.filterwarnings("ignore:No positive samples")  # of so few files
def test_a_table_gives_several_labels(tmp_path: Path) -> None:
    tones(tmp_path, each=3)
    rows = ['high/0.wav,"bird, Wind"', "high/1.wav,bird;wind", "low/0.wav,wind", "low/1.wav,Wind", "low/2.wav,bird"]
    (tmp_path / "labels.csv").write_text("\n".join(["file,labels", *rows]))
    found = labelled_files(tmp_path, (".wav",), lambda path: None)
    assert found.classes == ("Wind", "bird", "wind")
    files = {path.relative_to(tmp_path).as_posix(): i for i, path in enumerate((*found.train, *found.held_out))}
    labels = torch.cat([found.train_labels, found.held_out_labels])
    assert {*files} == {"high/0.wav", "high/1.wav", "low/0.wav", "low/1.wav", "low/2.wav"}
    assert labels[files["high/0.wav"]].tolist() == [1, 1, 0] and labels[files["low/2.wav"]].tolist() == [0, 1, 0]
    task = open_task(tmp_path, recipe="audio_classification", preset="tiny")
    model = kit.build("audio_classification", preset="tiny", **task.overrides)
    assert model.outputs.blocks["label"].problem_type == "multi_label_classification"
    metrics = train_recipe("audio_classification", task, tmp_path / "run", steps=2, batch=2, progress=False)
    assert 0 <= metrics["average_precision"] <= 1
    assert kit.load(tmp_path / "run").labels == {"label": ("Wind", "bird", "wind")}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("path,labels\na.wav,x", "labels.csv: expected the columns file and labels, lacks file"),
        ("file,labels\ngone.wav,x", r"labels.csv, line 2: expected a file that ends in \.wav, got 'gone.wav'"),
        ("file,labels\n/etc/a.wav,x", r"line 2: .*got '/etc/a.wav'; give its path below the table's folder"),
        ("file,labels\n../{0}/a.wav,x", r"line 2: .*a.wav'; give its path below the table's folder"),
        ("file,labels\na.wav,", "line 2: expected a new file and its labels, got labels ''"),
        ("file,labels\na.wav,x\na.wav,y", "line 3: .*got the file a second time"),
        ("file,labels\na.wav,x,y", "line 2: .*quote labels that have commas"),
        ("file,labels\n", "labels.csv has no rows"),
        ("\udcff", "labels.csv cannot be read as a table"),
    ],
)
def test_bad_tables_are_refused_by_line(tmp_path: Path, table: str, message: str) -> None:
    tone(tmp_path / "a.wav", 300)
    (tmp_path / "labels.csv").write_bytes(table.replace("{0}", tmp_path.name).encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "labels.csv", (".wav",))


def test_read_sound_keeps_sixteen_bits(tmp_path: Path) -> None:
    wave = torch.randint(-32768, 32768, (500,)) / 32768
    found = read_sound(write_audio(tmp_path / "a.wav", wave, RATE), RATE)
    assert found.dtype == torch.int16 and torch.equal(found / 32768, wave)
    assert torch.equal(load_audio(tmp_path / "a.wav", rate=RATE), wave)


def test_recordings_are_looped_at_their_pitch() -> None:
    wave = np.arange(20, dtype=np.float32)
    assert soundfont._looped(wave, 8, 18, 40)[:35].tolist() == [*range(18), *range(8, 18), *range(8, 15)]
    assert soundfont._looped(wave, 0, 0, 30).tolist() == [*range(20), *[0] * 10]


def test_no_recording_is_in_both_parts() -> None:
    pytest.importorskip("pretty_midi", reason="pip install pretty_midi")
    notes = soundfont.notes(samples=256, rate=RATE)
    parts = [soundfont.chosen(notes, held_out) for held_out in (False, True)]
    assert sum(len(labels) for _, labels in parts) == len(notes.labels) == 5 * len(notes.recordings.unique())
    for held_out in (False, True):
        own = {row.numpy().tobytes() for row in parts[held_out][0]}
        assert len({len(row) for row in own}) == 1
    assert {*parts[0][1].tolist()} == {*range(10)}


@pytest.mark.skipif(PROMPTS.exists(), reason="Debian's packages are installed")
def test_missing_prompts_say_what_to_install() -> None:
    with pytest.raises(MissingPackage, match="apt-get install asterisk-core-sounds-en-gsm"):
        open_task("prompts", recipe="audio_classification", preset="tiny")
