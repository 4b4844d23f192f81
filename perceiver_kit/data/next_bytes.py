"""Next bytes or ids: windows of a long text or stream, of which a causal model predicts the last ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Generator

from ..checking import check_positive, check_probability
from ..errors import AssemblyError, InputError
from .bytes import BYTE_OFFSET
from .sampling import Samples
from .texts import IGNORED


class NextIds(Samples):
    """Windows of a stream of ids (n,): ``text`` int64 (length,) → ``text`` (predicted,), the id after each last row.

    In evaluation, item i predicts ids i · predicted + 1 and on after the first ``length - predicted`` ids, so each is
    predicted once, after at least so many. In training its window starts up to ``predicted`` ids later, at random, so
    that every id is predicted at every place; and with probability ``short`` it is cut to 1 to ``length`` ids, the
    rest being padding (``mask``), so that short prompts are seen, too.

    Raises InputError for a stream that is too short.

    >>> item = NextIds(np.arange(56), length=20, predicted=5)[0]
    >>> item["inputs"]["text"][-2:], item["targets"]["text"]
    (tensor([18, 19]), tensor([16, 17, 18, 19, 20]))
    """

    one = "id"
    """What an id is called."""
    offset = 0
    """Added to all ids."""

    def __init__(self, ids: np.ndarray, *, length: int, predicted: int, seed: int = 0, short: float = 0.0) -> None:
        owner, one = type(self).__name__, self.one
        check_positive(owner, length=length, predicted=predicted)
        check_probability(owner, short=short)
        if predicted > length:
            raise AssemblyError(f"{owner}: predicted {predicted} {one}s must be at most length {length}")
        if len(ids) <= length:
            raise InputError(f"a window is {length} {one}s and the next, but the text has only {len(ids)}")
        self.ids, self.length, self.predicted, self.seed, self.short = ids, length, predicted, seed, short

    def __len__(self) -> int:
        return (len(self.ids) - 1 - self.length) // self.predicted + 1

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        start, kept = index * self.predicted, self.length
        if training:
            start += int(torch.randint(self.predicted, (), generator=random))
            start = min(start, len(self.ids) - 1 - self.length)
            if self.short and float(torch.rand((), generator=random, dtype=torch.float32)) < self.short:
                kept = 1 + int(torch.randint(self.length, (), generator=random))
        ids = torch.from_numpy(self.ids[start : start + self.length + 1].astype(np.int64)) + self.offset
        inputs, targets = ids[:-1].clone(), torch.full((self.predicted,), IGNORED)
        inputs[kept:] = 0
        last = ids[1 : kept + 1][-self.predicted :]
        targets[self.predicted - len(last) :] = last
        item: dict[str, Any] = {"inputs": {"text": inputs}, "targets": {"text": targets}}
        return item | {"mask": {"text": torch.arange(self.length) < kept}} if training and self.short else item


class NextBytes(NextIds):
    """``NextIds`` of the bytes of a text.

    >>> data = NextBytes(b"In the beginning God created the heavens and the earth.", length=20, predicted=5)
    >>> item = data[0]
    >>> len(data), item["inputs"]["text"].shape, item["targets"]["text"].shape
    (7, torch.Size([20]), torch.Size([5]))
    """

    one, offset = "byte", BYTE_OFFSET

    def __init__(self, text: bytes | np.ndarray, **sizes: Any) -> None:
        super().__init__(np.frombuffer(text, np.uint8) if isinstance(text, bytes) else text, **sizes)
