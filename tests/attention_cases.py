"""Attention of drawn sizes and masks, for the tests of the formula, the layers and the backends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from einops import rearrange
from hypothesis import strategies as st
from torch import Tensor, nn

from perceiver_kit.attention import Attention

from . import restated
from .strategies import noisy

# The possible choices. "whole" is the tiled kernel with one tile, "tiles" with tiles of two rows a side, which are
# recomputed in the backward pass.
SIDES = ["both", "queries", "keys"]
PATHS = [(side, kernel) for side in SIDES for kernel in ("fused", "whole", "tiles")]
# bfloat16 has eight bits: four or five roundings one after another.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 3e-2}


@st.composite
def cases(draw: st.DrawFn) -> dict:
    heads = draw(st.sampled_from([1, 1, 2, 3]))
    width = st.integers(1, 4).map(lambda w: w * heads)
    return dict(
        heads=heads,
        cq=draw(st.integers(2, 6)),
        ck=draw(st.integers(2, 6).map(lambda w: w * heads)),
        qk_channels=draw(st.none() | width),
        v_channels=draw(st.none() | width),
        b=draw(st.integers(1, 3)),
        m=draw(st.integers(1, 5)),
        n=draw(st.integers(1, 7)),
        shared=draw(st.booleans()),
        masked=draw(st.sampled_from(["not", "rows", "a whole sample", "shared", "by query"])),
        queries_masked=draw(st.sampled_from([False, False, True])),
        causal=draw(st.booleans()),
        dtype=draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16])),
    )


def make(c: dict) -> tuple[Attention, Tensor, Tensor, dict]:
    torch.manual_seed(0)
    widths = dict(qk_channels=c["qk_channels"], v_channels=c["v_channels"])
    attention = noisy(Attention(c["cq"], c["ck"], heads=c["heads"], **widths), 0.5).to(c["dtype"])
    queries = torch.randn(1 if c["shared"] else c["b"], c["m"], c["cq"], dtype=c["dtype"])
    keys = torch.randn(c["b"], c["n"], c["ck"], dtype=c["dtype"])
    b, m, n = (c[letter] for letter in "bmn")
    shapes = {"rows": (b, n), "a whole sample": (b, n), "shared": (1, m, n), "by query": (b, m, n)}
    mask = None if c["masked"] == "not" else torch.rand(shapes[c["masked"]]) < 0.6
    if mask is not None:
        mask[-1] &= c["masked"] != "a whole sample"
    query_mask = torch.rand(b, m) < 0.6 if c["queries_masked"] else None
    return attention, queries, keys, dict(mask=mask, query_mask=query_mask, causal=c["causal"])


def pairs(c: dict, masks: dict) -> np.ndarray:
    """Whether each query may read each row, one by one."""
    allowed = np.zeros((c["b"], c["m"], c["n"]), dtype=bool)
    mask, query_mask = (restated.boolean(masks[name]) for name in ("mask", "query_mask"))
    for b, i, j in np.ndindex(allowed.shape):
        entry = True if mask is None else mask[b, j] if mask.ndim == 2 else mask[b % len(mask), i, j]
        past = not masks["causal"] or j - c["n"] <= i - c["m"]
        allowed[b, i, j] = entry and past and (query_mask is None or query_mask[b, i])
    return allowed


def outputs_and_gradients(module: nn.Module, call: Callable, *inputs: Tensor) -> list[Tensor]:
    """The output, then the gradients of a random projection of it: of each input, and of each parameter by name."""
    inputs = tuple(value.detach().clone().requires_grad_() for value in inputs)
    parameters = dict(sorted(module.named_parameters()))
    output = call(*inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype)
    loss = (rearrange(output, "b m c -> (b m c)") * weights).sum()
    return [output, *torch.autograd.grad(loss, [*inputs, *parameters.values()])]
