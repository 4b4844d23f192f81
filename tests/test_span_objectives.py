"""Spans: F1 as seqeval counts it, answers among several, and rows that cannot win."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from perceiver_kit.objectives import AnswerSpan, Tags, best_span, tag_spans

from .objective_cases import measured, random

pytestmark = pytest.mark.usefixtures("checked")

NAMES = ("O", "B-x", "I-x", "E-x", "S-x", "B-y-z", "I-y-z")
sequences = st.lists(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8), min_size=1, max_size=4)


@given(sequences)
def test_spans_are_those_of_seqeval(rows: list[list[str]]) -> None:
    entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    for tags in rows:
        assert [*tag_spans(tags)] == [(kind, start, end + 1) for kind, start, end in entities(tags)]


@pytest.mark.parametrize("seed", range(3))
def test_f1_is_that_of_seqeval_over_batches(seed: int) -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    logits, length = random(6, 9, len(NAMES), seed=seed), 9
    tags = logits.argmax(-1)
    change = random(6, 9, seed=seed + 9) > 0.3
    tags = torch.where(change, torch.randint(len(NAMES), (6, 9), generator=torch.Generator().manual_seed(seed)), tags)
    missing = random(6, 9, seed=seed + 5) > 0.8
    target = tags.masked_fill(missing, -100)
    found = measured(
        Tags(names=NAMES),
        [({"tags": logits[rows]}, {"tags": target[rows]}) for rows in (slice(0, 2), slice(2, 6))],
    )
    named = [
        [[NAMES[values[i, j]] for j in range(length) if not missing[i, j]] for i in range(6)]
        for values in (target, logits.argmax(-1))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {name: getattr(metrics, f"{name}_score")(*named) for name in ("f1", "precision", "recall")}
    assert 0 < expected["f1"] < 1
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_tags_without_spans_have_accuracy_only() -> None:
    assert [*Tags(names=("NOUN", "VERB")).meters()] == ["accuracy"]


@given(st.integers(0, 1000), st.integers(1, 9))
def test_the_best_span_is_that_of_all_pairs(seed: int, longest: int) -> None:
    start, end, free = random(2, 9, seed=seed), random(2, 9, seed=seed + 1), random(2, 9, seed=seed + 2) > -0.5
    free[:, 4] = True
    found = best_span(start, end, free, longest=longest)
    for i in range(2):
        pairs = [
            (start[i, a] + end[i, b], a, b)
            for a in range(9)
            for b in range(a, min(9, a + longest))
            if free[i, a] and free[i, b] and (a > 0 or b == 0)
        ]
        score, first, last = max(pairs)
        assert (int(found.start[i]), int(found.end[i])) == (first, last)
        assert float(found.score[i]) == pytest.approx(float(score))


def targets(start: list, end: list, allowed: torch.Tensor) -> dict:
    return {"start": torch.tensor(start), "end": torch.tensor(end), "allowed": allowed}


def test_rows_that_are_not_allowed_have_no_part_in_loss_and_answer() -> None:
    outputs = {"start": random(1, 6), "end": random(1, 6, seed=1)}
    allowed = torch.tensor([[True, False, True, True, False, True]])
    given = targets([[2, -100]], [[3, -100]], allowed)
    loss, _ = AnswerSpan()(outputs, given)
    inner = allowed[0].nonzero()[:, 0]
    expected = sum(
        float(torch.nn.functional.cross_entropy(outputs[name][0, inner], torch.tensor(place)))
        for name, place in (("start", 1), ("end", 2))
    )
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    louder = {name: logits.masked_fill(~allowed, 99.0) for name, logits in outputs.items()}
    assert float(AnswerSpan()(louder, given)[0]) == pytest.approx(float(loss), abs=1e-5)
    assert measured(AnswerSpan(), [(louder, given)]) == measured(AnswerSpan(), [(outputs, given)])


def test_any_of_several_answers_counts_and_missing_ones_do_not() -> None:
    logits = torch.full((3, 8), -9.0)
    logits[0, 5] = logits[1, 2] = logits[2, 1] = 9.0
    given = targets([[2, 5], [4, -100], [-100, -100]], [[2, 5], [5, -100], [-100, -100]], torch.ones(3, 8).bool())
    found = measured(AnswerSpan(), [({"start": logits, "end": logits}, given)])
    assert found == pytest.approx({"exact_match": 0.5, "f1": 0.5})
    _, parts = AnswerSpan()({"start": logits, "end": logits}, given)
    assert parts["start"] == pytest.approx(9.0, abs=0.1)  # the first is right, the second misses by 18
    half = {"start": torch.zeros(1, 8).index_fill(1, torch.tensor([2]), 9.0), "end": logits[:1]}
    one = targets([[4]], [[5]], torch.ones(1, 8).bool())  # found 2 to 5
    assert measured(AnswerSpan(), [(half, one)])["f1"] == pytest.approx(2 * 2 / (4 + 2))
    assert math.isfinite(parts["end"])
