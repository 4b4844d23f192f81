"""The formulas in plain NumPy, without the kit: a reference for its faster code.

They accept complex numbers, which give exact derivatives: Im f(x + ih) / h for a tiny h.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor, nn

Array = np.ndarray


def arrays(module: nn.Module) -> dict[str, Array]:
    """Every parameter by name, in float64."""
    return {name: array(parameter) for name, parameter in module.named_parameters()}


def array(tensor: Tensor) -> Array:
    return tensor.detach().double().numpy()


def boolean(mask: Tensor | None) -> Array | None:
    return None if mask is None else mask.numpy()


def attention(p: dict[str, Array], prefix: str, queries: Array, keys: Array, mask: Array | None, heads: int) -> Array:
    """Multi-head attention, sample by sample, head by head, query by query; ``mask`` is (b, n) or (b, m, n)."""

    def linear(rows: Array, name: str) -> Array:
        return rows @ p[f"{prefix}{name}.weight"].T + p[f"{prefix}{name}.bias"]

    samples = []
    for b in range(len(keys)):
        q, k, v = linear(queries[b % len(queries)], "query"), linear(keys[b], "key"), linear(keys[b], "value")
        allowed = np.broadcast_to(True if mask is None else mask[b], (len(q), len(k)))
        values = np.zeros((len(q), v.shape[1]), dtype=np.result_type(q, k, v))
        qk, vs = q.shape[1] // heads, v.shape[1] // heads
        for head in range(heads):
            for i in range(len(q)):
                readable = np.flatnonzero(allowed[i])
                if len(readable):
                    c, d = slice(head * qk, (head + 1) * qk), slice(head * vs, (head + 1) * vs)
                    scores = np.array([(q[i, c] * k[j, c]).sum() for j in readable]) / math.sqrt(qk)
                    weights = np.exp(scores - scores.real.max())
                    values[i, d] = (weights / weights.sum()) @ v[readable, d]
        samples.append(linear(values, "output"))
    return np.stack(samples)


def norm(p: dict[str, Array], prefix: str, rows: Array) -> Array:
    centred = rows - rows.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * p[f"{prefix}.weight"] + p[f"{prefix}.bias"]


def mlp(p: dict[str, Array], prefix: str, rows: Array, activation: str) -> Array:
    hidden = rows @ p[f"{prefix}.0.weight"].T + p[f"{prefix}.0.bias"]
    if activation == "gelu":
        hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
    else:
        hidden = hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3))) / 2
    return hidden @ p[f"{prefix}.2.weight"].T + p[f"{prefix}.2.bias"]


def cross_attend(
    p: dict[str, Array],
    prefix: str,
    queries: Array,
    keys: Array,
    mask: Array | None,
    *,
    heads: int = 1,
    residual: bool = True,
    activation: str = "gelu",
) -> Array:
    if mask is not None:
        keys = np.where((mask if mask.ndim == 2 else mask.any(1))[..., None], keys, 0)
    q, k = norm(p, f"{prefix}query_norm", queries), norm(p, f"{prefix}key_norm", keys)
    rows = attention(p, f"{prefix}attention.", q, k, mask, heads)
    if residual:
        rows = queries + rows
    return rows + mlp(p, f"{prefix}mlp", norm(p, f"{prefix}mlp_norm", rows), activation)


def self_attend(
    p: dict[str, Array], prefix: str, rows: Array, mask: Array | None = None, *, heads: int, activation: str = "gelu"
) -> Array:
    normed = norm(p, f"{prefix}norm", rows)
    rows = rows + attention(p, f"{prefix}attention.", normed, normed, mask, heads)
    return rows + mlp(p, f"{prefix}mlp", norm(p, f"{prefix}mlp_norm", rows), activation)


def fourier(
    grid: tuple[int, ...],
    bands: int,
    resolution: tuple[int, ...],
    ends: str,
    coordinates: bool,
    sine: bool,
    flat_indices: list[int] | None = None,
) -> Array:
    """Position features, position by position: coordinates, then sines, then cosines, each axis by axis."""
    rows = []
    for flat in range(math.prod(grid)) if flat_indices is None else flat_indices:
        index = np.unravel_index(flat, grid)
        if ends == "both":  # one point lies at the left end
            x = [-1 + (2 * i / (n - 1) if n > 1 else 0) for i, n in zip(index, grid, strict=True)]
        else:
            x = [-1 + 2 * i / n for i, n in zip(index, grid, strict=True)]
        waves = [
            math.pi * x_axis * (1 + (r / 2 - 1) * (band / (bands - 1) if bands > 1 else 0))
            for x_axis, r in zip(x, resolution, strict=True)
            for band in range(bands)
        ]
        cosines = [] if sine else [math.cos(wave) for wave in waves]
        rows.append((x if coordinates else []) + [math.sin(wave) for wave in waves] + cosines)
    return np.array(rows)
