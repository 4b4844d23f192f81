"""``predict``: from files to answers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from .checking import check_choice, check_positive, describe_value
from .declarations import processor_of
from .errors import InputError, MissingPackage, PerceiverKitError
from .flags import checked_flags
from .processors.base import Answer, Item, Processor, name_of_source

OnError = Literal["raise", "skip"]
WINDOWS = 16
"""Windows of a source that a model reads at once."""


@checked_flags
def predict(
    model: nn.Module,
    source: Any,
    *,
    processor: Processor | None = None,
    batch: int | None = None,
    on_error: OnError = "raise",
    progress: bool = True,
    stream: bool = False,
) -> Any:
    """The answer of a model to a file, an object, or many of them.

    One source (a path, picture, text, array, or what else the model's processor reads; a mapping for several inputs; a
    tuple for what is read together, such as two frames) gives one ``Answer``. A list, an iterator or a folder gives a
    list with one answer for each source. Sources are read and answered in batches, so that memory is bounded by one
    batch and the answers.

    Args:
        model: any model, in whichever mode; it is evaluated, and its mode stays.
        source: one source, or many.
        processor: reads sources and makes answers. None: ``model.processor``, else the one that the model's recipe
            declares.
        batch: sources that the model reads at once. None: the processor's own number.
        on_error: of many sources, "raise" stops at the first that cannot be read, "skip" names it in a warning and goes
            on.
        progress: whether many sources show a progress bar.
        stream: whether many sources give an iterator, which makes each answer when it is asked for.

    Raises InputError for a model without a processor, a source that cannot be read, and an empty list or folder.

    >>> model = build("sequence_classification", preset="tiny")
    >>> answer = predict(model, "An unusually good film.")
    >>> answer.best in ("class 0", "class 1"), round(sum(answer.scores.values()), 3)
    (True, 1.0)
    >>> len(predict(model, ["Good.", "Bad."], progress=False))
    2
    """
    check_choice("predict", "on_error", on_error, ("raise", "skip"))
    chosen = _processor(model) if processor is None else processor
    if not isinstance(chosen, Processor):
        raise InputError(f"predict: processor must be a Processor, got {describe_value(chosen)}")
    size = chosen.batch if batch is None else batch
    check_positive("predict", batch=size)
    sources = _many(source, chosen)
    if sources is None:
        return next(_answers(model, [source], chosen, batch=1, skip=False))
    if on_error == "raise" and isinstance(sources, list):
        for one in sources:
            if (path := chosen.missing(one)) is not None:
                raise InputError(f"no such file: {path}; on_error='skip' reads the others")
    if progress:
        sources = with_bar(sources, "predict")
    answers = _answers(model, sources, chosen, batch=size, skip=on_error == "skip")
    return answers if stream else [*answers]


def named_sources(model: nn.Module, names: list[str]) -> list[Any]:
    """The sources that words of a command line mean: files, the files of folders, or texts.

    Raises InputError for a model without a processor or with several readers, and for a number of files that a reader
    does not take.
    """
    reader = _processor(model).reader
    sources: list[Any] = []
    for folder, some in groupby(names, key=lambda name: _is_folder(reader.path(name))):
        paths: list[Any] = [reader.path(name) or name for name in some]
        sources += [one for path in paths for one in reader.find(path)] if folder else reader.group(paths)
    return sources


def _is_folder(path: Path | None) -> bool:
    return path is not None and os.path.isdir(path)


def _processor(model: nn.Module) -> Processor:
    found = processor_of(getattr(model, "module", model))  # type: ignore[arg-type]
    if found is None:
        raise InputError(
            "predict: this model has no processor; pass processor=kit.Processor({input: reader}, interpreter) "
            "or set model.processor"
        )
    return found


def _many(source: Any, processor: Processor) -> Iterable[Any] | None:
    """The sources that a list, an iterator or a folder means; None for one source."""
    if isinstance(source, list) or (isinstance(source, Iterator) and not isinstance(source, Tensor)):
        if isinstance(source, list) and not source:
            raise InputError("source is an empty list; give at least one")
        return source
    if len(processor.readers) == 1:
        path = processor.reader.path(source)
        if path is not None and _is_folder(path):
            return processor.reader.find(path)
    return None


def _answers(
    model: nn.Module, sources: Iterable[Any], processor: Processor, *, batch: int, skip: bool
) -> Iterator[Answer]:
    """Answers in the order of the sources, a batch at a time."""

    def attempt(source: Any, call: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a call for a source; None where it is skipped."""
        try:
            return call(*arguments)
        except MissingPackage:  # no source can be read
            raise
        except PerceiverKitError as error:
            name = name_of_source(source)
            said = str(error).removeprefix("source: ")
            text = said if said == str(error) and name in said else f"{name}: {said}"
            if not skip:
                raise type(error)(text) from error
            warnings.warn(f"skipped {text}", stacklevel=2)
            return None

    def read(source: Any) -> Item:
        return processor.interpreter.prepare(processor.item(source))

    def interpret(source: Any, item: Item, own: dict[str, Tensor]) -> Answer:
        with evaluation_mode(model):
            return processor.interpreter.answer(source, item, own, model, processor)

    def run(items: list[Item]) -> list[dict[str, Tensor]]:
        """The outputs of each item; a model reads ``batch`` windows at once."""
        windows = [processor.interpreter.split(item) for item in items]
        flat = [window for own in windows for window in own]
        size = max(batch, len(items))
        outputs = iter([one for i in range(0, len(flat), size) for one in _outputs(model, flat[i : i + size])])
        return [
            processor.interpreter.join(item, own, [next(outputs) for _ in own])
            for item, own in zip(items, windows, strict=True)
        ]

    def answered(pairs: list[tuple[Any, Item]]) -> Iterator[Answer]:
        for _, group in groupby(pairs, key=lambda pair: _sizes(pair[1])):
            same = [*group]
            try:
                outputs: list[Any] = run([item for _, item in same])
            except PerceiverKitError:  # one by one: the error is of one source
                outputs = [attempt(source, lambda item: run([item])[0], item) for source, item in same]
            for (source, item), own in zip(same, outputs, strict=True):
                answer = None if own is None else attempt(source, interpret, source, item, own)
                if answer is not None:
                    yield answer

    pairs: list[tuple[Any, Item]] = []
    for source in sources:
        item = attempt(source, read, source)
        pairs += [] if item is None else [(source, item)]
        if len(pairs) == batch:
            yield from answered(pairs)
            pairs = []
    yield from answered(pairs)


