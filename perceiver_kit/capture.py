"""Attention maps and hidden states by block name, through forward hooks that exist only inside the context."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attention, CrossAttentionLayer, SelfAttentionLayer
from .errors import UnknownName, nearest

Captured = dict[str, list[Tensor]]


@contextmanager
def capture_attention(model: nn.Module, only: str | Sequence[str] | None = None) -> Iterator[Captured]:
    """Record the exact attention maps of every block inside the context: ``{block name: [(b, heads, m, n), …]}``.

    A block that is called several times, such as a shared one, has one map per call, in order. The chunks and
    modalities of one ``decode`` are joined along m into one map. ``only`` selects blocks by name or pattern
    (``"encoder.cross.*"``): maps are large, 804,737 × 784 in the decoder of the published video model. Masked rows
    have weight zero; dropout is not applied.

    >>> model = build("masked_lm", preset="tiny")
    >>> with capture_attention(model, only="encoder.*") as maps:
    ...     _ = model(torch.zeros(2, 10, dtype=torch.int64))
    >>> maps["encoder.cross.0"][0].shape
    torch.Size([2, 8, 32, 10])
    """

    def record(attention: Attention, arguments: dict[str, Any], output: Tensor) -> Tensor:
        return attention.weights(**arguments)

    blocks = {name: block.attention for name, block in _blocks(model, only).items()}
    with _recording(model, blocks, record, concat_dim=2) as maps:
        yield maps


@contextmanager
def capture_hidden(model: nn.Module, only: str | Sequence[str] | None = None) -> Iterator[Captured]:
    """Record the output of every block inside the context: ``{block name: [(b, m, d), …]}``; see ``capture_attention``.

    >>> model = build("masked_lm", preset="tiny")
    >>> with capture_hidden(model) as states:
    ...     _ = model(torch.zeros(2, 10, dtype=torch.int64))
    >>> states["encoder.transformer.1"][0].shape
    torch.Size([2, 32, 128])
    """
    with _recording(model, _blocks(model, only), lambda block, arguments, output: output, concat_dim=1) as states:
        yield states


def _blocks(model: nn.Module, only: str | Sequence[str] | None) -> dict[str, Any]:
    blocks = {
        name: block
        for name, block in model.named_modules()
        if isinstance(block, CrossAttentionLayer | SelfAttentionLayer)
    }
    if only is None:
        return blocks
    patterns = [only] if isinstance(only, str) else [*only]
    for pattern in patterns:
        if not fnmatch.filter(blocks, pattern):
            raise UnknownName(f"only: no block matches {pattern!r}; {nearest(pattern, blocks)}")
    return {name: block for name, block in blocks.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns)}


@contextmanager
def _recording(
    model: nn.Module,
    blocks: dict[str, nn.Module],
    record: Callable[[Any, dict[str, Any], Tensor], Tensor],
    *,
    concat_dim: int,
) -> Iterator[Captured]:
    captured: Captured = {name: [] for name in blocks}
    decoding: dict[str, list[Tensor]] | None = None

    def hook(name: str) -> Callable:
        def append(block: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
            arguments = dict(zip(("queries", "keys", "mask"), args, strict=False)) | kwargs
            with torch.no_grad():
                value = record(block, arguments, output).detach()
            (captured[name] if decoding is None else decoding.setdefault(name, [])).append(value)

        return append

    def decode_and_join(*args: Any, **kwargs: Any) -> Any:
        nonlocal decoding
        decoding = {}
        try:
            assert decode is not None
            result = decode(*args, **kwargs)
            for name, parts in decoding.items():
                captured[name].append(torch.cat(parts, dim=concat_dim))
            return result
        finally:
            decoding = None

    handles = [block.register_forward_hook(hook(name), with_kwargs=True) for name, block in blocks.items()]
    decode = getattr(model, "decode", None)
    outer = model.__dict__.get("decode")  # another capture around this one
    if decode is not None:
        model.decode = decode_and_join  # type: ignore[assignment]
    try:
        yield captured
    finally:
        for handle in handles:
            handle.remove()
        if outer is not None:
            model.decode = outer
        elif decode is not None:
            del model.decode
