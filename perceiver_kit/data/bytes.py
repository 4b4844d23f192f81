"""UTF-8 byte tokenizer: 262 ids, no learned vocabulary.

======== ====================================================================
id       meaning
======== ====================================================================
0 to 5   ``[PAD]`` ``[BOS]`` ``[EOS]`` ``[MASK]`` ``[CLS]`` ``[SEP]``
6 to 261 the byte ``id - 6`` of the text in UTF-8
======== ====================================================================

A text becomes ``[CLS] A [SEP]``, a pair of texts ``[CLS] A [SEP] B [SEP]``, as in the published language
Perceivers. ``[BOS]`` and ``[EOS]`` have ids but are not used.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int64
from torch import Tensor

from ..block import Settings
from ..checking import check_positive, describe_value
from ..errors import InputError, nearest
from ..flags import checked_flags

Truncation = Literal["longest_first", "only_first", "only_second"]
TRUNCATIONS = ("longest_first", "only_first", "only_second")
SPECIAL = ("[PAD]", "[BOS]", "[EOS]", "[MASK]", "[CLS]", "[SEP]")  # index = id
BYTE_OFFSET = len(SPECIAL)
_SPECIAL_IN_TEXT = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")


class TextBatch(NamedTuple):
    """A padded batch: ``model(batch.ids, mask=batch.keep)``."""

    ids: Int64[Tensor, "b n"]  # 0 to 261; padding is 0
    keep: Bool[Tensor, "b n"]  # False for padding


class TextOffsets(NamedTuple):
    """Where each id of a batch stands. Ids that are added, and padding, have (0, 0), -1 and -1."""

    chars: Int64[Tensor, "b n 2"]  # its character in the text: start, and end after it
    words: Int64[Tensor, "b n"]  # the number of its word; -1 for white space
    texts: Int64[Tensor, "b n"]  # 0 for the text, 1 for its pair


@dataclass(frozen=True)
class ByteTokenizer(Settings):
    """Texts ⇄ ids.

    Args:
        max_length: maximum ids per row, special ids included; longer texts are truncated. None: no limit.
        parse_special: encode a special string in a text, such as ``[MASK]``, as its single id, as the published
            models do. False encodes it as bytes: use this for untrusted text.

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
        super().__post_init__()
        if self.max_length is not None:
            check_positive("ByteTokenizer", least=2, max_length=self.max_length)

    @checked_flags
    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = "longest_first",
        pad_to: int | None = None,
        special: bool = True,
    ) -> TextBatch:
        """Encode a batch of texts or of pairs: ids (b, n) and keep (b, n), the padding mask.

        Args:
            texts: a list of texts; one text is a batch of one. Empty texts are allowed.
            pairs: the second texts, one for each of ``texts``.
            max_length: overrides the tokenizer's.
            truncation: which end to cut in a row that is too long. ``"longest_first"``: the longer text's, then
                both; ``"only_first"`` or ``"only_second"``: that text's. None: raise an error.
            pad_to: n. None: the length of the longest row.
            special: add ``[CLS]`` and ``[SEP]``.

        Raises:
            InputError: no texts, a value that is not a str, unequal numbers of texts and pairs, a row that cannot
                be truncated to max_length or is longer than pad_to.
        """
        firsts = _texts(texts, "texts")
        seconds = [None] * len(firsts) if pairs is None else _texts(pairs, "pairs")
        if len(seconds) != len(firsts):
            raise InputError(f"pairs has {len(seconds)} texts but texts has {len(firsts)}; give one for each")
        rows = [
            self._row(first, second, max_length, truncation, (f"texts[{i}]", f"pairs[{i}]"), special)
            for i, (first, second) in enumerate(zip(firsts, seconds, strict=True))
        ]
        lengths = [len(row) for row in rows]
        longest = max(lengths)
        n = longest if pad_to is None else _check_int(pad_to, "pad_to", least=1)
        if longest > n:
            which = f"texts[{lengths.index(longest)}] takes {longest} ids"
            raise InputError(f"pad_to is {n} but {which}; raise pad_to, or truncate with max_length={n}")
        ids = torch.tensor([row + [self.pad_id] * (n - len(row)) for row in rows])
        return TextBatch(ids, torch.arange(n) < rearrange(torch.tensor(lengths), "b -> b 1"))

    @checked_flags
    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        max_length: int | None = None,
        truncation: Truncation | None = "longest_first",
        special: bool = True,
    ) -> list[int]:
        """Encode one text or pair as a list of ids, without padding; ``special`` adds ``[CLS]`` and ``[SEP]``.

        >>> ByteTokenizer().encode("abc", "d")
        [4, 103, 104, 105, 5, 106, 5]
        """
        return self._row(text, pair, max_length, truncation, ("text", "pair"), special)

    def offsets(
        self, texts: str | Sequence[str], pairs: str | Sequence[str] | None = None, **options: Any
    ) -> TextOffsets:
        """Where each id of ``self(texts, pairs, **options)`` stands in its text: the same options, rows and errors.

        All bytes of a character have its place. A word is what stands between white space.

        >>> where = ByteTokenizer().offsets("é go")
        >>> where.chars[0].tolist()
        [[0, 0], [0, 1], [0, 1], [1, 2], [2, 3], [3, 4], [0, 0]]
        >>> where.words[0].tolist()
        [-1, 0, 0, -1, 1, 1, -1]
        """
        ids, _ = self(texts, pairs, **options)
        where = TextOffsets(ids.new_zeros(*ids.shape, 2), torch.full_like(ids, -1), torch.full_like(ids, -1))
        firsts = _texts(texts, "texts")
        seconds = [None] * len(firsts) if pairs is None else _texts(pairs, "pairs")
        special, limit = options.get("special", True), options.get("max_length")
        for row, both in enumerate(zip(firsts, seconds, strict=True)):
            cut = self._truncated(*both, limit, options.get("truncation", "longest_first"), ("", ""), special)
            end = 0
            for side, (text, kept) in enumerate(zip(both, cut, strict=True)):
                if not text or not kept:
                    end += special * (text is not None)
                    continue
                start = end + special
                end = start + len(kept)
                places = torch.tensor(self._places(text)[: len(kept)])
                where.chars[row, start:end], where.words[row, start:end] = places[:, :2], places[:, 2]
                where.texts[row, start:end] = side
        return where

    @checked_flags
    def decode(self, ids: Iterable[int] | Tensor | np.ndarray, *, skip_special: bool = False) -> str:
        """Decode ids (n,) to text. Special ids become ``[CLS]`` and so on, or are skipped.

        Invalid UTF-8 becomes U+FFFD: a model may generate it, and truncation may split a character.

        Raises:
            InputError: ids are not one row of ints from 0 to 261.

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
                raise InputError(f"ids[{i}] must be an int from 0 to {last}, got {value!r}")
            if number >= BYTE_OFFSET:
                text.append(number - BYTE_OFFSET)
            elif not skip_special:
                text += SPECIAL[number].encode()
        return text.decode("utf-8", errors="replace")

    def _row(
        self,
        text: str,
        pair: str | None,
        limit: int | None,
        truncation: str | None,
        names: tuple[str, str],
        special: bool,
    ) -> list[int]:
        first, second = self._truncated(text, pair, limit, truncation, names, special)
        if not special:
            return [*first, *(second or [])]
        row = [self.cls_id, *first, self.sep_id]
        return row if second is None else [*row, *second, self.sep_id]

    def _truncated(
        self,
        text: str,
        pair: str | None,
        limit: int | None,
        truncation: str | None,
        names: tuple[str, str],
        special: bool,
    ) -> tuple[list[int], list[int] | None]:
        """The ids of both texts, cut to the limit."""
        if truncation not in (*TRUNCATIONS, None):
            raise InputError(f"truncation is {truncation!r}; {nearest(truncation, TRUNCATIONS)}, or None")
        if truncation == "only_second" and pair is None:
            raise InputError('truncation="only_second" needs pairs; give them, or use "longest_first"')
        first = self._ids(text, names[0])
        second = None if pair is None else self._ids(pair, names[1])
        limit = self.max_length if limit is None else limit
        if limit is not None:
            added = 0 if not special else 2 if second is None else 3
            why = ", for the special ids" if special else ""
            room = _check_int(limit, "max_length", least=max(1, added), why=why) - added
            first, second = _truncate(first, second, room, truncation, names)
        return first, second

    def _places(self, text: str) -> list[tuple[int, int, int]]:
        """Start, end and word of the character of each id; the word is -1 for white space."""
        places: list[tuple[int, int, int]] = []
        word, inside, start = -1, False, 0
        for i, piece in enumerate(_SPECIAL_IN_TEXT.split(text) if self.parse_special else [text]):
            for part in [piece] if i % 2 else piece:  # re.split puts the special strings at odd indices
                blank = part.isspace()
                word += not blank and not inside
                inside = not blank
                count = 1 if i % 2 else len(part.encode())
                places += [(start, start + len(part), -1 if blank else word)] * count
                start += len(part)
        return places

    def _ids(self, text: str, name: str) -> list[int]:
        if not isinstance(text, str):
            hint = "; pass second texts as pairs=" if isinstance(text, list | tuple) else ""
            raise InputError(f"{name} must be a str, got {describe_value(text)}{hint}")
        ids: list[int] = []
        for i, piece in enumerate(_SPECIAL_IN_TEXT.split(text) if self.parse_special else [text]):
            if i % 2:  # re.split puts the matches at odd indices
                ids.append(SPECIAL.index(piece))
                continue
            try:
                ids.extend(byte + BYTE_OFFSET for byte in piece.encode("utf-8"))
            except UnicodeEncodeError as error:
                lone = f"the lone surrogate {piece[error.start]!r}, which UTF-8 cannot encode"
                repair = 'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")'
                raise InputError(f"{name} contains {lone}; repair it: {repair}") from None
        return ids


def _truncate(
    first: list[int], second: list[int] | None, room: int, truncation: str | None, names: tuple[str, str]
) -> tuple[list[int], list[int] | None]:
    """Truncate both texts at their ends to at most ``room`` ids in total."""
    a, b = len(first), len(second or [])
    if a + b <= room:
        return first, second
    if truncation is None:
        took = f"{names[0]} takes {a + b} ids" + (f" with {names[1]}" if second else "")
        hint = 'shorten it, raise max_length, or pass truncation="longest_first"'
        raise InputError(f"{took}, but max_length leaves {room} for text; {hint}")
    if truncation == "longest_first":  # half of the room each; a shorter text passes on what it leaves
        a = min(a, max(room - b, room - room // 2))
        b = room - a
    elif truncation == "only_first":
        a = room - b
    else:
        b = room - a
    if min(a, b) < 0:
        other = f"{names[1 if a < 0 else 0]} alone has more than {room} ids"
        hint = 'raise max_length, or use "longest_first"'
        raise InputError(f'truncation="{truncation}" is not enough: {other}; {hint}')
    return first[:a], None if second is None else second[:b]


def _texts(texts: object, name: str) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Sequence) or isinstance(texts, bytes):
        raise InputError(f"{name} must be a str or a list of str, got {describe_value(texts)}")
    if not texts:
        raise InputError(f'{name} is empty; give at least one text (it may be "")')
    return list(texts)


def _index(value: object) -> int | None:
    """A Python, numpy or torch integer as an int; None for anything else, bools included."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def _check_int(value: object, name: str, *, least: int, why: str = "") -> int:
    number = _index(value)
    if number is None or number < least:
        raise InputError(f"{name} must be an int of at least {least}{why}, got {value!r}")
    return number
