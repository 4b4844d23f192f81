"""Next bytes: windows of a long text, of which a causal model predicts the last ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Generator

from ..checks import check_positive, check_probability
from ..errors import AssemblyError, InputError
from .bytes import BYTE_OFFSET
from .sampling import Samples
from .texts import IGNORED


class NextBytes(Samples):
    """Windows of a text: ``text`` int64 (length,) → ``text`` (predicted,), the byte after each of the last rows.

    In evaluation, item i predicts bytes i · predicted + 1 and on after the first ``length - predicted`` bytes, so each
    byte is predicted once, after at least so many. In training its window starts up to ``predicted`` bytes later, at
    random, so that every byte is predicted at every place; and with probability ``short`` it is cut to 1 to ``length``
    bytes, the rest being padding (``mask``), so that short prompts are seen, too.

    Raises InputError for a text that is too short.

    >>> data = NextBytes(b"In the beginning God created the heavens and the earth.", length=20, predicted=5)
    >>> item = data[0]
    >>> len(data), item["inputs"]["text"].shape, item["targets"]["text"].shape
    (7, torch.Size([20]), torch.Size([5]))
    """

    def __init__(
        self, text: bytes | np.ndarray, *, length: int, predicted: int, seed: int = 0, short: float = 0.0
    ) -> None:
        check_positive("NextBytes", length=length, predicted=predicted)
        check_probability("NextBytes", short=short)
        if predicted > length:
            raise AssemblyError(f"NextBytes: predicted {predicted} bytes must be at most length {length}")
        self.text = np.frombuffer(text, np.uint8) if isinstance(text, bytes) else text
        if len(self.text) <= length:
            raise InputError(f"a window is {length} bytes and the next, but the text has only {len(self.text)}")
        self.length, self.predicted, self.seed, self.short = length, predicted, seed, short

    def __len__(self) -> int:
        return (len(self.text) - 1 - self.length) // self.predicted + 1

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        start, kept = index * self.predicted, self.length
        if training:
            start += int(torch.randint(self.predicted, (), generator=random))
            start = min(start, len(self.text) - 1 - self.length)
            if self.short and float(torch.rand((), generator=random, dtype=torch.float32)) < self.short:
                kept = 1 + int(torch.randint(self.length, (), generator=random))
        ids = torch.from_numpy(self.text[start : start + self.length + 1].astype(np.int64)) + BYTE_OFFSET
        inputs, targets = ids[:-1].clone(), torch.full((self.predicted,), IGNORED)
        inputs[kept:] = 0
        last = ids[1 : kept + 1][-self.predicted :]
        targets[self.predicted - len(last) :] = last
        item: dict[str, Any] = {"inputs": {"text": inputs}, "targets": {"text": targets}}
        return item | {"mask": {"text": torch.arange(self.length) < kept}} if training and self.short else item
