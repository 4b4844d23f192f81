"""Optical flow as numbers and colours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from torch import Tensor, nn

from ..checking import describe_value
from ..errors import InputError
from ..plots import flow, flow_to_rgb
from ..registry import register
from .base import Answer, Interpreter, Item, Processor
from .files import picture_bytes, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class FlowAnswer(Answer):
    """A field of motion."""

    def text(self) -> str:
        _, height, width = self.best.shape
        lengths = self.json()
        return (
            f"flow of {height} × {width} pixels, mean {lengths['mean_pixels']:.3g}, "
            f"largest {lengths['largest_pixels']:.3g} pixels"
        )

    def json(self) -> dict[str, Any]:
        length = self.best.square().sum(0).sqrt()
        x, y = self.best.mean((1, 2)).tolist()
        return super().json() | {
            "best": [x, y],
            "mean_pixels": float(length.mean()),
            "largest_pixels": float(length.max()),
        }

    def figure(self) -> Figure:
        first = self.picture()
        return flow(flow_to_rgb(self.best) if first is None else first, {"flow": self.best})

    def write(self, stem: Path) -> list[Path]:
        numbers = io.BytesIO()
        np.save(numbers, rearrange(self.best, "xy h w -> h w xy").numpy())
        colours = picture_bytes(flow_to_rgb(self.best))
        return [write_file(stem, "_flow.png", colours), write_file(stem, "_flow.npy", numbers.getvalue())]


@register("processors")
@dataclass(frozen=True)
class FlowField(Interpreter):
    """The flow itself: ``best`` is (2, h, w) in pixels, x then y, and ``scores`` is None.

    Args:
        output: the output with the flow.
    """

    output: str = "flow"

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> FlowAnswer:
        best = outputs[self.output]
        if best.ndim != 3 or best.shape[0] != 2:
            raise InputError(f"FlowField: output {self.output!r} must be (2, h, w), got {describe_value(best)}")
        return FlowAnswer(source, best, None, outputs, processor)
