"""ByteTokenizer: round trips, padding, truncation and errors, then parity with the published tokenizer."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perceiver_kit.data.bytes import BYTE_OFFSET, SPECIAL, TRUNCATIONS, ByteTokenizer
from perceiver_kit.errors import AssemblyError, InputError

TOK = ByteTokenizer()
PLAIN = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)  # every script; no surrogates
# Special strings, parts of them, and white space that a tokenizer might strip.
PIECES = st.sampled_from([*SPECIAL, "[MASK", "MASK]", "[", "]", "[mask]", "[UNK]", " ", "\n", "\t", "  ", "é", "😀"])
TEXTS = PLAIN | st.lists(PIECES | PLAIN, max_size=8).map("".join)
IDS = st.lists(st.integers(0, 261), max_size=40)

patient = settings(deadline=None, max_examples=max(100, settings().max_examples))


def test_encode_adds_cls_and_sep() -> None:
    assert TOK.encode("aé") == [4, 97 + 6, 0xC3 + 6, 0xA9 + 6, 5]
    assert TOK.encode("a", "b") == [4, 103, 5, 104, 5]
    assert TOK.encode("") == [4, 5]
    assert TOK.encode("", "") == [4, 5, 5]
    assert TOK.encode(" a [MASK] b ") == [4, 38, 103, 38, 3, 38, 104, 38, 5]


def test_special_strings_encode_as_bytes_without_parse_special() -> None:
    tok = ByteTokenizer(parse_special=False)
    assert tok.encode("[MASK]") == [4, *(byte + 6 for byte in b"[MASK]"), 5]
    assert tok.decode(tok.encode("[MASK]"), skip_special=True) == "[MASK]"


@patient
@given(PLAIN)
def test_decode_undoes_encode(text: str) -> None:
    tok = ByteTokenizer(max_length=None, parse_special=False)
    assert tok.decode(tok.encode(text), skip_special=True) == text
    assert tok.decode(tok.encode(text)) == f"[CLS]{text}[SEP]"


@patient
@given(IDS)
def test_decode_takes_lists_arrays_and_tensors(ids: list[int]) -> None:
    text = TOK.decode(ids)
    assert TOK.decode(tuple(ids)) == text
    assert TOK.decode(iter(ids)) == text
    assert TOK.decode(np.array(ids, dtype=np.int16)) == text
    assert TOK.decode(torch.tensor(ids, dtype=torch.int64)) == text


def test_max_length_of_the_call_overrides_the_default() -> None:
    tok = ByteTokenizer(max_length=5)
    assert len(tok.encode("x" * 9)) == 5
    assert len(tok.encode("x" * 9, max_length=7)) == 7
    assert tok("x" * 9, max_length=7).ids.shape == (1, 7)
    assert len(TOK.encode("x" * 3000)) == 2048
    assert len(ByteTokenizer(max_length=None).encode("x" * 3000)) == 3002
    assert tok.encode("xyz", truncation=None) == [4, 126, 127, 128, 5]  # exactly full


def test_tokenizers_compare_pickle_and_print() -> None:
    tok = ByteTokenizer(max_length=9)
    assert pickle.loads(pickle.dumps(tok)) == tok != TOK
    assert repr(tok) == "ByteTokenizer(max_length=9, parse_special=True)"


# Errors

CALLS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    ((7,), {}, "texts must be a str or a list of str, got an int"),
    ((b"abc",), {}, "texts must be a str or a list of str, got a bytes"),
    (({"a": "b"},), {}, "texts must be a str or a list of str, got a dict"),
    (([],), {}, 'texts is empty; give at least one text (it may be "")'),
    (("a", []), {}, 'pairs is empty; give at least one text (it may be "")'),
    ((["a", b"b"],), {}, "texts[1] must be a str, got a bytes"),
    ((["a", None],), {}, "texts[1] must be a str, got None"),
    (([("a", "b")],), {}, "texts[0] must be a str, got a tuple; pass second texts as pairs="),
    ((["a"], [3]), {}, "pairs[0] must be a str, got an int"),
    ((["a", "b"], ["c"]), {}, "pairs has 1 texts but texts has 2; give one for each"),
    (
        ("a\ud800",),
        {},
        "texts[0] contains the lone surrogate '\\ud800', which UTF-8 cannot encode; repair it: "
        'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
    ),
    (("a",), {"max_length": 1}, "max_length must be an int of at least 2, for the special ids, got 1"),
    (("a", "b"), {"max_length": 2}, "max_length must be an int of at least 3, for the special ids, got 2"),
    (("a",), {"max_length": 8.0}, "max_length must be an int of at least 2, for the special ids, got 8.0"),
    (("a",), {"pad_to": 0}, "pad_to must be an int of at least 1, got 0"),
    (("a",), {"pad_to": True}, "pad_to must be an int of at least 1, got True"),
    (
        (["a", "abcd"],),
        {"pad_to": 5},
        "pad_to is 5 but texts[1] takes 6 ids; raise pad_to, or truncate with max_length=5",
    ),
    (
        ("a",),
        {"truncation": "longest"},
        "truncation is 'longest'; did you mean 'longest_first'? There are: longest_first, only_first, "
        "only_second, or None",
    ),
    (("a",), {"truncation": "only_second"}, 'truncation="only_second" needs pairs; give them, or use "longest_first"'),
    (
        (["abc", "abcdefg"],),
        {"truncation": None, "max_length": 6},
        "texts[1] takes 7 ids, but max_length leaves 4 for text; shorten it, raise "
        'max_length, or pass truncation="longest_first"',
    ),
    (
        ("abc", "de"),
        {"truncation": None, "max_length": 7},
        "texts[0] takes 5 ids with pairs[0], but max_length leaves 4 for text; "
        'shorten it, raise max_length, or pass truncation="longest_first"',
    ),
    (
        ("abc", "defgh"),
        {"truncation": "only_first", "max_length": 7},
        'truncation="only_first" is not enough: pairs[0] alone has more than 4 ids; raise max_length, or use '
        '"longest_first"',
    ),
    (
        ("abcdef", "gh"),
        {"truncation": "only_second", "max_length": 7},
        'truncation="only_second" is not enough: texts[0] alone has more than 4 ids; raise max_length, or '
        'use "longest_first"',
    ),
]


ENCODE: list[tuple[Any, ...]] = [
    ((3,), {}, "text must be a str, got an int"),
    ((["a"],), {}, "text must be a str, got a list; pass second texts as pairs="),
    (("a", 3), {}, "pair must be a str, got an int"),
]


@pytest.mark.parametrize(
    ("call", "args", "keywords", "message"), [*((TOK, *row) for row in CALLS), *((TOK.encode, *row) for row in ENCODE)]
)
def test_bad_calls_are_refused(call: Any, args: tuple[Any, ...], keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        call(*args, **keywords)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([4, 262], "ids[1] must be an int from 0 to 261, got 262"),
        ([-1], "ids[0] must be an int from 0 to 261, got -1"),
        ([4.0], "ids[0] must be an int from 0 to 261, got 4.0"),
        (torch.tensor([4.0]), "ids[0] must be an int from 0 to 261, got 4.0"),
        (torch.tensor([True]), "ids[0] must be an int from 0 to 261, got True"),
        ("abc", "ids[0] must be an int from 0 to 261, got 'a'"),
        (7, "ids must be one row of ids, got 7; put a single id in a list"),
        (torch.tensor(7), "ids must be one row of ids, got tensor(7); put a single id in a list"),
        (torch.zeros(2, 3).long(), "ids must be one row of ids, but ids[0] is a list; decode row by row"),
    ],
)
def test_decode_refuses_bad_ids(ids: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        TOK.decode(ids)
    assert str(refusal.value) == message


@pytest.mark.parametrize("most", [1, 0, -3, 2.5, True, "9"])
def test_bad_max_length_is_refused(most: Any) -> None:
    with pytest.raises(AssemblyError, match=r"ByteTokenizer: max_length must be an int of at least 2, got"):
        ByteTokenizer(max_length=most)


# Parity with the reference


@pytest.fixture(scope="module")
def reference() -> Any:
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers.PerceiverTokenizer()


@patient
@given(TEXTS, st.none() | TEXTS)
@example("Ελληνικά Русский العربية हिन्दी ไทย 中文 한국어 አማርኛ", "👩‍👩‍👧‍👦🇺🇳 e\u0301 \ufeff \U0010ffff \x00\x7f\r\n\t")
def test_encode_equals_the_reference(reference: Any, text: str, pair: str | None) -> None:
    assert TOK.encode(text, pair) == reference(text, pair).input_ids


@patient
@given(IDS, st.booleans())
@example([4, 0xE4 + 6, 0xB8 + 6, 5, 0xAD + 6], False)  # a special id inside a character
@example([0xE4 + 6, 0xB8 + 6, 3, 0xAD + 6], True)  # which is whole when that id is skipped
@example([0xFF + 6, 0xC0 + 6, 0xED + 6, 0xA0 + 6, 0x80 + 6], False)
def test_decode_equals_the_reference(reference: Any, ids: list[int], skip: bool) -> None:
    assert TOK.decode(ids, skip_special=skip) == reference.decode(ids, skip_special_tokens=skip)


@patient
@given(TEXTS, st.none() | TEXTS, st.integers(3, 30), st.sampled_from(TRUNCATIONS))
def test_truncation_equals_the_reference(
    reference: Any, text: str, pair: str | None, most: int, truncation: Any
) -> None:
    try:
        ids = TOK.encode(text, pair, max_length=most, truncation=truncation)
    except InputError:  # the reference returns a row that is too long, or ignores "only_second"
        special = 2 if pair is None else 3
        kept = text if truncation == "only_second" else pair
        assert (truncation == "only_second" and pair is None) or len(TOK.encode(kept)) - 2 > most - special
    else:
        assert ids == reference(text, pair, max_length=most, truncation=truncation).input_ids


@patient
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4), st.booleans())
@example([("[PAD]", ""), ("", "")], False)
def test_batches_equal_the_reference(reference: Any, drawn: list[tuple[str, str]], paired: bool) -> None:
    texts, pairs = [text for text, _ in drawn], [pair for _, pair in drawn] if paired else None
    batch = TOK(texts, pairs)
    if len(texts) == 1:
        assert torch.equal(TOK(texts[0], pairs and pairs[0]).ids, batch.ids)
    for ours, padding in ((batch, True), (TOK(texts, pairs, pad_to=700), "max_length")):
        theirs = reference(texts, pairs, padding=padding, max_length=700, truncation=True, return_tensors="pt")
        assert torch.equal(ours.ids, theirs.input_ids)
        assert torch.equal(ours.keep, theirs.attention_mask.bool())


def test_the_vocabulary_equals_the_reference(reference: Any) -> None:
    names = [TOK.pad_id, TOK.bos_id, TOK.eos_id, TOK.mask_id, TOK.cls_id, TOK.sep_id]
    assert [TOK.decode([i]) for i in names] == [*SPECIAL]
    assert len(reference) == TOK.vocab_size == BYTE_OFFSET + 256
    assert {reference.decode([i]): i for i in range(6)} == dict(zip(SPECIAL, range(6), strict=True))


@given(texts=st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), min_size=1, max_size=3), data=st.data())
def test_offsets_give_the_character_of_each_id(texts: list[tuple[str, str]], data: st.DataObject) -> None:
    tokenizer, special = ByteTokenizer(parse_special=False), data.draw(st.booleans())
    firsts, seconds = ([text.encode("utf-8", "ignore").decode() for text in side] for side in zip(*texts, strict=True))
    options = dict(special=special, max_length=data.draw(st.sampled_from([None, 9])))
    ids, keep = tokenizer(firsts, seconds, **options)
    where = tokenizer.offsets(firsts, seconds, **options)
    for row, both in enumerate(zip(firsts, seconds, strict=True)):
        seen = [b"", b""]
        for i in range(ids.shape[1]):
            side, (start, end) = int(where.texts[row, i]), where.chars[row, i].tolist()
            if side < 0:
                assert ids[row, i] < 6
                assert (start, end, int(where.words[row, i])) == (0, 0, -1)
                continue
            assert keep[row, i]
            assert end == start + 1
            seen[side] += bytes([int(ids[row, i]) - 6])
            character = both[side][start:end]
            assert int(ids[row, i]) - 6 in character.encode()
            before = both[side][:end].split()
            assert int(where.words[row, i]) == (-1 if character.isspace() else len(before) - 1)
        assert all(text.encode().startswith(found) for text, found in zip(both, seen, strict=True))
        assert int((where.texts[row] >= 0).sum()) == int(keep[row].sum()) - 3 * special


def test_text_without_special_ids() -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.encode("ab", "c", special=False) == [103, 104, 105]
    assert tokenizer.encode("abc", special=False, max_length=1) == [103]
    assert tokenizer.offsets("[MASK] a", special=False).chars[0].tolist() == [[0, 6], [6, 7], [7, 8]]
