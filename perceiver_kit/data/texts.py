"""Bytes of text, labelled or masked, held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Generator, Tensor

from ..checks import check_positive, check_probability
from ..errors import InputError
from .bytes import BYTE_OFFSET, ByteTokenizer
from .sampling import Samples

IGNORED = -100
"""The target of a byte that is not asked for."""


class Texts(Samples):
    """Texts with one class each: ``text`` int64 (length,) with ``mask`` bool (length,) → ``label`` int64 (), the class.

    A text is ``[CLS]``, its bytes in UTF-8, ``[SEP]``; its end is cut so that this fits ``length``. Nothing here is
    random, in training or out of it.

    Raises InputError where there are no texts, or not as many labels; AssemblyError for a length below 2.

    >>> item = Texts(["ab", "long enough"], [0, 1], length=6)[0]
    >>> item["inputs"]["text"], item["mask"]["text"].sum()
    (tensor([  4, 103, 104,   5,   0,   0]), tensor(4))
    """

    def __init__(self, texts: Sequence[str], labels: Sequence[int], *, length: int, seed: int = 0) -> None:
        check_positive("Texts", least=2, length=length)
        if not texts or len(texts) != len(labels):
            raise InputError(f"Texts needs a label for each text, got {len(texts)} texts and {len(labels)} labels")
        tokenizer = ByteTokenizer(max_length=length, parse_special=False)
        self.ids = np.zeros((len(texts), length), np.int16)
        self.lengths = np.zeros(len(texts), np.int64)
        for row, text in enumerate(texts):
            ids = tokenizer.encode(text[:length])  # the rest cannot matter, for a character is at least a byte
            self.ids[row, : len(ids)], self.lengths[row] = ids, len(ids)
        self.labels, self.length, self.seed = torch.tensor(labels), length, seed

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        return {
            "inputs": {"text": torch.from_numpy(self.ids[index].astype(np.int64))},
            "targets": {"label": self.labels[index]},
            "mask": {"text": torch.arange(self.length) < int(self.lengths[index])},
        }


class MaskedBytes(Samples):
    """Windows of a long text with bytes hidden, as BERT hides words: ``text`` int64 (length,) → ``text`` (length,).

    The target is −100 but where a byte is asked for: at ``rate`` of the places, always the same number. Of these,
    each becomes ``[MASK]`` with probability 0.8, any byte with 0.1, and stays as it is with 0.1. A window is bare
    bytes: it starts and ends anywhere, with no ``[CLS]`` or ``[SEP]``. Item i in training is a window that starts
    in [i · length, (i + 1) · length), in evaluation the one at i · length; less than a window at the end is left.

    With ``visible_target_prob``, training also asks for visible bytes, each with that probability. The model then
    learns the path from a place through the latents to its byte. From the 15 % that are masked alone, a small model
    learns this path only after very many steps, and until then predicts byte frequencies.

    Source of the rates: BERT (Devlin et al. 2019), section 3.1. Perceiver IO hides 15 % too.

    Args:
        text: at least ``length`` bytes.
        length: bytes of a window.
        rate: the share of bytes that are asked for, and most of them hidden.
        visible_target_prob: the probability that any other byte is asked for too, in training; 0 is as published.

    Raises InputError for a text that is too short, AssemblyError for a rate or probability outside [0, 1].

    >>> data = MaskedBytes(b"In the beginning God created the heavens and the earth." * 2, length=20)
    >>> len(data), (data[0]["targets"]["text"] != -100).sum()
    (5, tensor(3))
    """

    def __init__(
        self,
        text: bytes | np.ndarray,
        *,
        length: int,
        seed: int = 0,
        rate: float = 0.15,
        visible_target_prob: float = 0.0,
    ) -> None:
        check_positive("MaskedBytes", length=length)
        check_probability("MaskedBytes", rate=rate, visible_target_prob=visible_target_prob)
        self.text = np.frombuffer(text, np.uint8) if isinstance(text, bytes) else text
        if len(self.text) < length:
            raise InputError(f"a window is {length} bytes, but the text has only {len(self.text)}")
        self.length, self.seed, self.rate, self.visible_target_prob = length, seed, rate, visible_target_prob
        self.asked = max(1, round(rate * length))

    def __len__(self) -> int:
        return len(self.text) // self.length

    def start(self, index: int, random: Generator, training: bool) -> int:
        """Where in the text the window of an item starts."""
        if not training:
            return index * self.length
        moved = index * self.length + int(torch.randint(self.length, (), generator=random))
        return min(moved, len(self.text) - self.length)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        start = self.start(index, random, training)
        ids = torch.from_numpy(self.text[start : start + self.length].astype(np.int64)) + BYTE_OFFSET
        asked = torch.zeros(self.length, dtype=torch.bool)
        asked[torch.randperm(self.length, generator=random)[: self.asked]] = True
        read = _hidden(ids, asked, random)
        if training and self.visible_target_prob:
            asked = asked | (torch.rand(self.length, generator=random) < self.visible_target_prob)
        return {"inputs": {"text": read}, "targets": {"text": torch.where(asked, ids, IGNORED)}}


def _hidden(ids: Int64[Tensor, "n"], asked: Bool[Tensor, "n"], random: Generator) -> Int64[Tensor, "n"]:
    chance = torch.rand(len(ids), generator=random)
    other = torch.randint(BYTE_OFFSET, ByteTokenizer.vocab_size, ids.shape, generator=random)
    hidden = torch.where(chance < 0.8, ByteTokenizer.mask_id, torch.where(chance < 0.9, other, ids))
    return torch.where(asked, hidden, ids)


def byte_baselines(train: UInt8[np.ndarray, "m"] | bytes, held_out: MaskedBytes) -> dict[str, float]:
    """What counting bytes of the training text makes of the held-out bytes that are asked for: nats a byte.

    ``unigram`` knows how often each byte comes, ``bigram`` also the byte to the left, ``neighbours`` the bytes to
    the left and to the right, which is what fills gaps. They see the true neighbours, where a model sees some
    hidden: a generous baseline. To all counts comes one more, spread as what knows a byte less expects, so that
    nothing is impossible. A byte with no neighbour is left out. Divide by ln 2 for bits.

    >>> text = b"abab" * 1000
    >>> losses = byte_baselines(text, MaskedBytes(text, length=40))
    >>> {name: round(loss, 2) for name, loss in losses.items()}
    {'unigram': 0.75, 'bigram': 0.0, 'neighbours': 0.0}
    """
    known = np.frombuffer(train, np.uint8) if isinstance(train, bytes) else train
    text = held_out.text
    places = []
    for index in range(len(held_out)):
        asked = held_out[index]["targets"]["text"] != IGNORED
        places.append(index * held_out.length + asked.nonzero()[:, 0].numpy())
    place = np.concatenate(places)
    place = place[(place > 0) & (place < len(text) - 1)]  # the others have no neighbour
    byte, left, right = (text[place + by].astype(np.int64) for by in (0, -1, 1))

    unigram = (np.bincount(known, minlength=256) + 1) / (len(known) + 256)
    pairs = np.bincount(known[:-1] * np.int64(256) + known[1:], minlength=256**2).reshape(256, 256)
    bigram = (pairs + unigram) / (pairs.sum(1, keepdims=True) + 1)
    middles = known[:-2] * np.int64(256**2) + known[2:] * np.int64(256) + known[1:-1]
    triples = np.bincount(middles, minlength=256**3).reshape(256, 256, 256)
    expected = bigram[left, byte] * bigram[byte, right] / (bigram @ bigram)[left, right]
    neighbours = (triples[left, right, byte] + expected) / (triples.sum(2)[left, right] + 1)
    chosen = {"unigram": unigram[byte], "bigram": bigram[left, byte], "neighbours": neighbours}
    return {name: float(-np.log(p).mean()) for name, p in chosen.items()}
