"""Labelled texts and masked bytes, held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Int64, UInt8
from torch import Generator, Tensor

from ..checking import check_positive, check_probability
from ..errors import InputError
from .bytes import BYTE_OFFSET, ByteTokenizer
from .sampling import Samples

IGNORED = -100
"""The target of a byte that the loss ignores."""


class Texts(Samples):
    """Texts with one class each: ``text`` int64 (length,) with ``mask`` bool (length,) → ``label`` int64 (), the class.

    A text is ``[CLS]``, its UTF-8 bytes, ``[SEP]``, truncated to ``length`` ids. Items are deterministic, in
    training too.

    Raises InputError for no texts or another number of labels, AssemblyError for a length below 2.

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
            ids = tokenizer.encode(text[:length])  # a character is at least one byte
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
    """Windows of a long text with masked bytes, as in BERT: ``text`` int64 (length,) → ``text`` (length,).

    A fixed number of bytes are targets: the fraction ``rate``, at random positions. Each becomes ``[MASK]`` with
    probability 0.8, a random byte with 0.1, and stays with 0.1. All other targets are −100. A window is raw bytes,
    without ``[CLS]`` and ``[SEP]``. In training, item i starts at random in [i · length, (i + 1) · length); in
    evaluation, at i · length. An incomplete last window is dropped.

    With ``visible_target_prob``, visible bytes are training targets too, each with that probability. The model then
    learns the path from a position through the latents to its byte. From the 15 % masked bytes alone, a small model
    learns this path only after very many steps, and until then predicts byte frequencies.

    Source of the rates: BERT (Devlin et al. 2019), section 3.1. Perceiver IO masks 15 % too.

    Args:
        text: at least ``length`` bytes.
        length: bytes per window.
        rate: the fraction of bytes that are targets.
        visible_target_prob: the probability that a visible byte is a training target; the published models use 0.

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
        self.num_targets = max(1, round(rate * length))

    def __len__(self) -> int:
        return len(self.text) // self.length

    def start(self, index: int, random: Generator, training: bool) -> int:
        """Index of the first byte of an item's window."""
        if not training:
            return index * self.length
        start = index * self.length + int(torch.randint(self.length, (), generator=random))
        return min(start, len(self.text) - self.length)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        start = self.start(index, random, training)
        ids = torch.from_numpy(self.text[start : start + self.length].astype(np.int64)) + BYTE_OFFSET
        is_target = torch.zeros(self.length, dtype=torch.bool)
        is_target[torch.randperm(self.length, generator=random)[: self.num_targets]] = True
        masked = _mask_bytes(ids, is_target, random)
        if training and self.visible_target_prob:
            is_target = is_target | (torch.rand(self.length, generator=random) < self.visible_target_prob)
        return {"inputs": {"text": masked}, "targets": {"text": torch.where(is_target, ids, IGNORED)}}


def _mask_bytes(ids: Int64[Tensor, "n"], is_target: Bool[Tensor, "n"], random: Generator) -> Int64[Tensor, "n"]:
    draw = torch.rand(len(ids), generator=random)
    other = torch.randint(BYTE_OFFSET, ByteTokenizer.vocab_size, ids.shape, generator=random)
    replaced = torch.where(draw < 0.8, ByteTokenizer.mask_id, torch.where(draw < 0.9, other, ids))
    return torch.where(is_target, replaced, ids)


def byte_baselines(train: UInt8[np.ndarray, "m"] | bytes, held_out: MaskedBytes) -> dict[str, float]:
    """Cross-entropy, in nats per byte, of count-based predictors on the held-out targets.

    ``unigram`` counts bytes, ``bigram`` conditions on the left byte, ``neighbours`` on both adjacent bytes. They
    see the true neighbours, some of which a model sees masked, so the baselines are strong. Counts are smoothed by
    one pseudo-count, distributed as the next simpler predictor. Targets at the ends of the text are skipped. Divide
    by ln 2 for bits.

    >>> text = b"abab" * 1000
    >>> losses = byte_baselines(text, MaskedBytes(text, length=40))
    >>> {name: round(loss, 2) for name, loss in losses.items()}
    {'unigram': 0.75, 'bigram': 0.0, 'neighbours': 0.0}
    """
    known = np.frombuffer(train, np.uint8) if isinstance(train, bytes) else train
    text = held_out.text
    targets = torch.cat([held_out[index]["targets"]["text"] for index in range(len(held_out))])
    position = (targets != IGNORED).numpy().nonzero()[0]
    position = position[(position > 0) & (position < len(text) - 1)]
    byte, left, right = (text[position + by].astype(np.int64) for by in (0, -1, 1))

    unigram = (np.bincount(known, minlength=256) + 1) / (len(known) + 256)
    pairs = np.bincount(known[:-1] * np.int64(256) + known[1:], minlength=256**2)
    pairs = rearrange(pairs, "(left byte) -> left byte", byte=256)
    bigram = (pairs + unigram) / (pairs.sum(1, keepdims=True) + 1)
    middles = known[:-2] * np.int64(256**2) + known[2:] * np.int64(256) + known[1:-1]
    triples = rearrange(np.bincount(middles, minlength=256**3), "(l r b) -> l r b", r=256, b=256)
    expected = bigram[left, byte] * bigram[byte, right] / (bigram @ bigram)[left, right]
    neighbours = (triples[left, right, byte] + expected) / (triples.sum(2)[left, right] + 1)
    probs = {"unigram": unigram[byte], "bigram": bigram[left, byte], "neighbours": neighbours}
    return {name: float(-np.log(p).mean()) for name, p in probs.items()}
