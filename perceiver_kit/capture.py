"""Attention maps and hidden states by block name, for the calls inside a context."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .attention import Attention
from .checking import describe_value
from .errors import AssemblyError, UnknownName, nearest
from .layers import CrossAttentionLayer, SelfAttentionLayer
from .observing import Recorder

Captured = dict[str, list[Tensor]]


@contextmanager
def capture_attention(model: nn.Module, only: str | Sequence[str] | None = None) -> Iterator[Captured]:
    """Record the exact attention maps of every block inside the context: ``{block name: [(b, heads, m, n), …]}``.

    A block that is called several times, such as a shared one, has one map per call, in order. The chunks and
    modalities of one ``decode`` are joined along m into one map. ``only`` selects blocks by name or pattern
    (``"encoder.cross.*"``): maps are large, 804,737 × 784 in the decoder of the published video model. Masked rows
    have weight zero; dropout is not applied.

    Captures may nest and overlap. Each records the calls of its own thread. The model is not changed: other threads
    run it as before, and it can be copied and pickled inside the context.

    >>> model = build("masked_lm", preset="tiny")
    >>> with capture_attention(model, only="encoder.*") as maps:
    ...     _ = model(torch.zeros(2, 10, dtype=torch.int64))
    >>> maps["encoder.cross.0"][0].shape
    torch.Size([2, 8, 32, 10])
    """
    blocks = _blocks(model, only)
    attentions = {block.attention: name for name, block in blocks.items()}
    for attention, name in attentions.items():
        if not isinstance(attention, Attention):
            raise AssemblyError(
                f"{name}.attention must be an Attention, got {describe_value(attention)}: it has no maps"
            )
    # Attention.weights takes the arguments of forward.
    recorder = Recorder(
        attentions, lambda attention, args, kwargs, output: attention.weights(*args, **kwargs), concat_dim=2
    )
    with recorder.active() as maps:
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
    blocks = {block: name for name, block in _blocks(model, only).items()}
    with Recorder(blocks, lambda block, args, kwargs, output: output, concat_dim=1).active() as states:
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
