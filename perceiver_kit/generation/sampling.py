"""Sampling of tokens from logits, and the text of sampled bytes."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from ..data.bytes import BYTE_OFFSET
from ..errors import InputError


def left_padded(sequences: list[Tensor], device: torch.device) -> tuple[Int64[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """Sequences as one batch, padded on the left, and its mask, False at padding."""
    longest = max(map(len, sequences))
    # Padding is never read, so any id will do.
    padded = [torch.cat([each.new_zeros(longest - len(each)), each]) for each in sequences]
    start = torch.tensor([longest - len(each) for each in sequences])
    mask = torch.arange(longest) >= rearrange(start, "b -> b 1")
    return torch.stack(padded).to(device), mask.to(device)


def penalised(
    logits: Float[Tensor, "b v"], ids: Int64[Tensor, "b n"], mask: Bool[Tensor, "b n"], penalty: float
) -> Float[Tensor, "b v"]:
    """Logits in which tokens that have occurred are less likely."""
    logits = logits.double()  # a large penalty overflows float32
    occurred = torch.zeros_like(logits).scatter_add(1, ids, mask.to(logits.dtype)) > 0
    return torch.where(occurred, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def sampled(
    logits: Float[Tensor, "b v"],
    randoms: list[Generator],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> Int64[Tensor, "b"]:
    """One token for each row, drawn by the row's own generator; the likeliest if ``temperature`` is 0."""
    if bool(logits.isnan().any()):
        raise InputError("generate: the model's logits are NaN; are its weights finite?")
    if temperature == 0:
        return logits.argmax(-1)
    most = torch.finfo(torch.float64).max
    sorted_logits, order = logits.double().clamp(-most, most).sort(-1, descending=True)
    probabilities = ((sorted_logits - sorted_logits[:, :1]) / temperature).softmax(-1)
    if top_k is not None:
        probabilities[:, top_k:] = 0
    if top_p is not None:  # keep a token if the likelier ones sum to less than top_p
        before = (probabilities / probabilities.sum(-1, keepdim=True)).cumsum(-1).roll(1, -1)
        before[:, 0] = 0
        probabilities = probabilities.where(before < top_p, 0)
    # One uniform number for each row, from its own generator: other rows do not change its draws.
    draws = torch.stack([torch.rand(1, generator=random, dtype=torch.float64) for random in randoms]).to(logits.device)
    total = probabilities.cumsum(-1)
    picked = (total <= draws * total[:, -1:]).sum(-1, keepdim=True)
    last = (probabilities > 0).sum(-1, keepdim=True) - 1
    return rearrange(order.gather(-1, torch.minimum(picked, last)), "b 1 -> b")


def pieces(steps: Iterator[list[int | None]], rows: int, text: bool) -> Iterator[list[Any]]:
    """What each step adds to each row: a list of ids, or text as soon as bytes form a whole character."""
    decoders = [codecs.getincrementaldecoder("utf-8")("replace") for _ in range(rows)]
    for tokens in steps:
        if not text:
            yield [[] if token is None else [token] for token in tokens]
            continue
        parts = [b"" if token is None or token < BYTE_OFFSET else bytes([token - BYTE_OFFSET]) for token in tokens]
        yield [decoder.decode(part) for decoder, part in zip(decoders, parts, strict=True)]
    if text and any(ends := [decoder.decode(b"", final=True) for decoder in decoders]):
        yield ends
