"""Questions about a context with the answer in it: SQuAD's files, JSON lines, and the data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Generator, Tensor

from ..checking import check_positive, describe_value, short
from ..errors import InputError
from ..flags import checked_flags
from .bytes import BYTE_OFFSET, ByteTokenizer
from .records import field, json_lines, open_records
from .sampling import Samples
from .task import Task
from .texts import IGNORED

MAX_ANSWERS = 8
"""Right answers of a question that are kept."""


class Question(NamedTuple):
    """A question, its context, the places (start, end) of right answers in characters of it, and where it was read."""

    question: str
    context: str
    answers: tuple[tuple[int, int], ...]  # () if the context has no answer
    where: str

    @property
    def texts(self) -> list[str]:
        """The right answers."""
        return [self.context[start:end] for start, end in self.answers]


def checked_question(question: str, context: str, answers: Sequence[tuple[str, int]], where: str) -> Question:
    """A question whose answers are texts with the character at which each starts.

    Raises InputError, with the place, for an empty text, and for an answer that does not stand there.
    """
    if not question.strip() or not context.strip():
        raise InputError(f"{where}: expected a question and a context, got {short(question)} and {short(context)}")
    places = []
    for text, start in answers:
        found = context[start : start + len(text)] if start >= 0 else ""
        if not text or found != text:
            hint = f"; it stands at {context.index(text)}" if text and text in context else ""
            raise InputError(
                f"{where}: expected the answer {short(text)} at {start} of the context, got {short(found)}{hint}"
            )
        places.append((start, start + len(text)))
    return Question(question, context, tuple(dict.fromkeys(places)), where)


def read_squad(path: Path) -> list[Question]:
    """The questions of a file of SQuAD 1.1 or 2.0.

    Raises InputError, naming the file and the question, for another form, and answers that are not in the context.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected an object with 'data', got {describe_value(document)}")
    questions = []
    for i, article in enumerate(field(document, "data", list, str(path))):
        for j, paragraph in enumerate(_entries(article, "paragraphs", f"{path}: data[{i}]")):
            where = f"{path}: data[{i}].paragraphs[{j}]"
            for k, entry in enumerate(_entries(paragraph, "qas", where)):
                place = f"{where}.qas[{k}]"
                if not isinstance(entry, dict):
                    raise InputError(f"{place}: expected an object, got {describe_value(entry)}")
                known = [] if entry.get("is_impossible") else _answers(field(entry, "answers", list, place), place)
                context = field(paragraph, "context", str, where)
                questions.append(checked_question(field(entry, "question", str, place), context, known, place))
    return questions


def read_question_lines(path: Path) -> list[Question]:
    """The questions of JSON lines: ``{"question": …, "context": …, "answers": [{"text": …, "answer_start": …}]}``.

    ``answers`` may be an object of two lists, ``text`` and ``answer_start``; without an entry there is no answer.

    Raises InputError, naming file and line.
    """
    questions = []
    for where, record in json_lines(path):
        known = record.get("answers")
        if isinstance(known, dict):
            texts, starts = field(known, "text", list, where), field(known, "answer_start", list, where)
            if len(texts) != len(starts):
                raise InputError(f"{where}: expected a start for each answer, got {len(starts)} for {len(texts)}")
            known = [dict(text=text, answer_start=start) for text, start in zip(texts, starts, strict=True)]
        known = _answers(field({"answers": known}, "answers", list, where), where)
        question, context = field(record, "question", str, where), field(record, "context", str, where)
        questions.append(checked_question(question, context, known, where))
    return questions


READERS = {".json": read_squad, ".jsonl": read_question_lines}


