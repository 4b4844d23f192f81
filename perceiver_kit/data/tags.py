"""Texts with a tag for each word or character: CoNLL files, JSON lines, and the data set."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Generator

from ..checking import check_positive, short
from ..errors import InputError, MissingPackage, nearest
from ..objectives.tags import OUTSIDE
from .bytes import BYTE_OFFSET
from .records import field, json_lines, open_records, read_lines
from .sampling import Samples
from .task import Task
from .texts import IGNORED

Unit = Literal["words", "characters"]
TREEBANK_SOURCE = (
    "4,849 sentences of Wikipedia and the web in Turkish, tagged by hand, in the package turkish-treebanks (Apache-2.0)"
)


class Tagged(NamedTuple):
    """A text, the places (start, end) of its words or characters in it, a tag for each, and where it was read."""

    text: str
    units: tuple[tuple[int, int], ...]
    tags: tuple[str, ...]
    where: str


def words_of(text: str) -> tuple[tuple[int, int], ...]:
    """The places (start, end) of the words of a text in any script; a sign of punctuation is a word of its own.

    Letters, marks and digits are joined, also by an apostrophe between letters or a point between digits. Text that is
    written without spaces is one word: use characters.

    >>> text = "Ali'nin 3.5 kg, हिन्दी!"
    >>> [text[start:end] for start, end in words_of(text)]
    ["Ali'nin", '3.5', 'kg', ',', 'हिन्दी', '!']
    """
    kinds = [unicodedata.category(character) for character in text]
    inner = [
        kind[0] in "LMN" or kind == "Pc" or character in "\u200c\u200d"
        for kind, character in zip(kinds, text, strict=True)
    ]
    for i in range(1, len(text) - 1):
        around = kinds[i - 1][0] + kinds[i + 1][0]
        inner[i] |= (text[i] in "'\u2019" and around == "LL") or (text[i] in ".,:" and around == "NN")
    words: list[tuple[int, int]] = []
    for i, character in enumerate(text):
        if inner[i] and i and inner[i - 1] and words:
            words[-1] = (words[-1][0], i + 1)
        elif not character.isspace():
            words.append((i, i + 1))
    return tuple(words)


def units_of(text: str, unit: Unit) -> tuple[tuple[int, int], ...]:
    """The places of what has a tag: the words of a text, or its characters."""
    return words_of(text) if unit == "words" else tuple((i, i + 1) for i in range(len(text)))


def from_words(words: Sequence[str], tags: Sequence[str], where: str, spaces: Sequence[bool] | None = None) -> Tagged:
    """A text of words, with a space after each, or where ``spaces`` says so.

    Raises InputError, with the place, for another number of tags, no words, or an empty word.
    """
    if len(words) != len(tags) or not words:
        raise InputError(f"{where}: expected a tag for each word, got {len(words)} words and {len(tags)} tags")
    text, units = "", []
    for word, space in zip(words, spaces or [True] * len(words), strict=True):
        if not word.strip():
            raise InputError(f"{where}: expected words, got {word!r}")
        units.append((len(text), len(text) + len(word)))
        text += word + " " * space
    return Tagged(text.rstrip(" "), tuple(units), tuple(tags), where)


def from_spans(text: str, spans: Sequence[tuple[int, int, str]], where: str) -> Tagged:
    """A text with BIO tags of its characters.

    Raises InputError, with the place, for spans outside the text, empty, or overlapping.

    >>> from_spans("Ada 1", [(0, 3, "name")], "here").tags
    ('B-name', 'I-name', 'I-name', 'O', 'O')
    """
    tags = [OUTSIDE] * len(text)
    for start, end, kind in spans:
        if not 0 <= start < end <= len(text):
            raise InputError(f"{where}: expected spans within the {len(text)} characters, got {start} to {end}")
        if any(tag != OUTSIDE for tag in tags[start:end]):
            raise InputError(f"{where}: expected spans that do not overlap, got another within {start} to {end}")
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return Tagged(text, units_of(text, "characters"), tuple(tags), where)


def read_conll(path: Path) -> list[Tagged]:
    """Sentences of a CoNLL file: a word a line with columns, the last of which is the tag; blank lines between.

    In ``.conllu`` the tag is the fourth of ten columns, the part of speech, and SpaceAfter=No is kept.

    Raises InputError, naming file and line, for another number of columns than in the lines before.
    """
    universal = path.suffix.lower() == ".conllu"
    sentences: list[Tagged] = []
    words: list[tuple[str, str, bool]] = []
    columns, start = (10, "") if universal else (0, "")
    for where, line in [*read_lines(path), ("", "")]:
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                sentences.append(_sentence(words, start))
            words = []
            continue
        if line.startswith("# ") or (universal and line.startswith("#")):
            continue
        parts = line.split("\t") if universal or "\t" in line else line.split()
        columns = columns or len(parts)
        if len(parts) != columns or columns < 2:
            expected = f"{max(columns, 2)} columns" + (", the last of which is a tag" if not universal else "")
            raise InputError(f"{where}: expected {expected}, got {short(line)}")
        if universal and not parts[0].isdigit():  # several words written as one, or a word that is not written
            continue
        start = start if words else where
        word, tag = (parts[1], parts[3]) if universal else (parts[0], parts[-1])
        words.append((word, tag, not (universal and "SpaceAfter=No" in parts[9].split("|"))))
    return sentences


def _sentence(words: list[tuple[str, str, bool]], where: str) -> Tagged:
    return from_words([w for w, _, _ in words], [t for _, t, _ in words], where, [s for _, _, s in words])


def read_tag_lines(path: Path) -> list[Tagged]:
    """Samples of JSON lines: ``{"tokens": […], "tags": […]}``, or ``{"text": …, "spans": [[start, end, kind], …]}``.

    A span may be an object with ``start``, ``end`` and ``label``. Its places are characters.

    Raises InputError, naming file and line.
    """
    samples: list[Tagged] = []
    for where, record in json_lines(path):
        if "tokens" in record:
            words, tags = field(record, "tokens", list, where), field(record, "tags", list, where)
            if not all(isinstance(value, str) for value in [*words, *tags]):
                raise InputError(f"{where}: expected tokens and tags that are strings, got {short([*words, *tags])}")
            samples.append(from_words(words, tags, where))
            continue
        text, spans = field(record, "text", str, where), []
        for span in field(record, "spans", list, where):
            parts = [span.get(name) for name in ("start", "end", "label")] if isinstance(span, dict) else span
            good = isinstance(parts, list) and [type(part) for part in parts] == [int, int, str] and parts[2]
            if not good:
                raise InputError(f"{where}: expected spans [start, end, kind], got {short(span)}")
            spans.append(tuple(parts))
        if not text.strip():
            raise InputError(f"{where}: expected a text, got {text!r}")
        samples.append(from_spans(text, spans, where))
    return samples


READERS: dict[str, Callable[[Path], list[Tagged]]] = dict.fromkeys(
    (".conll", ".conllu", ".iob", ".bio", ".tsv", ".txt"), read_conll
)
READERS |= {".jsonl": read_tag_lines}


class TaggedTexts(Samples):
    """Texts as bytes with a tag at the first byte of each unit: ``text`` int64 (length,) → ``tags`` int64 (length,).

    Other bytes have the target -100. A text longer than ``length`` bytes is split between units, not within a span
    where that is possible.

    Raises InputError, naming its place, for a tag that is not in ``names``, and a unit longer than ``length``.

    >>> item = TaggedTexts([from_words(["é", "b"], ["X", "Y"], "here")], ("X", "Y"), length=5)[0]
    >>> item["targets"]["tags"], item["mask"]["text"].sum()
    (tensor([   0, -100, -100,    1, -100]), tensor(4))
    """

    def __init__(self, texts: Sequence[Tagged], names: Sequence[str], *, length: int, seed: int = 0) -> None:
        check_positive("TaggedTexts", length=length)
        if not texts:
            raise InputError("TaggedTexts needs at least one text, got none")
        number = {name: i for i, name in enumerate(names)}
        rows = []
        for text in texts:
            for tag in text.tags:
                if tag not in number:
                    raise InputError(f"{text.where}: tag {tag!r} is not one of the model's; {nearest(tag, names)}")
            rows += _pieces(text, number, length)
        self.ids, self.tags = np.zeros((len(rows), length), np.int16), np.full((len(rows), length), IGNORED, np.int16)
        self.lengths, self.length, self.seed = [len(ids) for ids, _, _ in rows], length, seed
        for row, (ids, places, tags) in enumerate(rows):
            self.ids[row, : len(ids)] = ids
            self.tags[row, places] = tags

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        return {
            "inputs": {"text": torch.from_numpy(self.ids[index].astype(np.int64))},
            "targets": {"tags": torch.from_numpy(self.tags[index].astype(np.int64))},
            "mask": {"text": torch.arange(self.length) < self.lengths[index]},
        }


def _pieces(text: Tagged, number: dict[str, int], length: int) -> list[tuple[np.ndarray, list[int], list[int]]]:
    """Bytes as ids, places and numbers of the tags, of the parts of at most ``length`` bytes."""
    encoded = np.frombuffer(text.text.encode(), np.uint8).astype(np.int16) + BYTE_OFFSET
    byte = np.cumsum([0, *(len(character.encode()) for character in text.text)])  # of each character
    starts, ends = ([int(byte[unit[side]]) for unit in text.units] for side in (0, 1))
    pieces, first = [], 0
    while first < len(starts):
        stop = first
        while stop < len(starts) and ends[stop] - starts[first] <= length:
            stop += 1
        if stop == first:
            raise InputError(
                f"{text.where}: expected words of at most {length} bytes, got {ends[first] - starts[first]}"
            )
        if stop < len(starts):
            inside = [i for i in range(first + 1, stop + 1) if text.tags[i][:2] not in ("I-", "E-")]
            stop = inside[-1] if inside else stop
        places = [start - starts[first] for start in starts[first:stop]]
        tags = [number[tag] for tag in text.tags[first:stop]]
        pieces.append((encoded[starts[first] : ends[stop - 1]], places, tags))
        first = stop
    return pieces


def tagged_task(
    name: str, train: list[Tagged], held_out: list[Tagged], source: str, *, max_length: int, seed: int
) -> Task:
    """Training and held-out texts as the data of a run; the tags are those of the training texts."""
    names = tuple(
        sorted(
            {tag for text in train for tag in text.tags},
            key=lambda tag: (tag != OUTSIDE, tag[2:] * (tag[1:2] == "-"), tag),
        )
    )
    if len(names) < 2:
        raise InputError(f"{name}: expected at least two tags, got {', '.join(names)}")
    whole = all(text.units == units_of(text.text, "characters") for text in train)
    first, second = (TaggedTexts(part, names, length=max_length, seed=seed) for part in (train, held_out))
    unit: Unit = "characters" if whole else "words"
    overrides = dict(num_labels=len(names), max_length=max_length, unit=unit)
    return Task(name, first, second, overrides, source, names)


def treebank_files() -> list[tuple[Path, list[Tagged]]]:
    """The two Turkish treebanks, each file with its sentences; MissingPackage without turkish-treebanks."""
    try:
        known = files("turkish-treebanks") or []
    except PackageNotFoundError:
        install = "pip install turkish-treebanks"
        raise MissingPackage(f"treebanks ship in the package turkish-treebanks: {install}") from None
    paths = sorted(Path(str(file.locate())) for file in known if file.suffix == ".conllu")
    return [(path, read_conll(path)) for path in paths]


def treebank_texts() -> tuple[list[Tagged], list[Tagged]]:
    """Sentences of two Turkish treebanks with parts of speech; every tenth is held out."""
    sentences = [sentence for _, own in treebank_files() for sentence in own]
    return [s for i, s in enumerate(sentences) if i % 10 != 9], sentences[9::10]


def tag_baseline(train: Sequence[Tagged], held_out: Sequence[Tagged]) -> float:
    """The accuracy of each word's most frequent tag in the training texts, and of the most frequent of all for others.

    >>> texts = [from_words(["a", "b", "a"], ["X", "Y", "X"], "here")]
    >>> tag_baseline(texts, [from_words(["a", "c"], ["X", "Y"], "here")])
    0.5
    """
    words: dict[str, Counter[str]] = defaultdict(Counter)
    for word, tag in _word_tags(train):
        words[word][tag] += 1
    common = sum(words.values(), Counter()).most_common(1)[0][0]
    best = {word: tags.most_common(1)[0][0] for word, tags in words.items()}
    right = [best.get(word, common) == tag for word, tag in _word_tags(held_out)]
    return sum(right) / len(right)


def _word_tags(texts: Sequence[Tagged]) -> Iterator[tuple[str, str]]:
    return ((one.text[a:b], tag) for one in texts for (a, b), tag in zip(one.units, one.tags, strict=True))


def treebank(*, max_length: int = 2048, seed: int = 0) -> Task:
    """Parts of speech of Turkish words."""
    return tagged_task("treebank", *treebank_texts(), TREEBANK_SOURCE, max_length=max_length, seed=seed)


def tagged_files(path: Path, *, max_length: int = 2048, seed: int = 0) -> Task:
    """CoNLL files or JSON lines, a file or a folder; ``records.open_records`` says what is held out."""
    train, held_out = open_records(path, READERS)
    return tagged_task(path.name, train, held_out, str(path), max_length=max_length, seed=seed)
