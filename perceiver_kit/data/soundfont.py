"""Recordings of instruments in the sound font that ships with ``pretty_midi``, played as notes of any length.

A sound font (SF2) is a RIFF file: recordings, and tables that lead from presets to instruments to recordings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Int16
from torch import Tensor

from ..flags import checked_flags
from .packages import packaged
from .sampling import generator

SOURCE = (
    "recordings of the sound font TimGM6mb (Tim Brechbill, GPL-2), in the package pretty_midi (MIT), looped as a "
    "sampler does"
)
# Families of General MIDI by program / 8, without those that a synthesizer made.
FAMILIES = ("piano", "chromatic", "organ", "guitar", "bass", "strings", "ensemble", "brass", "reed", "pipe")
PITCHES = (-5, -2, 0, 2, 5)
"""Semitones by which each recording is transposed."""
SAMPLE, INSTRUMENT = 53, 41


class Notes(NamedTuple):
    """Notes int16 (n, samples), the family and the recording of each, and the names of the families."""

    sounds: Int16[Tensor, "n samples"]
    labels: Tensor
    recordings: Tensor
    families: tuple[str, ...]


def notes(*, samples: int, rate: int) -> Notes:
    """Each recording of ten families at ``PITCHES``, as loud as the others; MissingPackage without pretty_midi.

    Recordings that serve several families are left out.
    """
    path = packaged("pretty_midi", "pretty_midi", "TimGM6mb.sf2", purpose="a sound font of instruments")
    data = path.read_bytes()
    tables = _tables(data)
    start, _ = tables["smpl"]
    sounds: list[Tensor] = []
    labels: list[int] = []
    recordings: list[int] = []
    for number, family in sorted(_families(data, tables).items()):
        _, first, end, loop, loop_end, own_rate, *_ = _rows(data, tables, "shdr", "<20sIIIIIBbHH")[number]
        wave = np.frombuffer(data, "<i2", end - first, start + 2 * first).astype(np.float32)
        for semitones in PITCHES:
            step = own_rate / rate * 2 ** (semitones / 12)
            played = _looped(wave, loop - first, loop_end - first, int(samples * step) + 2)
            note = F.interpolate(rearrange(torch.from_numpy(played), "n -> 1 1 n"), size=samples, mode="linear")[0, 0]
            sounds.append((note * (8000 / note.abs().max().clamp(min=1))).round().to(torch.int16))
            labels.append(family)
            recordings.append(number)
    return Notes(torch.stack(sounds), torch.tensor(labels), torch.tensor(recordings), FAMILIES)


@checked_flags
def chosen(found: Notes, held_out: bool) -> tuple[Int16[Tensor, "n samples"], Tensor]:
    """The notes of a random but fixed fifth of the recordings, or of the others, with their labels."""
    each = found.recordings.unique()
    order = torch.randperm(len(each), generator=generator(0))
    rows = torch.isin(found.recordings, each[order[: len(each) // 5]]) == held_out
    return found.sounds[rows], found.labels[rows]


def _looped(wave: np.ndarray, loop: int, end: int, length: int) -> np.ndarray:
    """At least ``length`` samples: the loop of a recording is repeated, one without a loop is padded with zeros."""
    if not 0 <= loop < end <= len(wave) or end - loop < 8:
        return np.pad(wave, (0, max(0, length - len(wave))))[:length]
    times = max(0, length - end) // (end - loop) + 1
    return np.concatenate([wave[:end], np.tile(wave[loop:end], times)])[:length]


def _chunks(data: bytes, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    """Name, start and size of each chunk of a RIFF file."""
    while start < end:
        name, size = struct.unpack_from("<4sI", data, start)
        yield name.decode("latin-1"), start + 8, size
        start += 8 + size + size % 2


def _tables(data: bytes) -> dict[str, tuple[int, int]]:
    """Start and size of each chunk within the lists of a sound font."""
    [(_, start, size)] = _chunks(data, 0, len(data))
    lists = _chunks(data, start + 4, start + size)
    parts = (part for _, first, long in lists for part in _chunks(data, first + 4, first + long))
    return {name: (first, long) for name, first, long in parts}


def _rows(data: bytes, tables: dict[str, tuple[int, int]], name: str, form: str) -> list[tuple[Any, ...]]:
    start, size = tables[name]
    return [*struct.iter_unpack(form, data[start : start + size])]


def _families(data: bytes, tables: dict[str, tuple[int, int]]) -> dict[int, int]:
    """The family of each recording that serves only one: presets have zones of instruments, these of recordings."""
    presets, instruments = _rows(data, tables, "phdr", "<20sHHHIII"), _rows(data, tables, "inst", "<20sH")
    zones = {kind: [row[0] for row in _rows(data, tables, f"{kind}bag", "<HH")] for kind in "pi"}
    settings = {kind: _rows(data, tables, f"{kind}gen", "<HH") for kind in "pi"}

    def values(kind: str, first: int, last: int, setting: int) -> set[int]:
        chosen = settings[kind][zones[kind][first] : zones[kind][last]]
        return {value for name, value in chosen if name == setting}

    families: dict[int, set[int]] = {}
    for (_, program, bank, zone, *_), (_, _, _, after, *_) in pairwise(presets):
        family = program // 8 if bank < 128 else 16  # bank 128: drums
        for number in values("p", zone, after, INSTRUMENT):
            for recording in values("i", instruments[number][1], instruments[number + 1][1], SAMPLE):
                families.setdefault(recording, set()).add(family)
    one = {recording: next(iter(found)) for recording, found in families.items() if len(found) == 1}
    return {recording: family for recording, family in one.items() if family < len(FAMILIES)}