def context_windows(question: list[int], context: list[int], length: int, where: str) -> list[tuple[int, list[int]]]:
    """``[CLS]`` question ``[SEP]`` context ``[SEP]`` of at most ``length`` ids: windows, and where each starts.

    They overlap by a half. Raises InputError, with the place, for a question that leaves less than half of the length.

    >>> [window for _, window in context_windows([9], [11, 12, 13, 14], 6, "here")]
    [[4, 9, 5, 11, 12, 5], [4, 9, 5, 12, 13, 5], [4, 9, 5, 13, 14, 5]]
    """
    room = length - len(question) - 3
    if room < min(len(context), length // 4):
        raise InputError(f"{where}: the question has {len(question)} bytes, too many beside a context in {length} ids")
    cls, sep = ByteTokenizer.cls_id, ByteTokenizer.sep_id
    last = max(0, len(context) - room)
    starts = [*range(0, last, max(1, room // 2)), last]
    return [(start, [cls, *question, sep, *context[start : start + room], sep]) for start in starts]


@checked_flags
def allowed_rows(ids: Int64[Tensor, "n"], unanswerable: bool) -> Bool[Tensor, "n"]:
    """The rows that may be an answer: the context, and row 0 for none.

    >>> allowed_rows(torch.tensor([4, 9, 5, 11, 12, 5, 0]), True)
    tensor([ True, False, False,  True,  True, False, False])
    """
    separators = (ids == ByteTokenizer.sep_id).cumsum(0)
    allowed = (separators == 1) & (ids >= BYTE_OFFSET)
    allowed[0] = unanswerable
    return allowed


class Questions(Samples):
    """Questions with their contexts: ``text`` int64 (length,) → ``start`` and ``end`` int64 (``MAX_ANSWERS``,).

    The text is ``[CLS]`` question ``[SEP]`` context ``[SEP]``. Targets are the first and the last byte of each right
    answer, row 0 where there is none, and ``allowed`` bool (length,). A long context gives several samples
    (``context_windows``); without ``unanswerable`` those without an answer are left out.

    Raises InputError as ``context_windows`` does, and for no samples.

    >>> item = Questions([checked_question("Who?", "It was Ada.", [("Ada", 7)], "here")], length=24)[0]
    >>> item["targets"]["start"][0], item["targets"]["end"][0]
    (tensor(13), tensor(15))
    """

    def __init__(self, questions: Sequence[Question], *, length: int, unanswerable: bool = True, seed: int = 0) -> None:
        check_positive("Questions", length=length)
        self.rows: list[tuple[list[int], list[tuple[int, int]]]] = []
        for one in questions:
            question, context = ([byte + BYTE_OFFSET for byte in text.encode()] for text in one[:2])
            places = [[len(one.context[:place].encode()) for place in answer] for answer in one.answers]
            for start, ids in context_windows(question, context, length, one.where):
                first = len(question) + 2 - start
                stop = len(ids) - 1
                inside = [
                    (first + a, first + b - 1)
                    for a, b in places
                    if first + a >= len(question) + 2 and first + b <= stop
                ]
                if inside or unanswerable:
                    self.rows.append((ids, inside[:MAX_ANSWERS] or [(0, 0)]))
        if not self.rows:
            raise InputError("Questions: expected at least one question with an answer, got none")
        self.length, self.unanswerable, self.seed = length, unanswerable, seed

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        ids, answers = self.rows[index]
        text = torch.zeros(self.length, dtype=torch.int64)
        text[: len(ids)] = torch.tensor(ids)
        places = torch.full((2, MAX_ANSWERS), IGNORED)
        places[:, : len(answers)] = torch.tensor(answers).T
        targets = {"start": places[0], "end": places[1], "allowed": allowed_rows(text, self.unanswerable)}
        return {"inputs": {"text": text}, "targets": targets, "mask": {"text": torch.arange(self.length) < len(ids)}}


def question_task(
    name: str, train: list[Question], held_out: list[Question], source: str, *, max_length: int, seed: int
) -> Task:
    """Training and held-out questions as the data of a run; no answer is longer than the longest of training."""
    unanswerable = any(not one.answers for one in [*train, *held_out])
    first, second = (
        Questions(part, length=max_length, unanswerable=unanswerable, seed=seed) for part in (train, held_out)
    )
    longest = max(len(text.encode()) for one in train for text in one.texts or [" "])
    overrides = dict(max_length=max_length, unanswerable=unanswerable, longest=min(longest, max_length))
    return Task(name, first, second, overrides, source)


def question_files(path: Path, *, max_length: int = 2048, seed: int = 0) -> Task:
    """SQuAD's files or JSON lines, a file or a folder; ``records.open_records`` says what is held out."""
    train, held_out = open_records(path, READERS)
    return question_task(path.name, train, held_out, str(path), max_length=max_length, seed=seed)


def _entries(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected an object with {name!r}, got {describe_value(value)}")
    return field(value, name, list, where)


def _answers(values: list[Any], where: str) -> list[tuple[str, int]]:
    for value in values:
        good = isinstance(value, Mapping) and isinstance(value.get("text"), str)
        if not good or type(value.get("answer_start")) is not int:
            raise InputError(f"{where}: expected answers with 'text' and 'answer_start', got {short(value)}")
    return [(value["text"], value["answer_start"]) for value in values]
