"""Tags and answers of raw texts: places in every script, windows of long texts, and what is refused."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import perceiver_kit as kit
from perceiver_kit.cli import main
from perceiver_kit.processors.tags import join_windows, overlapping_starts

pytestmark = pytest.mark.usefixtures("checked")

TEXT = "Zoë met 王小明 in München 🙂, नमस्ते दिल्ली!"


class Marks(nn.Module):
    """Tags B-x for each byte that is not ASCII, I-x for capitals, O for others; starts and ends likewise."""

    labels = {"tags": ("O", "B-x", "I-x")}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: dict, mask: dict | None = None) -> dict:
        ids = inputs["text"] - 6
        kind = torch.where(ids >= 128, 1, torch.where((ids >= 65) & (ids <= 90), 2, 0))
        capital = (kind == 2).float() * 9
        following = ((ids >= 97) & (capital.roll(1, -1) > 0)).float() * 9
        return {"tags": nn.functional.one_hot(kind, 3).float() * 9, "start": capital, "end": following}


def tagger(unit: str, length: int = 64) -> kit.Processor:
    return kit.processors.recipes.tag_text(length, unit)


@pytest.mark.parametrize("unit", ["words", "characters"])
@pytest.mark.parametrize("length", [16, 64, 256])
def test_spans_have_their_places_in_every_script(unit: str, length: int) -> None:
    answer = kit.predict(Marks(), TEXT, processor=tagger(unit, length))
    assert [TEXT[span.start : span.end] for span in answer.best] == [span.text for span in answer.best]
    found = [span.text for span in answer.best]
    if unit == "words":
        assert found == ["Zoë", "王小明", "München", "🙂", "नमस्ते", "दिल्ली"]
    else:
        assert found[:6] == ["Z", "ë", "王", "小", "明", "M"]
    assert json.loads(json.dumps(answer.json()))["best"][0]["end"] == answer.best[0].end
    shown = answer._repr_html_()
    assert shown.count("<span") == len(answer.best)
    assert "<" not in kit.predict(Marks(), "<b> Ünit", processor=tagger(unit))._repr_html_().split("&lt;b&gt;")[1][:1]


def test_long_texts_are_read_in_windows_as_a_whole() -> None:
    long = TEXT * 20
    whole = kit.predict(Marks(), long, processor=tagger("words", 4096))
    parts = kit.predict(Marks(), [long, TEXT], processor=tagger("words", 32), progress=False)
    assert parts[0].best == whole.best
    assert len(parts[1].best) == 6
    starts = overlapping_starts(100, 32)
    rows = [torch.arange(start, start + 32.0)[:, None] for start in starts]
    torch.testing.assert_close(join_windows(rows, 100, 32)[:, 0], torch.arange(100.0))


def test_a_tagger_refuses_white_space() -> None:
    with pytest.raises(kit.InputError, match="only white space"):
        kit.predict(Marks(), "  \n ", processor=tagger("words"))


@pytest.mark.parametrize("length", [40, 512])
def test_answers_have_their_places_and_questions_cannot_win(length: int) -> None:
    context = "日本語 🙂 é " * 9 + "xx Ab yy"
    processor = kit.processors.recipes.answer_text(length, unanswerable=True)
    answer = kit.predict(Marks(), ("WHO Is?", context), processor=processor)
    assert answer.best == "Ab" == context[answer.start : answer.end]
    assert "<mark>Ab</mark>" in answer._repr_html_()
    assert next(iter(answer.scores)) == "Ab"
    assert json.loads(json.dumps(answer.json()))["start"] == answer.start


def test_no_answer_wins_only_where_it_may() -> None:
    class Null(Marks):
        def forward(self, inputs: dict, mask: dict | None = None) -> dict:
            first = torch.zeros_like(inputs["text"], dtype=torch.float).index_fill(1, torch.tensor([0]), 9.0)
            return {"start": first, "end": first}

    for allowed, context in itertools.product((True, False), ("It was", "It was long ago. " * 9)):
        processor = kit.processors.recipes.answer_text(64, unanswerable=allowed)
        answer = kit.predict(Null(), ("Who?", context), processor=processor)
        assert (answer.best is None) == allowed
    assert str(kit.predict(Null(), ("Who?", "It"), processor=kit.processors.recipes.answer_text(64))).endswith(
        "no answer"
    )


def test_a_text_in_many_places_is_added_up() -> None:
    class Often(Marks):
        """Ten names of one letter with a logit of 4, and another of 5."""

        def forward(self, inputs: dict, mask: dict | None = None) -> dict:
            ids = inputs["text"] - 6
            logits = 4.0 * (ids == ord("A")) + 5.0 * (ids == ord("B"))
            return {"start": logits, "end": logits}

    context = "B and " + "A and " * 10
    processor = kit.processors.recipes.answer_text(128, unanswerable=False, longest=1)
    answer = kit.predict(Often(), ("Who?", context), processor=processor)
    assert answer.best == "A"
    assert list(answer.scores)[:2] == ["A", "B"]
    assert len(answer.scores) <= 5


def test_windows_are_compared_with_no_answer_only_where_it_was_trained() -> None:
    class Untrained(Marks):
        """Logits of 9 for "Ab" and of 7 for "Cd"; 8 for row 0 where a window has the former."""

        def forward(self, inputs: dict, mask: dict | None = None) -> dict:
            found = super().forward(inputs)
            ids = inputs["text"] - 6
            for name, of in (("start", "AC"), ("end", "bd")):
                first, second = ((ids == ord(letter)).float() for letter in of)
                found[name] = 9 * first + 7 * second
                found[name][:, 0] = 8 * first.amax(-1)
            return found

    context = "Ab" + " and so on" * 12 + " Cd"
    answers = [
        kit.predict(Untrained(), ("Who?", context), processor=kit.processors.recipes.answer_text(64, unanswerable=may))
        for may in (True, False)
    ]
    assert [answer.best for answer in answers] == ["Cd", "Ab"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("Who?", "a tuple of a question and its context"),
        (("Who?", ""), "got an empty one"),
        (("q" * 60, "It was"), "the question has 60 bytes"),
    ],
)
def test_a_reader_of_questions_refuses(source: object, message: str) -> None:
    with pytest.raises(kit.InputError, match=message):
        kit.predict(Marks(), source, processor=kit.processors.recipes.answer_text(64))


def test_tasks_are_answered_by_name() -> None:
    model = kit.build("multitask_text", preset="tiny", tasks=dict(mood=("bad", "good"), score=1))
    answer = kit.predict(model, ("A text.", "Another."))
    assert answer.best["mood"] in ("bad", "good")
    assert isinstance(answer.best["score"], float)
    assert "mood" in str(answer)
    json.dumps(answer.json())


FILES = {
    "token_classification": ("train.conll", "Ada B-per\nran O\n\n" * 4, ["Ada ran"]),
    "question_answering": (
        "train.jsonl",
        '{"question": "Who?", "context": "It was Ada.", "answers": [{"text": "Ada", "answer_start": 7}]}\n' * 4,
        ["Who?", "It was Bob."],
    ),
    "multitask_text": ("mood.tsv", "text\tlabel\n" + "good\tup\nbad\tdown\n" * 4, ["good"]),
}


@pytest.mark.parametrize("recipe", FILES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_trains_on_own_files_and_predicts(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("pytorch_lightning", reason="training needs pytorch-lightning")
    name, text, source = FILES[recipe]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text(text)
    run = str(tmp_path / "run")
    arguments = [recipe, "--data", str(tmp_path / "data"), "--out", run, "--steps", "2", "--batch", "2"]
    assert main(["train", *arguments]) == 0
    capsys.readouterr()
    assert main(["predict", run, *source, "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert "best" in json.loads(line)
