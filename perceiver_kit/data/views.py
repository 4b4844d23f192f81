"""Two views of each sample, for contrastive training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Generator
from torch.utils.data import Dataset

from ..checking import check_positive
from ..errors import InputError
from .bytes import BYTE_OFFSET
from .collation import pad
from .sampling import EVALUATION, Key, Sample, Samples


def each_view(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate samples to a batch in which each view is a sample, padded to the longest.

    For ``Data(…, collate=each_view)``. The first axis of every tensor of a sample is the view.

    >>> each_view([{"inputs": {"x": torch.ones(2, n)}, "targets": {"view": torch.tensor([n, n])}} for n in (3, 4)])[
    ...     "targets"
    ... ]
    {'view': tensor([3, 3, 4, 4])}
    """
    return pad(
        [
            {
                part: {name: value[view] for name, value in values.items()}
                for part, values in sample.items()
                if part != "draw"
            }
            for sample in samples
            for view in range(len(next(iter(sample["targets"].values()))))
        ]
    )


class Views(Dataset[Sample]):
    """Two random versions of each sample of ``data`` as its views: inputs (2, …), target ``view`` int64 (2,).

    Each version is a training draw of the sample; the target is the sample's index, twice. Evaluation uses the same
    two draws each time. The data set must change its training samples at random, such as ``Images(shift=2)`` or
    ``augmentation.Augmented``: otherwise both views are equal.

    >>> from perceiver_kit.data.images import Images
    >>> digits = Images(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5), shift=2)
    >>> item = Views(digits)[3]
    >>> item["inputs"]["image"].shape, item["targets"]["view"]
    (torch.Size([2, 3, 8, 8]), tensor([3, 3]))
    """

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> Sample:
        index, step = key if isinstance(key, tuple) else (key, EVALUATION)
        first = 2 * (step - EVALUATION)
        draws = [self.data[index, first + view] for view in range(2)]
        sample: Sample = {
            part: {name: torch.stack([draw[part][name] for draw in draws]) for name in draws[0][part]}
            for part in ("inputs", "mask")
            if part in draws[0]
        }
        return sample | {"targets": {"view": torch.full((2,), index)}, "draw": torch.tensor([step, index])}


class SpanViews(Samples):
    """Two random halves of each text as its views: ``text`` int64 (2, n), target ``view`` int64 (2,).

    The target is the text's index, twice. At most 2 · ``length`` bytes are cut into spans of ``span`` bytes; short
    texts use shorter spans, so that there are at least 16. A random half of the spans, in their order, is one view,
    the rest the other. So the views share subject and opinion, but no sentence. n is at most ``length``; ``each_view``
    pads.

    Raises InputError for no texts, or one of fewer than 16 bytes.

    >>> SpanViews(["a text of some length"], length=64)[0]["inputs"]["text"].shape
    torch.Size([2, 10])
    """

    def __init__(self, texts: Sequence[str], *, length: int, span: int = 64, seed: int = 0) -> None:
        check_positive("SpanViews", least=8, length=length)
        check_positive("SpanViews", span=span)
        self.texts = [np.frombuffer(text.encode()[: 2 * length], np.uint8) for text in texts]
        short = next((i for i, text in enumerate(self.texts) if len(text) < 16), None)
        if not texts or short is not None:
            got = "none" if short is None else f"{len(self.texts[short])} in text {short}"
            raise InputError(f"SpanViews needs texts of 16 bytes or more, got {got}")
        self.length, self.span, self.seed = length, span, seed

    def __len__(self) -> int:
        return len(self.texts)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        text = self.texts[index]
        span = min(self.span, len(text) // 16)
        pairs = len(text) // (2 * span)
        ids = torch.from_numpy(text[: 2 * span * pairs].astype(np.int64)) + BYTE_OFFSET
        order = torch.randperm(2 * pairs, generator=random)
        halves = rearrange(order, "(two n) -> two n", two=2).sort(-1).values
        views = rearrange(rearrange(ids, "(n s) -> n s", s=span)[halves], "two n s -> two (n s)")
        return {"inputs": {"text": views}, "targets": {"view": torch.full((2,), index)}}
