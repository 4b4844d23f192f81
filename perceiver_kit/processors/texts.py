"""Texts as bytes, the filling of masked bytes, and what follows a text."""

from __future__ import annotations

import html
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from ..checking import check_positive
from ..data.bytes import BYTE_OFFSET, SPECIAL, ByteTokenizer
from ..data.files import PICTURES, SOUNDS, TEXTS, VIDEOS, read_text
from ..errors import InputError
from ..generation import generate
from ..registry import register
from .base import TOP, Answer, Interpreter, Item, Processor, Reader

FILES = (*TEXTS, *PICTURES, *VIDEOS, *SOUNDS)


@register("processors")
@dataclass(frozen=True)
class Text(Reader):
    """A text as the ids of its bytes, int64 (n,): a str, a tuple of two, ids, or the path of a ``.txt`` file.

    A str is a path if it names an existing file or folder, or is one word with the suffix of a file.

    Args:
        max_length: ids at most; longer texts are cut.
        special: whether ``[CLS]`` and ``[SEP]`` surround the text.
        parse_special: whether ``[MASK]`` and the like in a text are single ids.
        cut: False leaves them whole, for an interpreter that divides them into windows.

    >>> processors.Text(max_length=6).read("[MASK]bcdefg")
    tensor([  4,   3, 104, 105, 106,   5])
    """

    max_length: int = 2048
    special: bool = True
    parse_special: bool = True
    cut: bool = True
    suffixes: ClassVar[tuple[str, ...]] = TEXTS
    ragged: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("Text", least=2, max_length=self.max_length)

    def path(self, source: Any) -> Path | None:
        if isinstance(source, Path):
            return source
        if not isinstance(source, str) or not source.strip() or len(source) > 1000 or "\0" in source:
            return None
        path = Path(source)
        is_name = path.suffix.lower() in FILES and not any(map(str.isspace, source))
        try:
            return path if is_name or path.exists() else None
        except OSError:  # too long for a name
            return None

    def read(self, source: Any) -> Int64[Tensor, "n"]:
        if isinstance(source, Tensor) and source.ndim == 1 and source.dtype == torch.int64:
            return source
        parts = source if isinstance(source, tuple) else (source,)
        if len(parts) not in (1, 2) or not all(isinstance(part, str | Path) for part in parts):
            raise self.refuse(source, "a text, a tuple of two texts, or the path of a .txt file")
        if not any(map(str, parts)):
            raise InputError("source: expected a text, got an empty one")
        tokenizer = ByteTokenizer(max_length=None, parse_special=self.parse_special)
        room = self.max_length if self.special else self.max_length + 2
        ids = tokenizer.encode(*map(self._text, parts), max_length=room if self.cut else None)
        if not self.special:
            ids = ids[1:-1]
        return torch.tensor(ids)

    def _text(self, source: Any) -> str:
        path = self.path(source)
        if path is None:
            return source
        if path.suffix.lower() not in self.suffixes:
            raise self.refuse(path, "a text or the path of a .txt file")
        return read_text(path)

    def huggingface_files(self) -> dict[str, dict[str, Any]]:
        settings = {"tokenizer_class": "PerceiverTokenizer", "model_max_length": self.max_length}
        return {"tokenizer_config.json": settings}


@dataclass(frozen=True, repr=False)
class FilledAnswer(Answer):
    """A text whose masked bytes are filled."""

    parts: tuple[tuple[str, bool], ...] = ()  # pieces of the text, and whether each was masked

    def json(self) -> dict[str, Any]:
        return super().json() | {"scores": [dict([*scores.items()][:TOP]) for scores in self.scores]}

    def _repr_html_(self) -> str:
        marked = (f"<mark>{html.escape(text)}</mark>" if masked else html.escape(text) for text, masked in self.parts)
        return f"<div><p>{''.join(marked)}</p></div>"


