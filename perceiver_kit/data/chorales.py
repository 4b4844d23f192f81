"""Bach's chorales as one causal stream of four voices."""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from einops import rearrange
from jaxtyping import Integer, UInt8

from .next_bytes import NextIds
from .packages import packaged
from .task import Task

CHORALES_SOURCE = (
    "chorales of Bach in the package music21 (BSD), whose corpus is, as it says, out of copyright in the United States "
    "or licensed, in part with restrictions on commercial use"
)
VOICES = ("soprano", "alto", "tenor", "bass")
LOWEST, PITCHES = 36, 46
"""MIDI numbers of the notes: C2 to A5."""
HOLD, REST = PITCHES, PITCHES + 1
SYMBOLS = PITCHES + 2
START = 0
"""The id before each chorale."""
VOCABULARY = 1 + len(VOICES) * SYMBOLS
STEPS = 4
"""Steps of a quarter note."""
TICKS = 40_320
"""Units of time of a quarter note: triplets and shorter notes are whole numbers of them."""
HELD_OUT = 10
"""One chorale in so many is held out."""
STEP_SEMITONES = dict(C=0, D=2, E=4, F=5, G=7, A=9, B=11)


def chorales(*, shift: int = 0) -> tuple[UInt8[np.ndarray, "n"], UInt8[np.ndarray, "k"]]:
    """Ids of the training and of the held-out chorales, end to end, each after ``START``.

    A step is a sixteenth note, of which each voice has one id, from soprano to bass: the note that begins, ``HOLD`` of
    the note before, or ``REST``, each with ids of its own for each voice. The training chorales are repeated in all
    keys up to ``shift`` semitones higher or lower that keep them in range.

    Source: the pieces of Bach in music21's corpus with four parts, without duplicates; every tenth is held out.

    Raises MissingPackage without music21.
    """
    known = packaged("--no-deps music21", "music21", "corpus", "bach", "bwv66.6.mxl", purpose="a set of chorales")
    every = _pieces(known.parent)
    train = [piece for number, piece in enumerate(every) if number % HELD_OUT]
    moved = [higher(piece, semitones) for semitones in sorted(range(-shift, shift + 1), key=abs) for piece in train]
    return tuple(  # type: ignore[return-value]
        np.concatenate([as_ids(piece) for piece in part if piece is not None]) for part in (moved, every[::HELD_OUT])
    )


@functools.cache
def _pieces(folder: Path) -> tuple[UInt8[np.ndarray, "t v"], ...]:
    """The pieces of a folder without duplicates, read once: it takes ten seconds."""
    pieces: dict[bytes, np.ndarray] = {}
    for path in sorted(folder.glob("*.mxl")):
        if (voices := read_voices(path)) is not None:
            pieces.setdefault(voices.tobytes(), voices)
    return tuple(pieces.values())


def chorale_ids(
    *, max_length: int = 2048, predicted: int = 1024, seed: int = 0, short: float = 0.0, shift: int = 3
) -> Task:
    """Chorales in windows of ``max_length`` ids, four for a sixteenth note; the ``predicted`` last ones are targets.

    ``shift`` is that of ``chorales``; ``next_bytes.NextIds`` explains ``short``.
    """
    sizes: dict[str, Any] = dict(length=max_length, predicted=predicted, seed=seed, short=short)
    train, held_out = (NextIds(ids, **sizes) for ids in chorales(shift=shift))
    overrides = dict(context=max_length, num_latents=predicted, vocabulary=VOCABULARY)
    return Task("chorales", train, held_out, overrides, CHORALES_SOURCE)


def as_ids(voices: Integer[np.ndarray, "t v"]) -> UInt8[np.ndarray, "n"]:
    """Symbols of four voices as ids, after ``START``."""
    ids = 1 + voices + SYMBOLS * np.arange(len(VOICES))
    return np.concatenate([[START], rearrange(ids, "t v -> (t v)")]).astype(np.uint8)


