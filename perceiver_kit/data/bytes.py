"""Text as bytes: no vocabulary to learn, every script alike, 262 ids in all.

======== ====================================================================
id       meaning
======== ====================================================================
0 to 5   ``[PAD]`` ``[BOS]`` ``[EOS]`` ``[MASK]`` ``[CLS]`` ``[SEP]``
6 to 261 the byte ``id - 6`` of the text in UTF-8
======== ====================================================================

A text becomes ``[CLS] A [SEP]``, a pair of texts ``[CLS] A [SEP] B [SEP]``. The published language Perceivers
read this; ``[BOS]`` and ``[EOS]`` have ids and are not used.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from perceiver_kit.checks import check_positive
from perceiver_kit.errors import InputError, nearest

Truncation = Literal["longest_first", "only_first", "only_second"]
TRUNCATIONS = ("longest_first", "only_first", "only_second")
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]")  # the id of each is its place
BYTE_OFFSET = len(SPECIAL)
_SPECIAL_IN_TEXT = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")


class TextBatch(NamedTuple):
    """Texts as a model reads them: ``model(batch.ids, mask=batch.keep)``."""

    ids: Int64[Tensor, "b n"]  # 0 to 261; 0 behind the end of a text
    keep: Bool[Tensor, "b n"]  # True for the ids of a text, False behind its end


@dataclass(frozen=True)
class ByteTokenizer:
    """Texts ⇄ ids.

    Args:
        max_length: the most ids a row may have, special ones included; longer texts are cut. None: no limit.
        parse_special: a special string in a text, such as ``[MASK]``, becomes its one id, as in the published
            models. False takes it for the bytes it is written with: right for text that others wrote.

    >>> tok = ByteTokenizer()
    >>> batch = tok(["Hé!", "[MASK]"])
    >>> batch.ids
    tensor([[  4,  78, 201, 175,  39,   5],
            [  4,   3,   5,   0,   0,   0]])
    >>> batch.keep.sum(dim=1)
    tensor([6, 3])
    >>> tok.decode(batch.ids[0], skip_special=True)
    'Hé!'
    >>> tok("premise", "hypothesis", max_length=10).ids.shape
    torch.Size([1, 10])
    """

    max_length: int | None = 2048
    parse_special: bool = True

    vocab_size: ClassVar[int] = BYTE_OFFSET + 256
    pad_id: ClassVar[int] = 0
    bos_id: ClassVar[int] = 1
    eos_id: ClassVar[int] = 2
    mask_id: ClassVar[int] = 3
    cls_id: ClassVar[int] = 4
    sep_id: ClassVar[int] = 5

    def __post_init__(self) -> None:
        if self.max_length is not None:
            check_positive("ByteTokenizer", least=2, max_length=self.max_length)

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = "longest_first",
        pad_to: int | None = None,
    ) -> TextBatch:
        """A batch of texts, or of pairs of texts: ids (b, n), and which of them may be read, keep (b, n).

        Args:
            texts: a list of texts; one text is a batch of one. ``""`` is a text.
            pairs: as many second texts.
            max_length: in place of the tokenizer's.
            truncation: what a row too long loses: ``"longest_first"`` the end of the longer text, then both
                ends; ``"only_first"`` or ``"only_second"`` the end of that one. None: refuse such a row.
            pad_to: n. None: as long as the longest row.

        Raises:
            InputError: no texts, something that is not text, not as many pairs as texts, a row that cannot be
                brought to max_length or is longer than pad_to.
        """
        firsts = _texts(texts, "texts")
        seconds = [None] * len(firsts) if pairs is None else _texts(pairs, "pairs")
        if len(seconds) != len(firsts):
            raise InputError(f"pairs has {len(seconds)} texts but texts has {len(firsts)}; give one for each")
        rows = [
            self._row(first, second, max_length, truncation, names=(f"texts[{i}]", f"pairs[{i}]"))
            for i, (first, second) in enumerate(zip(firsts, seconds, strict=True))
        ]
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        n = longest if pad_to is None else _whole(pad_to, "pad_to", least=1)
        if longest > n:
            which = f"texts[{lengths.index(longest)}] takes {longest} ids"
            raise InputError(f"pad_to is {n} but {which}; raise pad_to, or cut with max_length={n}")
        ids = torch.tensor([row + [self.pad_id] * (n - len(row)) for row in rows])
        return TextBatch(ids, torch.arange(n) < torch.tensor(lengths)[:, None])

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = "longest_first",
    ) -> list[int]:
        """One text, or pair of texts, as a list of ids: a row of the batch before padding.

        >>> ByteTokenizer().encode("abc", "d")
        [4, 103, 104, 105, 5, 106, 5]
        """
        return self._row(text, pair, max_length, truncation, names=("text", "pair"))

    def decode(self, ids: Iterable[int] | Tensor | np.ndarray, *, skip_special: bool = False) -> str:
        """The text that ids (n,) stand for, with special ids as ``[CLS]`` and so on, or without them.

        Bytes that are not UTF-8 become U+FFFD: a model may write any, and a cut may halve a character.

        Raises:
            InputError: not one row of whole numbers from 0 to 261.

        >>> ByteTokenizer().decode([4, 3, 103, 201, 5])
        '[CLS][MASK]a�[SEP]'
        """
        try:
            row = list(ids.tolist() if isinstance(ids, Tensor | np.ndarray) else ids)
        except TypeError:
            raise InputError(f"ids must be one row of ids, got {ids!r}; put a single id in a list") from None
        text = bytearray()
        for i, value in enumerate(row):
            if isinstance(value, list):
                raise InputError(f"ids must be one row of ids, but ids[{i}] is a list; decode row by row")
            number = _index(value)
            if number is None or not 0 <= number < self.vocab_size:
                last = self.vocab_size - 1
                raise InputError(f"ids[{i}] must be a whole number from 0 to {last}, got {value!r}")
            if number >= BYTE_OFFSET:
                text.append(number - BYTE_OFFSET)
            elif not skip_special:
                text += SPECIAL[number].encode()
        return text.decode("utf-8", errors="replace")

    def _row(
        self, text: str, pair: str | None, limit: int | None, truncation: str | None, names: tuple[str, str]
    ) -> list[int]:
        if truncation not in (*TRUNCATIONS, None):
            raise InputError(f"truncation is {truncation!r}; {nearest(truncation, TRUNCATIONS)}, or None")
        if truncation == "only_second" and pair is None:
            raise InputError('truncation="only_second" needs pairs; give them, or use "longest_first"')
        first = self._ids(text, names[0])
        second = None if pair is None else self._ids(pair, names[1])
        limit = self.max_length if limit is None else limit
        if limit is not None:
            special = 2 if second is None else 3
            room = _whole(limit, "max_length", least=special, why=", to hold the special ids") - special
            first, second = _cut(first, second, room, truncation, names)
        row = [self.cls_id, *first, self.sep_id]
        return row if second is None else [*row, *second, self.sep_id]

    def _ids(self, text: str, name: str) -> list[int]:
        if not isinstance(text, str):
            hint = "; second texts go into pairs=" if isinstance(text, list | tuple) else ""
            raise InputError(f"{name} must be a str, got a {type(text).__name__}{hint}")
        ids: list[int] = []
        for i, piece in enumerate(_SPECIAL_IN_TEXT.split(text) if self.parse_special else [text]):
            if i % 2:  # what the pattern caught stands between what it did not
                ids.append(SPECIAL.index(piece))
                continue
            try:
                ids.extend(byte + BYTE_OFFSET for byte in piece.encode("utf-8"))
            except UnicodeEncodeError as error:
                half = f"{piece[error.start]!r}, half of a surrogate pair, which UTF-8 cannot write"
                mend = 'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
                raise InputError(f"{name} holds {half}; mend it: {mend}") from None
        return ids


def _cut(
    first: list[int], second: list[int] | None, room: int, truncation: str | None, names: tuple[str, str]
) -> tuple[list[int], list[int] | None]:
    """Both texts, shortened at their ends until they have at most ``room`` ids together."""
    a, b = len(first), len(second or [])
    if a + b <= room:
        return first, second
    if truncation is None:
        took = f"{names[0]} takes {a + b} ids" + (f" with {names[1]}" if second else "")
        hint = 'shorten it, raise max_length, or pass truncation="longest_first"'
        raise InputError(f"{took}, but max_length leaves room for {room} beside the special ones; {hint}")
    if truncation == "longest_first":  # half of the room for each, and what the other leaves of its half
        a = min(a, max(room - b, room - room // 2))
        b = room - a
    elif truncation == "only_first":
        a = room - b
    else:
        b = room - a
    if min(a, b) < 0:
        uncut = f"{names[1 if a < 0 else 0]} alone has more than {room} ids"
        hint = 'raise max_length, or use "longest_first"'
        raise InputError(f'truncation="{truncation}" is not enough: {uncut}; {hint}')
    return first[:a], None if second is None else second[:b]


def _texts(texts: object, name: str) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise InputError(f"{name} must be a str or a list of str, got a {type(texts).__name__}")
    if not texts:
        raise InputError(f'{name} is empty; give at least one text ("" is one)')
    return list(texts)


def _index(value: object) -> int | None:
    """A Python, numpy or torch integer as an int; None for anything else, True and False included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def _whole(value: object, name: str, *, least: int, why: str = "") -> int:
    number = _index(value)
    if number is None or number < least:
        raise InputError(f"{name} must be a whole number of at least {least}{why}, got {value!r}")
    return number
