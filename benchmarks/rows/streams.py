"""Next tokens of chorales and next pixels of digits, in bits."""

from __future__ import annotations

import functools
import math
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from perceiver_kit.data.chorales import chorales
from perceiver_kit.data.pixels import LEVELS, SIDE

from ..training import Row, Run, opened, recipes_for, row, train
from .next_bytes import witten_bell

(RECIPE,) = recipes_for("chorales")
# Windows of 32 quarter notes, of which the last half are predicted. A hash of nine ids knows two steps of all voices.
CHORALES: dict[str, Any] = dict(context=512, num_latents=256, ngrams=(2, 3, 4, 5, 9), buckets=2**15)
PIXELS: dict[str, Any] = dict(ngrams=(2, 3, 4), buckets=2**10, residual_dropout=0.1)


def music(seed: int) -> list[Row]:
    sizes = dict(max_length=CHORALES["context"], predicted=CHORALES["num_latents"])
    task = opened(RECIPE, "chorales", "quick", seed=seed, **sizes)
    metrics = train("chorales", RECIPE, task, preset="quick", seed=seed, parameters=CHORALES, steps=400)
    what = f"next token of Bach's chorales, `{RECIPE}`, preset `quick`, 512 tokens"
    return [row(what, "bits a token", "bits", metrics, music_baselines())]


@functools.cache
def music_baselines() -> dict[str, float]:
    """Bits a held-out token of counts, which know which voice a token is of."""
    text, held_out = (ids.tobytes() for ids in chorales())
    return {f"{n}-gram, Witten-Bell": witten_bell(text, held_out, n) for n in (3, 9)}


def pixels(seed: int) -> list[Row]:
    task = opened(RECIPE, "digit_pixels", "quick", seed=seed)
    metrics = train("digit_pixels", RECIPE, task, preset="quick", seed=seed, parameters=PIXELS, steps=800)
    what = f"lower half of digits, pixel by pixel, `{RECIPE}`, preset `quick`, 14 × 14 pixels of 4 levels"
    baseline = {"counts of the pixels to the left and above": neighbours(task.train, task.held_out)}
    return [row(what, "bits a pixel", "bits", metrics, baseline)]


def neighbours(train_set: Any, held_out: Any) -> float:
    """Bits a pixel of counts by six pixels to the left and above, mixed with those by fewer (Witten and Bell 1991)."""
    order = [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0)]

    def contexts(ids: Tensor) -> list[tuple[int, ...]]:
        """Each pixel of the lower half, its row, and its neighbours, nearest first; 0, black, outside."""
        picture = torch.nn.functional.pad(ids.unflatten(0, (SIDE, SIDE)), (2, 2, 2, 0)).tolist()
        half = [(i, j) for i in range(SIDE // 2, SIDE) for j in range(SIDE)]
        return [(picture[i + 2][j + 2], *(picture[i + 2 + y][j + 2 + x] for y, x in order)) for i, j in half]

    seen: Counter[tuple[int, ...]] = Counter()
    grams: Counter[tuple[int, ...]] = Counter()
    kinds: Counter[tuple[int, ...]] = Counter()
    for ids in train_set.ids:
        for pixel, *context in contexts(ids):
            for n in range(len(order) + 1):
                key = tuple(context[:n])
                kinds[key] += (pixel, *key) not in grams
                grams[(pixel, *key)] += 1
                seen[key] += 1
    bits = count = 0
    for ids in held_out.ids:
        for pixel, *context in contexts(ids):
            p = 1 / LEVELS
            for n in range(len(order) + 1):
                key = tuple(context[:n])
                if not seen[key]:
                    break
                p = (grams[(pixel, *key)] + kinds[key] * p) / (seen[key] + kinds[key])
            bits, count = bits - math.log2(p), count + 1
    return bits / count


RUNS = {"chorales": Run(music, seeds=(0, 1, 2)), "digit_pixels": Run(pixels, seeds=(0, 1, 2))}
