"""What stands between files and a model: readers make its inputs, an interpreter makes an answer of its outputs."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from einops import repeat
from torch import Tensor, nn

from ..block import Settings
from ..checking import describe_value, short
from ..data.files import find_files
from ..errors import AssemblyError, InputError, PerceiverKitError, nearest
from ..registry import register

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 5
"""The number of best scores that are shown and written."""


@dataclass(frozen=True)
class Item(Settings):
    """What a model reads of one source: tensors by modality, without a batch axis.

    ``ragged`` names those whose first axis has any length: they are padded to a batch, and the padding is masked.
    ``mask`` has bool (*grid) for the others, True where a row may be read. ``outputs`` are those to decode, all for
    None. With ``windows``, the first axis of all counts windows, over which the outputs are averaged. ``queries`` are
    data that queries need at the call, such as the times of a forecast.
    """

    inputs: Mapping[str, Tensor]
    ragged: tuple[str, ...] = ()
    mask: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    windows: bool = False
    queries: Mapping[str, Tensor] = field(default_factory=dict)


class Reader(Settings):
    """Reads one modality, or several at once, from a path or an object.

    Derive a frozen dataclass, register it under ``"processors"``, and define ``read``.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()  # of the files that it reads, in lower case
    files: ClassVar[int] = 1  # read for one answer
    ragged: ClassVar[bool] = False  # the first axis has any length
    windows: ClassVar[bool] = False  # the first axis counts windows of the source
    batch: ClassVar[int] = 8  # sources that a model reads at once by default

    def read(self, source: Any) -> Tensor | dict[str, Tensor]:
        """A tensor without a batch axis, or several by modality. Raises InputError, naming a file."""
        raise AssemblyError(f"{type(self).__name__} must define read")

    def queries(self, source: Any) -> Mapping[str, Tensor]:
        """The ``queries`` of the model's call, without a batch axis, that a source means."""
        return {}

    def path(self, source: Any) -> Path | None:
        """The file or folder that a source means; None for an object."""
        if isinstance(source, str) and not source:  # as a path this is the current directory
            raise self.refuse(source, "a path")
        return Path(source) if isinstance(source, str | Path) else None

    def find(self, folder: Path) -> list[Any]:
        """The sources of a folder, sorted by name."""
        return [*find_files(folder, self.suffixes)]

    def group(self, paths: list[Any]) -> list[Any]:
        """The sources that files of a command line mean: ``files`` of them each."""
        if len(paths) % self.files:
            raise InputError(f"source: expected {self.files} files for each answer, got {len(paths)}")
        each = range(0, len(paths), self.files)
        return paths if self.files == 1 else [tuple(paths[start : start + self.files]) for start in each]

    def picture(self, inputs: Mapping[str, Tensor], name: str) -> Tensor | None:
        """A picture (3, h, w) in [0, 1] of what was read under a name, or None."""
        return None

    def huggingface_files(self) -> dict[str, dict[str, Any]]:
        """Files of Hugging Face's format, name → content, that hold these settings."""
        return {}

    def refuse(self, source: Any, expected: str) -> InputError:
        """The error for a source of another kind."""
        came = str(source) if isinstance(source, Path) else describe_value(source)
        came = short(source) if isinstance(source, str) else came
        return InputError(f"source: expected {expected}, got {came}")


