"""Labelled sounds: a user's own files, notes of real instruments, recorded prompts in five languages."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int16
from torch import Generator, Tensor

from ..checking import check_positive
from ..errors import InputError, MissingPackage
from . import soundfont
from .clips import CLIP_SOURCE
from .files import SOUNDS, VIDEOS, check_held, list_names, split_by_class
from .labels import Labelled, labelled_files
from .media import load_audio, window_starts
from .sampling import Samples
from .task import Task
from .video import sample_clip

PROMPTS = Path("/usr/share/asterisk/sounds")
PROMPTS_SOURCE = (
    "2,781 telephone prompts at 8 kHz in five languages, one speaker each (English and Spanish share one), in Debian's "
    "packages asterisk-core-sounds-{en,es,fr,it,ru}-gsm (CC BY-SA 3.0)"
)


class Sounds(Samples):
    """Windows of sounds: ``audio`` float32 (samples,) in [-1, 1] → ``label``, a class or zeros and ones for each.

    Training takes one window of each sound, anywhere in it, and scales it by 1/4 to 4; the held-out items are the
    windows that cover each sound. Shorter sounds are padded with zeros.

    Args:
        sounds: int16 (n,) each, of any length.
        labels: int64 (n,), or float32 (n, classes).
        samples: of a window.
        cover: whether the items are the windows that cover each sound.

    Raises InputError for no sounds or another number of labels.

    >>> sounds = Sounds([torch.ones(50, dtype=torch.int16)], torch.tensor([1]), samples=20, cover=True)
    >>> len(sounds), sounds[2]["inputs"]["audio"].shape
    (3, torch.Size([20]))
    """

    def __init__(
        self,
        sounds: Sequence[Int16[Tensor, "_"]] | Int16[Tensor, "n samples"],
        labels: Tensor,
        *,
        samples: int,
        cover: bool = False,
        seed: int = 0,
    ) -> None:
        check_positive("Sounds", samples=samples)
        if not len(sounds) or len(sounds) != len(labels):
            raise InputError(f"Sounds needs a label for each sound, got {len(sounds)} sounds and {len(labels)} labels")
        self.sounds, self.labels, self.samples, self.seed = sounds, labels, samples, seed
        starts = [window_starts(len(sound), samples) if cover else [0] for sound in sounds]
        self.rows = [(index, start) for index, own in enumerate(starts) for start in own]

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        number, start = self.rows[index]
        sound = self.sounds[number]
        if training:
            start = int(torch.randint(max(0, len(sound) - self.samples) + 1, (), generator=random))
        audio = to_window(sound[start : start + self.samples], self.samples)
        if training:
            audio = (audio * (4 * torch.rand((), generator=random) - 2).exp2()).clamp(-1, 1)
        return {"inputs": {"audio": audio}, "targets": {"label": self.labels[number]}}


def to_window(sound: Tensor, samples: int) -> Float[Tensor, "samples"]:
    """At most ``samples`` of int16 sound as float32 in [-1, 1], padded with zeros."""
    return F.pad(sound.float() / 32768, (0, samples - len(sound)))


def read_sound(path: Path, rate: int, seconds: int | float = math.inf) -> Int16[Tensor, "_"]:
    """The sound of a file as int16; InputError, naming it, if it is missing, damaged, empty or silent."""
    audio = load_audio(path, rate=rate, seconds=seconds)
    if not audio.any():
        raise InputError(f"{path} is silent: all of its {len(audio)} samples are zero")
    return (audio * 32768).round().to(torch.int16)


def sound_folder(
    path: Path,
    *,
    audio_samples: int = 61_440,
    sample_rate: int = 48_000,
    seconds: int | float = math.inf,
    seed: int = 0,
) -> Task:
    """The first ``seconds`` of sound or video files, one subfolder per class, or with ``labels.csv``.

    A warning names sounds that are shorter than a window. ``labels.labelled_files`` describes the table.
    """
    sounds: dict[Path, Tensor] = {}

    def read(file: Path) -> None:
        sounds[file] = read_sound(file, sample_rate, seconds)
        check_held(path, sum(sound.nbytes for sound in [*sounds.values()]), "seconds or sample_rate")

    files = labelled_files(path, (*SOUNDS, *VIDEOS), read)
    short = [file for file in (*files.train, *files.held_out) if len(sounds[file]) < audio_samples]
    if short:
        length = f"a window of {audio_samples / sample_rate:.3g} s"
        warnings.warn(f"{path}: padded sounds shorter than {length}: {list_names(short, path)}", stacklevel=2)
    return _task(path.name, files, sounds, str(path), audio_samples=audio_samples, sample_rate=sample_rate, seed=seed)


def _task(
    name: str,
    files: Labelled,
    sounds: dict[Path, Tensor],
    source: str,
    *,
    audio_samples: int,
    sample_rate: int,
    seed: int,
) -> Task:
    train, held_out = (
        Sounds([sounds[file] for file in part], labels, samples=audio_samples, cover=cover, seed=seed)
        for part, labels, cover in (
            (files.train, files.train_labels, False),
            (files.held_out, files.held_out_labels, True),
        )
    )
    overrides = files.overrides | dict(audio_samples=audio_samples, sample_rate=sample_rate)
    return Task(name, train, held_out, overrides, source, files.classes)


def instruments(*, audio_samples: int = 61_440, sample_rate: int = 48_000, seed: int = 0) -> Task:
    """Notes of real instruments, a window each; the class is the family. Whole recordings are held out."""
    notes = soundfont.notes(samples=audio_samples, rate=sample_rate)
    train, held_out = (
        Sounds(*soundfont.chosen(notes, part), samples=audio_samples, seed=seed) for part in (False, True)
    )
    overrides = dict(num_labels=len(notes.families), audio_samples=audio_samples, sample_rate=sample_rate)
    return Task("instruments", train, held_out, overrides, soundfont.SOURCE, notes.families)


def prompts(*, audio_samples: int = 61_440, sample_rate: int = 48_000, seed: int = 0) -> Task:
    """Telephone prompts; the class is the language, of one speaker each."""
    if len([*PROMPTS.glob("??_??_*")]) < 2:
        packages = " ".join(f"asterisk-core-sounds-{language}-gsm" for language in ("en", "es", "fr", "it", "ru"))
        raise MissingPackage(f"prompts ship in packages of Debian: apt-get install {packages}")
    sounds: dict[Path, Tensor] = {}

    def read(file: Path) -> None:
        sounds[file] = read_sound(file, sample_rate)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # texts beside the sounds, and prompts of silence
        split = split_by_class(PROMPTS, (".gsm",), read)
    labels = (torch.tensor(part) for part in (split.train_labels, split.held_out_labels))
    classes = tuple(name[:2] for name in split.classes)
    files = Labelled(split.train, split.held_out, *labels, classes)  # type: ignore[arg-type]
    sizes = dict(audio_samples=audio_samples, sample_rate=sample_rate)
    return _task("prompts", files, sounds, PROMPTS_SOURCE, seed=seed, **sizes)


SPEEDS = (1, 2, 4)


class Speeds(Samples):
    """Windows of one sound played at each of ``SPEEDS``; the class is the speed, and the loudness is the same."""

    def __init__(self, sound: Float[Tensor, "_"], *, samples: int, held_out: bool, seed: int = 0) -> None:
        gap = max(SPEEDS) * samples
        part = sound[-len(sound) // 4 :] if held_out else sound[: -len(sound) // 4 - gap]
        if len(part) < gap:
            raise InputError(f"sound_speed: a window of {samples} samples is too long for a sound of {len(sound)}")
        self.part, self.samples, self.seed, self.held_out = part, samples, seed, held_out

    def __len__(self) -> int:
        return len(SPEEDS) * (100 if self.held_out else 1000)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        label = index % len(SPEEDS)
        length = SPEEDS[label] * self.samples
        start = int(torch.randint(len(self.part) - length + 1, (), generator=random))
        whole = rearrange(self.part[start : start + length], "n -> 1 1 n")
        audio = F.interpolate(whole, size=self.samples, mode="linear")[0, 0]
        audio = 0.1 * audio / audio.std().clamp(min=1e-4)
        return {"inputs": {"audio": audio.clamp(-1, 1)}, "targets": {"label": torch.tensor(label)}}


def sound_speed(*, audio_samples: int = 61_440, sample_rate: int = 48_000, seed: int = 0) -> Task:
    """The sound of a film, played once, twice or four times as fast; the last quarter is held out, after a gap.

    It lasts five seconds, which allows windows of up to 0.24 s.
    """
    sound = load_audio(sample_clip(), rate=sample_rate)
    audio_samples = min(audio_samples, 6 * sample_rate // 25)
    train, held_out = (Speeds(sound, samples=audio_samples, held_out=part, seed=seed) for part in (False, True))
    overrides = dict(num_labels=len(SPEEDS), audio_samples=audio_samples, sample_rate=sample_rate)
    return Task("sound_speed", train, held_out, overrides, CLIP_SOURCE, tuple(f"{speed}×" for speed in SPEEDS))