def as_voices(ids: np.ndarray) -> UInt8[np.ndarray, "t v"]:
    """Symbols of the whole steps of one chorale, ids (n,) with or without its ``START``.

    They end before the first id that is not of the voice whose turn it is, as a model may generate.

    >>> as_voices(as_ids(np.array([[40, 30, 20, 10], [46, 46, 22, 46]]))).tolist()
    [[40, 30, 20, 10], [46, 46, 22, 46]]
    """
    ids = np.asarray(ids, np.int64)
    ids = ids[1:] if len(ids) and ids[0] == START else ids
    symbols = ids - 1 - SYMBOLS * (np.arange(len(ids)) % len(VOICES))
    wrong = np.flatnonzero((symbols < 0) | (symbols >= SYMBOLS))
    whole = (wrong[0] if len(wrong) else len(ids)) // len(VOICES) * len(VOICES)
    return rearrange(symbols[:whole], "(t v) -> t v", v=len(VOICES)).astype(np.uint8)


def higher(voices: UInt8[np.ndarray, "t v"], semitones: int) -> UInt8[np.ndarray, "t v"] | None:
    """The piece so many semitones higher; None where a note leaves the range."""
    notes = voices < PITCHES
    moved = np.where(notes, voices.astype(np.int64) + semitones, voices)
    inside = (moved[notes] >= 0) & (moved[notes] < PITCHES)
    return moved.astype(np.uint8) if inside.all() else None


# ---- MusicXML


def read_voices(path: Path) -> UInt8[np.ndarray, "t v"] | None:
    """Symbols of a compressed MusicXML file with four parts in range; None for any other piece."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("xml") and not name.startswith("META-INF"))
        parts = ElementTree.fromstring(archive.read(name)).findall("part")
    lines = [line for part in parts if (line := _line([*_notes(part)])) is not None]
    if not len(parts) == len(lines) == len(VOICES):
        return None
    shortest, longest = min(map(len, lines)), max(map(len, lines))
    if longest - shortest >= STEPS:
        return None
    return np.stack([line[:shortest] for line in lines], 1).astype(np.uint8)


def _notes(part: ElementTree.Element) -> Iterator[tuple[int, int, int | None, bool]]:
    """Start and length in ticks, MIDI number (None: a rest), whether it is tied: of a part's first voice."""
    time, divisions = 0, 1
    for measure in part.findall("measure"):
        for element in measure:
            if element.tag == "attributes":
                divisions = int(element.findtext("divisions", str(divisions)))
            length = round(TICKS * float(element.findtext("duration", "0")) / divisions)
            if element.tag == "backup":
                time -= length
            elif element.tag == "forward":
                time += length
            elif element.tag == "note" and length and element.find("chord") is None:
                if element.findtext("voice", "1") in ("1", "5"):
                    tied = any(tie.get("type") == "stop" for tie in element.findall("tie"))
                    yield time, length, _pitch(element.find("pitch")), tied
                time += length


def _pitch(pitch: ElementTree.Element | None) -> int | None:
    if pitch is None:
        return None
    semitone = STEP_SEMITONES[pitch.findtext("step", "C")] + int(float(pitch.findtext("alter", "0")))
    return 12 * (int(pitch.findtext("octave", "4")) + 1) + semitone


def _line(notes: list[tuple[int, int, int | None, bool]]) -> np.ndarray | None:
    """One symbol a step; None for a part without notes, or with one out of range."""
    if not any(pitch is not None for _, _, pitch, _ in notes):
        return None
    line = np.full(max(-(-(start + length) * STEPS // TICKS) for start, length, _, _ in notes), REST)
    for start, length, pitch, tied in notes:
        first, end = (-(-time * STEPS // TICKS) for time in (start, start + length))
        if pitch is None or first == end:
            continue
        if not LOWEST <= pitch < LOWEST + PITCHES:
            return None
        line[first:end] = HOLD
        if not tied:
            line[first] = pitch - LOWEST
    return line