class Interpreter(Settings):
    """Makes an answer of the outputs for one source.

    Derive a frozen dataclass, register it under ``"processors"``, and define ``answer``.
    """

    def prepare(self, item: Item) -> Item:
        """What the model reads in place of what was read. Raises InputError to refuse it."""
        return item

    def split(self, item: Item) -> list[Item]:
        """What the model reads of one source: the item, or the windows of one that is too long."""
        return [item]

    def join(self, item: Item, windows: list[Item], outputs: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The outputs for an item, of those for its windows."""
        return outputs[0]

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> Answer:
        """The answer for the outputs (without a batch axis) of one source."""
        raise AssemblyError(f"{type(self).__name__} must define answer")


@dataclass(frozen=True, repr=False)
class Answer:
    """What a model says about one source. A notebook shows it; ``print`` gives a line.

    Args:
        source: the source, as it was given or found in a folder.
        best: the answer itself, such as the name of a class.
        scores: what supports it, such as the probability of each class, the highest first.
        outputs: the outputs of the model, without a batch axis, on the CPU.
        processor: reads the source again for pictures of it.

    >>> print(Answer("cat.jpg", "cat", None, {}))
    cat.jpg: cat
    """

    source: Any
    best: Any
    scores: Any
    outputs: dict[str, Tensor]
    processor: Processor | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{name_of_source(self.source)}: {self.text()}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def text(self) -> str:
        """The answer in one line."""
        return str(self.best)

    def json(self) -> dict[str, Any]:
        """The answer as plain JSON: source, best and scores."""
        source = self.source if isinstance(self.source, str) else name_of_source(self.source)
        return {"source": source, "best": self.best, "scores": self.scores}

    def figure(self) -> Figure | None:
        """A picture of the answer, or None."""
        return None

    def write(self, stem: Path) -> list[Path]:
        """Write the answer's files beside ``stem``, which has no suffix; returns their paths."""
        return []

    def inputs(self) -> Mapping[str, Tensor]:
        """What the model read, read again: answers hold outputs only. {} where the source is gone."""
        try:
            return {} if self.processor is None else self.processor.item(self.source).inputs
        except PerceiverKitError:
            return {}

    def picture(self) -> Tensor | None:
        """A picture (3, h, w) in [0, 1] of the source, or None."""
        inputs = self.inputs()
        readers = self.processor.readers if self.processor is not None and inputs else {}
        pictures = (reader.picture(inputs, name) for name, reader in readers.items())
        return next((picture for picture in pictures if picture is not None), None)

    def _repr_png_(self) -> bytes | None:
        picture = self.figure()
        return None if picture is None else png(picture)

    def _repr_html_(self) -> str:
        picture = self._repr_png_()
        shown = "" if picture is None else f'<img src="{data_url("image/png", picture)}">'
        return f"<div><p>{html.escape(str(self))}</p>{shown}</div>"


@register("processors")
@dataclass(frozen=True)
class Raw(Interpreter):
    """Leaves the outputs as they are: ``best`` is their shapes."""

    def answer(
        self, source: Any, item: Item, outputs: dict[str, Tensor], model: nn.Module, processor: Processor
    ) -> Answer:
        shapes = {name: tuple(tensor.shape) for name, tensor in outputs.items()}
        return Answer(source, shapes, None, outputs, processor)


@register("processors")
@dataclass(frozen=True)
class Processor:
    """Readers by input, and an interpreter: all that ``kit.predict`` needs beside a model.

    A source is a mapping with an entry for each reader; with one reader it is the entry itself. In a mapping, a
    tensor under a name without a reader is an input as it is. Set ``model.processor`` to keep it with the model.

    Args:
        readers: a reader for each input. A reader that gives several modalities has any name.
        interpreter: makes the answer.

    >>> processor = Processor({"points": processors.Array()})
    >>> processor.item([[0.0, 1.0], [2.0, 3.0]]).inputs["points"].shape
    torch.Size([2, 2])
    """

    readers: Mapping[str, Reader]
    interpreter: Interpreter = field(default_factory=Raw)

    def __post_init__(self) -> None:
        good = isinstance(self.readers, Mapping) and all(isinstance(one, Reader) for one in self.readers.values())
        if not good or not self.readers:
            raise AssemblyError(f"Processor: readers must map inputs to readers, got {short(self.readers)}")
        if not isinstance(self.interpreter, Interpreter):
            raise AssemblyError(f"Processor: interpreter must be an Interpreter, got {short(self.interpreter)}")

    @property
    def reader(self) -> Reader:
        """The only reader. Raises InputError if there are several."""
        if len(self.readers) > 1:
            example = f"kit.predict(model, {{{next(iter(self.readers))!r}: …}})"
            raise InputError(f"source: expected a mapping with entries for {', '.join(self.readers)}: {example}")
        return next(iter(self.readers.values()))

    @property
    def batch(self) -> int:
        """Sources that a model reads at once by default."""
        return min(reader.batch for reader in self.readers.values())

    def item(self, source: Any) -> Item:
        """What a model reads of one source. Raises InputError, naming a file."""
        if not isinstance(source, Mapping):
            self.reader  # noqa: B018  # refuses several
            source = dict.fromkeys(self.readers, source)
        inputs: dict[str, Tensor] = {}
        ragged: list[str] = []
        counts: dict[str, int] = {}
        queries: dict[str, Tensor] = {}
        for name, value in source.items():
            reader = self.readers.get(name)
            if reader is None and isinstance(value, Tensor):
                inputs[name] = value
                continue
            if reader is None:
                raise InputError(f"source: no reader for {name!r}; {nearest(name, self.readers)}; or give a tensor")
            try:
                read = reader.read(value)
            except InputError as error:
                if len(self.readers) == 1:
                    raise
                raise type(error)(f"input {name!r}: {str(error).removeprefix('source: ')}") from error
            read = read if isinstance(read, Mapping) else {name: read}
            inputs |= read
            queries |= reader.queries(value)
            ragged += read if reader.ragged else []
            counts |= {part: len(tensor) for part, tensor in read.items()} if reader.windows else {}
        if len({*counts.values()}) > 1:
            raise InputError(f"source: expected inputs of as many windows each, got {counts}")
        if counts:  # what has no windows of its own is read with each
            count = next(iter(counts.values()))
            inputs = {part: x if part in counts else repeat(x, "... -> w ...", w=count) for part, x in inputs.items()}
        return Item(inputs, tuple(ragged), windows=bool(counts), queries=queries)

    def missing(self, source: Any) -> Path | None:
        """The first file of a source that does not exist."""
        if isinstance(source, Mapping):
            pairs = [(self.readers[name], value) for name, value in source.items() if name in self.readers]
        else:
            pairs = [(self.reader, source)]
        for reader, value in pairs:
            parts = value if isinstance(value, tuple) else (value,)
            for path in map(reader.path, parts):
                if path is not None and not os.path.exists(path):  # False for a name longer than any
                    return path
        return None

    def huggingface_files(self) -> dict[str, dict[str, Any]]:
        """Files of Hugging Face's format, name → content, that hold these settings."""
        return {name: data for one in self.readers.values() for name, data in one.huggingface_files().items()}


@register("processors")
@dataclass(frozen=True)
class Unsupported(Reader):
    """Stands for files beside a checkpoint whose settings the kit does not know; reading raises InputError."""

    reason: str

    def read(self, source: Any) -> Tensor:
        raise InputError(f"{self.reason}; pass processor= to predict")


def name_of_source(source: Any) -> str:
    """A source in a message: its path, the start of a text, or its kind."""
    if isinstance(source, tuple):
        return " → ".join(map(name_of_source, source))
    if isinstance(source, Mapping):
        return ", ".join(f"{name}={name_of_source(value)}" for name, value in source.items())
    if isinstance(source, str):
        line = " ".join(source.split())
        return line if len(line) <= 80 else f"{line[:79]}…"
    return str(source) if isinstance(source, Path) else describe_value(source)


def stem_of(source: Any) -> str:
    """A file name without suffix for what is written about a source.

    >>> stem_of(Path("in/a.b.png")), stem_of("Is it a text?")
    ('a.b', 'Is_it_a_text')
    """
    if isinstance(source, Path):
        return source.stem
    if isinstance(source, tuple):
        return stem_of(source[0])
    return "_".join(re.findall(r"\w+", name_of_source(source)))[:40] or "answer"


def png(picture: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png")
    return buffer.getvalue()


def data_url(kind: str, content: bytes) -> str:
    """A file inside a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
