"""Next bytes of the Bible, in bits a byte."""

from __future__ import annotations

import functools
import lzma
import math
from collections import Counter
from typing import Any

from perceiver_kit.data import corpora

from ..training import SMALL, Row, Run, named, opened, recipes_for, row, train


def next_bytes(preset: str, seed: int, small: bool = False) -> list[Row]:
    run, said = named("next_bytes", preset, small=small)
    (recipe,) = recipes_for("bible_next")
    options: dict[str, Any] = dict(preset=preset, seed=seed, parameters=SMALL if small else None)
    metrics = train(run, recipe, opened(recipe, "bible_next", preset, seed=seed), **options)
    return [row(f"next bytes of the Bible, `{recipe}`{said}", "bits a byte", "bits", metrics, baselines())]


@functools.cache
def baselines() -> dict[str, float]:
    """Bits a held-out byte: counts of up to five bytes, and a compressor that has read the training text."""
    text, held_out = corpora.bible_text()
    sizes = [len(lzma.compress(part, preset=9 | lzma.PRESET_EXTREME)) for part in (text, text + held_out)]
    compressed = 8 * (sizes[1] - sizes[0]) / len(held_out)
    return {"5-gram, Witten-Bell": witten_bell(text, held_out), "lzma after the training text": compressed}


def witten_bell(text: bytes, held_out: bytes, order: int = 5) -> float:
    """Bits a byte of n-gram counts, each order interpolated with the next lower one (Witten and Bell 1991).

    >>> round(witten_bell(b"ab" * 1000, b"ab" * 100), 2)
    0.01
    """
    grams = [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, order + 1)]
    seen: list[Counter[bytes]] = [Counter() for _ in grams]  # by context: how often, and followed by how many bytes
    kinds: list[Counter[bytes]] = [Counter() for _ in grams]
    for n, counts in enumerate(grams):
        for gram, count in counts.items():
            seen[n][gram[:-1]] += count
            kinds[n][gram[:-1]] += 1
    bits = 0.0
    for i in range(len(held_out)):
        p = 1 / 256
        for n in range(min(order, i + 1)):
            context = held_out[i - n : i]
            if not seen[n][context]:
                break
            p = (grams[n][held_out[i - n : i + 1]] + kinds[n][context] * p) / (seen[n][context] + kinds[n][context])
        bits -= math.log2(p)
    return bits / len(held_out)


RUNS = {
    "next_bytes": Run(functools.partial(next_bytes, "tiny")),
    "next_bytes_quick": Run(functools.partial(next_bytes, "quick"), seeds=(0, 1, 2)),
    "next_bytes_small": Run(functools.partial(next_bytes, "quick", small=True)),
}
