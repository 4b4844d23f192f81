"""Input blocks in plain NumPy, element by element."""

from __future__ import annotations

import itertools
import math

import numpy as np
from torch import Tensor

from perceiver_kit import inputs, positions

from .. import restated
from ..restated import Array, array


def video(raw: Tensor) -> Array:
    """(b, t, h, w, c) of an image, whose t is 1, or a video."""
    values = np.moveaxis(array(raw), -3, -1)
    return values[:, None] if values.ndim == 4 else values


def content(block: inputs.Input, raw: Tensor) -> Array:
    """Rows (b, *grid, c) before positions."""
    match block:
        case inputs.Patches():
            rows = _patches(video(raw), block.size)
            if block.project is not None:
                rows = rows @ array(block.project.weight).T + array(block.project.bias)
        case inputs.Pixels():
            rows = _strided(video(raw), block.stride)
        case inputs.Conv1x1():
            kernel = array(block.conv.weight)[:, :, 0, 0]
            rows = _strided(video(raw), block.stride) @ kernel.T + array(block.conv.bias)
        case inputs.ConvStem():
            rows = np.stack([[_stem(block, frame) for frame in clip] for clip in video(raw)])
        case inputs.Neighbourhoods():
            rows = _neighbourhoods(video(raw), block.size) @ array(block.project.weight).T + array(block.project.bias)
        case inputs.AudioPatches():
            size = block.samples_per_patch
            return np.stack([[wave[i : i + size] for i in range(0, len(wave), size)] for wave in array(raw)])
    return rows if raw.ndim == 5 and not isinstance(block, inputs.Neighbourhoods) else rows[:, 0]


def placed(block: inputs.Input, raw: Tensor) -> Array:
    """Rows (b, n, c) with their positions, concatenated or added."""
    found = content(block, raw)
    grid = found.shape[1:-1]
    rows = found.reshape(len(found), -1, found.shape[-1])
    if block.positions is None:
        return rows
    features = np.broadcast_to(located(block.positions, grid), (len(rows), rows.shape[1], block.positions.channels))
    return rows + features if block.combine == "add" else np.concatenate([rows, features], axis=-1)


def located(block: positions.Positions, grid: tuple[int, ...]) -> Array:
    """Features (n, c) of a grid."""
    match block:
        case positions.Learned():
            assert block.grid == grid, "interpolated tables are compared elsewhere"
            return array(block.table)
        case positions.Projected():
            return located(block.positions, grid) @ array(block.project.weight).T + array(block.project.bias)
        case positions.Fourier():
            options = (block.bands, block.max_resolution, block.ends, block.coordinates, block.sine_only)
            return restated.fourier(grid, *options)
    raise AssertionError(block)


def _strided(values: Array, stride: tuple[int, ...]) -> Array:
    t, h, w = (1, *stride)[-3:]
    rows = [
        [
            [[values[b, i, y, x] for x in range(0, values.shape[3], w)] for y in range(0, values.shape[2], h)]
            for i in range(0, values.shape[1], t)
        ]
        for b in range(len(values))
    ]
    return np.array(rows)


def _patches(values: Array, size: tuple[int, ...]) -> Array:
    dt, dh, dw = (1, *size)[-3:]
    b, t, h, w, c = values.shape
    rows = np.zeros((b, t // dt, h // dh, w // dw, dt * dh * dw * c))
    for place in np.ndindex(*rows.shape[:-1]):
        sample, i, y, x = place
        rows[place] = [
            values[sample, i * dt + frame, y * dh + down, x * dw + right, channel]
            for frame, down, right, channel in itertools.product(range(dt), range(dh), range(dw), range(c))
        ]
    return rows


def _neighbourhoods(values: Array, size: int) -> Array:
    b, t, h, w, c = values.shape
    rows = np.zeros((b, 1, h, w, t, size, size, c))
    for y, x, down, right in itertools.product(range(h), range(w), range(size), range(size)):
        top, left = y + down - size // 2, x + right - size // 2
        if 0 <= top < h and 0 <= left < w:  # outside is zero
            rows[:, 0, y, x, :, down, right] = values[:, :, top, left]
    return rows.reshape(b, 1, h, w, -1)


def _stem(block: inputs.ConvStem, frame: Array) -> Array:
    """7 × 7 convolution of stride 2, batch norm by its statistics, ReLU, 3 × 3 max-pool of stride 2."""
    same = block.padding == "same"
    for conv, bn in zip(block.convs, block.norms, strict=True):
        kernel = array(conv.weight)
        windows = _windows(frame, 7, _same(frame.shape, 7) if same else ((3, 3), (3, 3)), 0.0)
        frame = np.einsum("hwyxc,dcyx->hwd", windows, kernel)
        if hasattr(bn, "running_var"):
            centred = (frame - array(bn.running_mean)) / np.sqrt(array(bn.running_var) + 1e-5)
            frame = centred * array(bn.weight) + array(bn.bias)
        frame = np.maximum(frame, 0)
        frame = _windows(frame, 3, _same(frame.shape, 3) if same else ((0, 0), (0, 0)), -np.inf).max((2, 3))
    return frame


def _same(shape: tuple[int, ...], kernel: int, stride: int = 2) -> tuple[tuple[int, int], ...]:
    """TensorFlow's SAME padding: ⌈size / stride⌉ outputs; an odd element of padding goes to the end."""
    sides = []
    for size in shape[:2]:
        total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        sides.append((total // 2, total - total // 2))
    return tuple(sides)


def _windows(frame: Array, kernel: int, padding: tuple, value: float, stride: int = 2) -> Array:
    """Receptive fields of a convolution or pool: (h, w, kernel, kernel, c)."""
    padded = np.pad(frame, (*padding, (0, 0)), constant_values=value)
    tops = range(0, padded.shape[0] - kernel + 1, stride)
    lefts = range(0, padded.shape[1] - kernel + 1, stride)
    return np.array([[padded[y : y + kernel, x : x + kernel] for x in lefts] for y in tops])
