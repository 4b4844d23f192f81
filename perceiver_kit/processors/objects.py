"""Objects with their boxes, and classes of pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..checking import check_probability, describe_value
from ..errors import InputError, PerceiverKitError
from ..plots import boxes, class_colours, segments
from ..registry import register
from .base import TOP, Answer, Interpreter, Item, Processor, png
from .files import picture_bytes, write_file
from .readers import Picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ObjectsAnswer(Answer):
    """Objects, the likeliest first: ``best`` has a dict of class, score and box for each."""

    def text(self) -> str:
        if not self.best:
            return "no object"
        shown = ", ".join(
            "{} {:.2f} at {:.2f}, {:.2f} ({:.2f} × {:.2f})".format(one["class"], one["score"], *one["box"])
            for one in self.best[:TOP]
        )
        return shown + (f" and {len(self.best) - TOP} more" if len(self.best) > TOP else "")

    def picture(self) -> Tensor | None:
        """The whole source in its own proportions; the model reads it squeezed. None where it is gone."""
        readers = {} if self.processor is None else self.processor.readers
        sources = self.source if isinstance(self.source, Mapping) else dict.fromkeys(readers, self.source)
        pictures = {name: one for name, one in readers.items() if isinstance(one, Picture) and name in sources}
        try:
            return next((one.whole(sources[name]) for name, one in pictures.items()), None)
        except PerceiverKitError:
            return None

    def figure(self) -> Figure | None:
        picture = self.picture()
        if picture is None:
            return None
        found = torch.tensor([one["box"] for one in self.best]) if self.best else torch.zeros(0, 4)
        return boxes(picture, found, [f"{one['class']} {one['score']:.2f}" for one in self.best])

    def write(self, stem: Path) -> list[Path]:
        figure = self.figure()
        return [] if figure is None else [write_file(stem, "_boxes.png", png(figure))]


@register("processors")
@dataclass(frozen=True)
class FoundObjects(Interpreter):
    """Queries that found an object: ``best`` is a list of dicts, the likeliest object first.

    ``class`` is its name, ``score`` the probability of the class, ``box`` centre x and y, width and height as shares
    of the picture. ``scores`` is the number of objects by class.

    Args:
        threshold: the least probability.
        output: the output with logits (k, classes + 1), of which the last is "no object".
        box: the output with boxes (k, 4).
    """

    threshold: float = 0.5
    output: str = "class"
    box: str = "box"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("FoundObjects", threshold=self.threshold)

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: Any, processor: Processor
    ) -> ObjectsAnswer:
        logits, found = outputs[self.output], outputs[self.box]
        if logits.ndim != 2 or tuple(found.shape) != (len(logits), 4):
            expected = f"outputs {self.output!r} (k, classes + 1) and {self.box!r} (k, 4)"
            raise InputError(
                f"FoundObjects: expected {expected}, got {describe_value(logits)}, {describe_value(found)}"
            )
        names = getattr(model, "labels", {}).get(self.output) or [f"class {i}" for i in range(logits.shape[1])]
        scores, classes = logits.softmax(-1)[:, :-1].max(-1)
        best = [
            {"class": names[int(classes[i])], "score": float(scores[i]), "box": found[i].tolist()}
            for i in scores.argsort(descending=True).tolist()
            if scores[i] >= self.threshold
        ]
        kinds = [one["class"] for one in best]
        counts = {name: kinds.count(name) for name in sorted({*kinds}, key=kinds.index)}
        return ObjectsAnswer(source, best, counts, outputs, processor)


@dataclass(frozen=True, repr=False)
class SegmentsAnswer(Answer):
    """The class of each pixel."""

    names: tuple[str, ...] = ()

    def text(self) -> str:
        shown = ", ".join(f"{name} {share:.1%}" for name, share in [*self.scores.items()][:TOP])
        return f"{self.best.shape[0]} × {self.best.shape[1]} pixels: {shown}"

    def json(self) -> dict[str, Any]:
        return super().json() | {"best": [*self.best.shape]}

    def figure(self) -> Figure | None:
        picture = self.picture()
        return None if picture is None else segments(picture, self.best, self.names)

    def write(self, stem: Path) -> list[Path]:
        """The mask's classes as a grey picture (or ``.npy`` of more than 256), and its colours."""
        colours = picture_bytes(class_colours(self.best, len(self.names)))
        numbers = io.BytesIO()
        if len(self.names) > 256:
            np.save(numbers, self.best.numpy())
        else:
            from PIL import Image

            Image.fromarray(self.best.to(torch.uint8).numpy()).save(numbers, format="PNG")
        ending = "_classes.npy" if len(self.names) > 256 else "_classes.png"
        return [write_file(stem, "_colours.png", colours), write_file(stem, ending, numbers.getvalue())]


@register("processors")
@dataclass(frozen=True)
class PixelClasses(Interpreter):
    """The likeliest class of each pixel: ``best`` is int64 (h, w), ``scores`` the share of pixels by class.

    Args:
        output: the output with logits (classes, h, w).
    """

    output: str = "label"

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: Any, processor: Processor
    ) -> SegmentsAnswer:
        logits = outputs[self.output]
        if logits.ndim != 3:
            raise InputError(
                f"PixelClasses: output {self.output!r} must be (classes, h, w), got {describe_value(logits)}"
            )
        names = getattr(model, "labels", {}).get(self.output) or [f"class {i}" for i in range(len(logits))]
        best = logits.argmax(0)
        shares = torch.bincount(best.ravel(), minlength=len(names)) / best.numel()
        order = shares.argsort(descending=True, stable=True).tolist()
        scores = {names[i]: float(shares[i]) for i in order if shares[i] > 0}
        return SegmentsAnswer(source, best, scores, outputs, processor, names=tuple(names))