def _sizes(item: Item) -> dict[str, tuple[int, ...]]:
    """Sizes that must agree within a batch."""
    sizes = {name: tuple(x.shape[name in item.ragged :]) for name, x in sorted(item.inputs.items())}
    return sizes | {f"queries {name}": tuple(x.shape) for name, x in sorted(item.queries.items())}


def _outputs(model: nn.Module, items: list[Item]) -> list[dict[str, Tensor]]:
    """The outputs of a model for each item, float tensors on the CPU in float32, ragged ones without padding."""
    if items[0].windows:
        return [_averaged(model, item) for item in items]
    like = next(model.parameters())
    inputs: dict[str, Tensor] = {}
    mask: dict[str, Tensor] = {}
    for name in items[0].inputs:
        own = [item.inputs[name] for item in items]
        lengths = [len(one) for one in own]
        if name in items[0].ragged and len({*lengths}) > 1:
            longest = max(lengths)
            own = [F.pad(one, (0, 0) * (one.ndim - 1) + (0, longest - len(one))) for one in own]
            mask[name] = torch.arange(longest) < rearrange(torch.tensor(lengths), "b -> b 1")
            mask[name] = mask[name].to(like.device)
        elif name in items[0].mask:
            mask[name] = torch.stack([item.mask[name] for item in items]).to(like.device)
        raw = torch.stack(own).to(like.device)
        inputs[name] = raw.to(like.dtype) if raw.is_floating_point() else raw
    # Only what is asked for: wrappers may know no such arguments.
    options: dict[str, Any] = {}
    if (wanted := items[0].outputs) is not None:
        options["at"] = dict.fromkeys(wanted)
    if items[0].queries:
        options["queries"] = {
            name: torch.stack([item.queries[name] for item in items]).to(like) for name in items[0].queries
        }
    with evaluation_mode(model), torch.inference_mode():
        outputs = model(inputs, mask=mask or None, **options)
    each = []
    for i, item in enumerate(items):
        rows = {name: len(item.inputs[name]) for name in mask if name in item.ragged}
        own = {name: output[i, : rows.get(name)].float() for name, output in outputs.items()}
        each.append({name: output.to("cpu", copy=True) for name, output in own.items()})
    return each


def _averaged(model: nn.Module, item: Item) -> dict[str, Tensor]:
    """The mean of the outputs for all windows of an item, which the model reads ``WINDOWS`` at a time."""
    count = len(next(iter(item.inputs.values())))
    inputs = [{name: x[i] for name, x in item.inputs.items()} for i in range(count)]
    windows = [replace(item, inputs=own, windows=False) for own in inputs]
    parts = [windows[start : start + WINDOWS] for start in range(0, count, WINDOWS)]
    outputs = [output for part in parts for output in _outputs(model, part)]
    return {name: reduce([output[name] for output in outputs], "w ... -> ...", "mean") for name in outputs[0]}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module has its own mode again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def with_bar(items: Iterable[Any], text: str) -> Iterable[Any]:
    """A progress bar over items, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    return tqdm(items, desc=text, leave=False)
