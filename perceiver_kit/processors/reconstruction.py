"""Modalities reconstructed from some of their rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from ..checking import check_probability
from ..data.sampling import generator
from ..errors import InputError
from ..plots import reconstructions
from ..registry import register
from .base import Answer, Interpreter, Item, Processor
from .files import picture_bytes, write_file
from .readers import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = 0.5


@dataclass(frozen=True, repr=False)
class ReconstructedAnswer(Answer):
    """Reconstructed modalities. ``mask`` is True at the rows that the model read."""

    mask: Mapping[str, Tensor] | None = None

    def text(self) -> str:
        assert self.mask is not None
        parts = []
        for name, rows in self.mask.items():
            error = "" if name not in self.scores else f", mean squared error {self.scores[name]:.3g}"
            parts.append(f"{name} from {int(rows.sum())} of {rows.numel()} rows{error}")
        return "; ".join(parts)

    def json(self) -> dict[str, Any]:
        return super().json() | {"best": {name: list(value.shape) for name, value in self.best.items()}}

    @property
    def readers(self) -> dict[str, Picture]:
        """The readers of pictures."""
        readers = {} if self.processor is None else self.processor.readers
        return {name: one for name, one in readers.items() if isinstance(one, Picture)}

    def pictures(self) -> dict[str, Tensor]:
        """The reconstructed pictures (3, h, w) in [0, 1]."""
        return {name: one.pixels(self.best[name]) for name, one in self.readers.items() if name in self.best}

    def figure(self) -> Figure | None:
        pictures, source, mask = self.pictures(), self.inputs(), self.mask or {}
        if not pictures:
            return None
        rows: dict[str, list[Tensor]] = {"source": [], "read": [], "decoded": [*pictures.values()]}
        for name in pictures.keys() & source.keys():
            whole = self.readers[name].pixels(source[name])
            rows["source"].append(whole)
            rows["read"].append(torch.where(mask[name], whole, GREY))
        return reconstructions({name: torch.stack(own) for name, own in rows.items() if own})

    def write(self, stem: Path) -> list[Path]:
        pictures = self.pictures()
        paths = [write_file(stem, f"_{name}.png", picture_bytes(picture)) for name, picture in pictures.items()]
        for name, value in self.best.items():
            if name not in pictures:
                numbers = io.BytesIO()
                np.save(numbers, value.numpy())
                paths.append(write_file(stem, f"_{name}.npy", numbers.getvalue()))
        return paths


@register("processors")
@dataclass(frozen=True)
class Reconstruction(Interpreter):
    """Hides rows as in training, and reconstructs them: ``best`` maps each modality to its reconstruction.

    A modality that the source lacks is hidden as a whole. ``scores`` has the mean squared error over the hidden rows of
    each other modality.

    Args:
        data_sets: of each data set, the grid and channels (*grid, c) of its modalities.
        rate: the probability of a row to be hidden.
        seed: of the rows that are hidden.
    """

    data_sets: tuple[Mapping[str, tuple[int, ...]], ...]
    rate: float = 0.85
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("Reconstruction", rate=self.rate)

    def prepare(self, item: Item) -> Item:
        sizes = next((own for own in self.data_sets if item.inputs.keys() <= own.keys()), None)
        if sizes is None:
            known = " or ".join(", ".join(own) for own in self.data_sets)
            raise InputError(f"source: expected modalities among {known}, got {', '.join(item.inputs)}")
        random, inputs, mask = generator(self.seed), {}, {}
        for name, (*grid, channels) in sizes.items():
            seen = torch.rand(grid, generator=random) >= self.rate
            shape = (*grid, channels) if len(grid) == 1 else (*grid[:-2], channels, *grid[-2:])
            inputs[name] = item.inputs.get(name, torch.zeros(shape))
            mask[name] = seen & (name in item.inputs)
        return replace(item, inputs=inputs, mask=mask, outputs=(*inputs,))

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> ReconstructedAnswer:
        scores = {}
        for name in outputs:
            if not item.mask[name].any() or item.mask[name].all():
                continue
            square = (outputs[name] - item.inputs[name]).square()
            if square.ndim > 2:
                square = rearrange(square, "... c h w -> ... h w c")
            scores[name] = float(square[~item.mask[name]].mean())
        return ReconstructedAnswer(source, outputs, scores, outputs, processor, mask=item.mask)