@register("processors")
@dataclass(frozen=True)
class FilledText(Interpreter):
    """Fills each ``[MASK]`` of a text with its likeliest byte.

    ``best`` is the text; ``scores`` has for each mask the probabilities by byte, the highest first.

    Args:
        text: the input and the output with the ids of the text.
    """

    text: str = "text"

    def prepare(self, item: Item) -> Item:
        ids = item.inputs[self.text]
        if not (ids == ByteTokenizer.mask_id).any():
            raise InputError(
                f"source: expected a text with [MASK] for each byte to fill, got none in its first {len(ids)} ids; "
                "write '[MASK][MASK]' for two bytes"
            )
        return item

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> FilledAnswer:
        ids = item.inputs[self.text]
        masked = ids == ByteTokenizer.mask_id
        logits = outputs[self.text][masked]
        scores = tuple(map(by_byte, logits))
        filled = ids.masked_scatter(masked, logits.argmax(-1))
        tokenizer = ByteTokenizer(max_length=None)
        parts: list[tuple[str, bool]] = []
        starts = [0, *(1 + (masked[1:] != masked[:-1]).nonzero()[:, 0]).tolist(), len(ids)]
        for start, end in pairwise(starts):
            parts.append((tokenizer.decode(filled[start:end], skip_special=not masked[start]), bool(masked[start])))
        best = tokenizer.decode(filled, skip_special=True)
        return FilledAnswer(source, best, scores, outputs, processor, parts=tuple(parts))


@register("processors")
@dataclass(frozen=True)
class Prompt(Text):
    """The end of a text, which a model continues: the last ``max_length`` ids, int64 (n,).

    >>> processors.Prompt(max_length=3).read("abcde")
    tensor([105, 106, 107])
    """

    special: bool = False
    parse_special: bool = False
    ragged: ClassVar[bool] = False  # outputs belong to the last rows, so that texts of one length are read together

    def read(self, source: Any) -> Int64[Tensor, "n"]:
        return Text(2**30, self.special, self.parse_special).read(source)[-self.max_length :]


@dataclass(frozen=True, repr=False)
class ContinuedAnswer(Answer):
    """The text that follows another."""

    prompt: str = ""  # what the model read

    def json(self) -> dict[str, Any]:
        return super().json() | {"scores": dict([*self.scores.items()][:TOP])}

    def _repr_html_(self) -> str:
        return f"<div><p>{html.escape(self.prompt)}<mark>{html.escape(self.best)}</mark></p></div>"


@register("processors")
@dataclass(frozen=True)
class Continued(Interpreter):
    """Continues a text by ``kit.generate``: ``best`` is what follows, ``scores`` the probabilities of the next byte.

    Args:
        text: the input and the output with the ids of the text.
        length: the number of new tokens.
        temperature: as of ``kit.generate``, like ``top_k`` and ``seed``; 0 takes the likeliest token.
    """

    text: str = "text"
    length: int = 100
    temperature: float = 0.8
    top_k: int | None = 40
    seed: int = 0

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> ContinuedAnswer:
        ids, tokenizer = item.inputs[self.text], ByteTokenizer(max_length=None)
        sampling = dict(temperature=self.temperature, top_k=self.top_k, seed=self.seed)
        follows = generate(model, ids, length=self.length, **sampling)  # type: ignore[arg-type]
        scores = by_byte(outputs[self.text][-1])
        best = tokenizer.decode(follows, skip_special=True)
        return ContinuedAnswer(source, best, scores, outputs, processor, prompt=tokenizer.decode(ids))


def by_byte(logits: Tensor) -> dict[str, float]:
    """The probability of each byte, by its name, the highest first."""
    values, order = logits.softmax(-1).sort(descending=True)
    return {byte_name(number): value for number, value in zip(order.tolist(), values.tolist(), strict=True)}


def byte_name(number: int) -> str:
    r"""The name of an id: an ASCII letter, ``[MASK]`` and the like, or a byte such as ``\xc3``.

    >>> byte_name(103), byte_name(3), byte_name(201)
    ('a', '[MASK]', '\\xc3')
    """
    if number < BYTE_OFFSET:
        return SPECIAL[number]
    byte = number - BYTE_OFFSET
    return chr(byte) if byte < 128 else f"\\x{byte:02x}"
