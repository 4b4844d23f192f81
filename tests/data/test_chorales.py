"""Chorales as ids, digits as pixels."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from perceiver_kit.data.chorales import HOLD, LOWEST, REST, START, as_ids, as_voices, higher, read_voices
from perceiver_kit.data.pixels import START as BLANK
from perceiver_kit.data.pixels import NextPixels, coarse
from perceiver_kit.errors import InputError

pytestmark = pytest.mark.usefixtures("checked")


def note(step: str, octave: int, duration: int, more: str = "", alter: int = 0) -> str:
    pitch = f"<pitch><step>{step}</step><alter>{alter}</alter><octave>{octave}</octave></pitch>"
    return f"<note>{pitch}<duration>{duration}</duration>{more}</note>"


def piece(path: Path, *parts: str) -> Path:
    """Parts of one measure of two divisions a quarter note."""
    attributes = "<attributes><divisions>2</divisions></attributes>"
    whole = "".join(f"<part><measure>{attributes}{part}</measure></part>" for part in parts)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        archive.writestr("piece.xml", f"<score-partwise>{whole}</score-partwise>")
    return path


def test_notes_ties_rests_chords_and_second_voices_become_symbols(tmp_path: Path) -> None:
    rest = "<note><rest/><duration>1</duration></note>"
    second = "<backup><duration>2</duration></backup>" + note("C", 4, 2, "<voice>2</voice>")
    parts = (
        note("C", 5, 1) + note("C", 5, 1, '<tie type="stop"/>'),
        note("F", 4, 1, alter=1) + rest,
        note("E", 3, 2) + note("G", 3, 2, "<chord/>"),
        note("D", 3, 2) + second,
    )
    voices = read_voices(piece(tmp_path / "a.mxl", *parts))
    assert voices is not None
    c, f, e, d = (number - LOWEST for number in (72, 66, 52, 50))
    assert voices.T.tolist() == [[c, HOLD, HOLD, HOLD], [f, HOLD, REST, REST], [e, *[HOLD] * 3], [d, *[HOLD] * 3]]


def test_pieces_of_other_voices_or_ranges_are_none(tmp_path: Path) -> None:
    part = note("C", 4, 2)
    assert read_voices(piece(tmp_path / "three.mxl", part, part, part)) is None
    assert read_voices(piece(tmp_path / "deep.mxl", part, part, part, note("C", 1, 2))) is None
    assert read_voices(piece(tmp_path / "unequal.mxl", part, part, part, note("C", 4, 8))) is None


def test_ids_of_voices_and_back() -> None:
    voices = np.array([[40, 30, 20, 10], [HOLD, REST, 21, HOLD]], np.uint8)
    ids = as_ids(voices)
    assert ids[0] == START and len(ids) == 9 and len({*ids.tolist()}) == 9  # each voice has ids of its own
    assert (as_voices(ids) == voices).all() and (as_voices(ids[1:-1]) == voices[:1]).all()
    assert (as_voices(np.append(ids[:6], 1)) == voices[:1]).all() and as_voices(ids[2:]).shape == (0, 4)
    moved = higher(voices, 2)
    assert moved is not None and moved.tolist() == [[42, 32, 22, 12], [HOLD, REST, 23, HOLD]]
    assert higher(voices, 6) is None and higher(voices, -11) is None


def test_each_pixel_follows_what_an_input_holds() -> None:
    pictures = torch.randint(4, (3, 4, 2))
    item = NextPixels(pictures, predicted=5)[1]
    pixels = pictures[1].flatten()
    assert item["inputs"]["text"].tolist() == [BLANK, *pixels[:-1].tolist()]
    assert item["targets"]["text"].tolist() == pixels[3:].tolist()
    with pytest.raises(InputError, match="predicted 9 is more than the 8 pixels"):
        NextPixels(pictures, predicted=9)


def test_levels_are_means() -> None:
    pixels = torch.zeros(1, 1, 2, 4, dtype=torch.uint8)
    pixels[..., 0] = 255
    assert coarse(pixels).tolist() == [[[1, 0]]]  # 127.5 of 256 in four levels
