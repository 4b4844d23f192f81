"""Tagged texts: files, places in every script, splits, and what is refused."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.data.tags import (
    Tagged,
    TaggedTexts,
    from_spans,
    from_words,
    read_conll,
    read_tag_lines,
    tagged_files,
)
from perceiver_kit.data.tags import words_of as words

pytestmark = pytest.mark.usefixtures("checked")

CONLL = "-DOCSTART- -X- O\n\nAda NNP B-per\nLovelace NNP I-per\nwrote VBD O\n\nİzmir NNP B-loc\n. . O\n"
UNIVERSAL = "# text = Ali'ye git.\n1-2\tAli'ye\t_\t_\t_\t_\t_\t_\t_\t_\n1\tAli'ye\tx\tPROPN\t_\t_\t_\t_\t_\t_\n" + (
    "2\tgit\tx\tVERB\t_\t_\t_\t_\t_\tSpaceAfter=No\n3\t.\t.\tPUNCT\t_\t_\t_\t_\t_\t_\n"
)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_conll_files_give_sentences_with_places(tmp_path: Path) -> None:
    first, second = read_conll(written(tmp_path / "a.conll", CONLL))
    assert (first.text, first.tags) == ("Ada Lovelace wrote", ("B-per", "I-per", "O"))
    assert [second.text[a:b] for a, b in second.units] == ["İzmir", "."]
    [third] = read_conll(written(tmp_path / "a.conllu", UNIVERSAL))
    assert (third.text, third.tags) == ("Ali'ye git.", ("PROPN", "VERB", "PUNCT"))


def test_json_lines_give_words_or_spans(tmp_path: Path) -> None:
    lines = [{"tokens": ["a", "b"], "tags": ["X", "Y"]}, {"text": "東京へ", "spans": [[0, 2, "loc"]]}]
    lines.append({"text": "x y", "spans": [{"start": 2, "end": 3, "label": "k"}]})
    path = written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)))
    assert [sample.tags for sample in read_tag_lines(path)] == [
        ("X", "Y"),
        ("B-loc", "I-loc", "O"),
        ("O", "O", "B-k"),
    ]


REFUSED = {
    "a line with another number of columns": ("a.conll", "a X\nb\n", r"a\.conll:2: expected 2 columns"),
    "a line of CoNLL-U without ten columns": ("a.conllu", "1\ta\n", r"a\.conllu:1: expected 10 columns"),
    "tags that do not fit": ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["X"]}', "1: expected a tag for each word"),
    "a span outside": ("a.jsonl", '\n{"text": "ab", "spans": [[1, 3, "k"]]}', r":2: .* within the 2 characters"),
    "overlapping spans": ("a.jsonl", '{"text": "ab", "spans": [[0, 2, "k"], [1, 2, "k"]]}', "do not overlap"),
    "a span without a kind": ("a.jsonl", '{"text": "ab", "spans": [[0, 1]]}', r"\[start, end, kind\]"),
    "broken JSON": ("a.jsonl", "{", r"a\.jsonl:1: expected a JSON object"),
    "a list": ("a.jsonl", "[1]", "expected a JSON object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_files_are_refused_with_file_and_line(tmp_path: Path, case: str) -> None:
    name, text, message = REFUSED[case]
    with pytest.raises(kit.InputError, match=message):
        tagged_files(written(tmp_path / name, text))


def test_an_unknown_tag_names_its_place(tmp_path: Path) -> None:
    written(tmp_path / "train.conll", "a X\nb Y\n")
    written(tmp_path / "dev.conll", "a X\n\nb Z\n")
    with pytest.raises(kit.InputError, match=r"dev\.conll:3: tag 'Z' is not one of the model's"):
        tagged_files(tmp_path, max_length=8)


def test_files_named_dev_are_held_out_and_a_tenth_otherwise(tmp_path: Path) -> None:
    written(tmp_path / "train.conll", "\n\n".join(f"w{i} {'XY'[i % 2]}" for i in range(30)))
    task = tagged_files(tmp_path, max_length=8)
    assert (len(task.train), len(task.held_out), task.classes) == (27, 3, ("X", "Y"))
    written(tmp_path / "dev.conll", "w X")
    written(tmp_path / "test.conll", "w Q")  # not read beside dev
    task = tagged_files(tmp_path, max_length=8)
    assert (len(task.train), len(task.held_out)) == (30, 1)


@given(st.lists(st.tuples(st.text("aé日🙂", min_size=1, max_size=3), st.sampled_from("XY")), min_size=1, max_size=9))
def test_pieces_hold_each_word_once_at_its_first_byte(pairs: list[tuple[str, str]]) -> None:
    sentence = from_words(*zip(*pairs, strict=True), "here")
    data = TaggedTexts([sentence], ("X", "Y"), length=13)
    found = []
    for i in range(len(data)):
        sample = data[i]
        places = (sample["targets"]["tags"] != -100).nonzero()[:, 0].tolist()
        whole = bytes((sample["inputs"]["text"][sample["mask"]["text"]] - 6).tolist())
        for place in places:
            word = re.match(rb"[^ ]+", whole[place:])
            found.append((word[0].decode() if word else "", "XY"[sample["targets"]["tags"][place]]))
    assert found == [(word, tag) for word, tag in pairs]


def test_a_text_is_split_before_a_span() -> None:
    tags = ["O", "O", "B-k", "I-k"]
    data = TaggedTexts([from_words(["aa", "bb", "cc", "dd"], tags, "here")], ("O", "B-k", "I-k"), length=8)
    assert [int((data[i]["targets"]["tags"] != -100).sum()) for i in range(len(data))] == [2, 2]
    with pytest.raises(kit.InputError, match="here: expected words of at most 8 bytes, got 9"):
        TaggedTexts([Tagged("a" * 9, ((0, 9),), ("O",), "here")], ("O",), length=8)


@pytest.mark.parametrize("text", ["Zürich, 3.5!", "हिन्दी में", "שָׁלוֹם עולם", "don't stop", "a_b 🙂🙂", "می‌خواهم"])
def test_words_are_within_white_space_and_cover_the_text(text: str) -> None:
    places = words(text)
    assert "".join(text[a:b] for a, b in places) == "".join(text.split())
    assert all(b <= c for (_, b), (c, _) in pairwise(places))
    assert all(text[a:b].strip() == text[a:b] for a, b in places)


def test_marks_stay_with_their_letters() -> None:
    assert [text for text in ("हिन्दी", "שָׁלוֹם", "don't", "3.5", "می‌خواهم") if len(words(text)) != 1] == []


def test_spans_of_characters_keep_their_places() -> None:
    sample = from_spans("🙂 Ada", [(2, 5, "per")], "here")
    data = TaggedTexts([sample], ("O", "B-per", "I-per"), length=16)
    assert data[0]["targets"]["tags"].tolist()[:8] == [0, -100, -100, -100, 0, 1, 2, 2]
