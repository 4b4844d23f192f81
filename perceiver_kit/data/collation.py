"""Samples as one batch: of equal sizes, or padded to the longest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from perceiver_kit.checking import describe_value
from perceiver_kit.errors import InputError

FILL = {"inputs": 0, "mask": False, "queries": math.nan}
"""The padding of each part of a sample; targets are padded as missing."""
PAD = "crop or resize, or pad with Data(collate=kit.pad)"


def pad(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch of samples of different lengths, padded at the end to the longest: ``Data(…, collate=kit.pad)``.

    A sample is a dict of ``inputs``, ``targets``, and optionally ``mask`` and ``queries``, each by name. Inputs may
    differ in their leading axes, those of their rows, such as the length of a text or of a set: (n, …). A padded input
    gets a ``mask`` that is False for the padding. Padded targets are missing: -100 in integers, NaN in floats. Padded
    coordinates in ``queries`` are NaN.

    Raises InputError for samples with different parts, numbers of axes, or sizes of the last axes.

    >>> points = [{"inputs": {"points": torch.ones(n, 2)}, "targets": {"kind": torch.tensor(n)}} for n in (3, 1)]
    >>> batch = kit.pad(points)
    >>> batch["inputs"]["points"].shape, batch["mask"]["points"][1], batch["targets"]["kind"]
    (torch.Size([2, 3, 2]), tensor([ True, False, False]), tensor([3, 1]))
    """
    batch: dict[str, Any] = {}
    masks: dict[str, Tensor] = {}
    for part in _same_keys(samples, "a sample"):
        values = [sample[part] for sample in samples]
        if part not in ("inputs", "targets", "mask", "queries"):
            batch[part] = default_collate(values)
            continue
        batch[part] = {}
        for name in _same_keys(values, part):
            tensors = [value[name] for value in values]
            batch[part][name], real = _padded(tensors, f"{part} {name!r}", FILL.get(part))
            if part == "inputs" and not real.all():
                masks[name] = real
    for name, real in masks.items():
        given = batch.setdefault("mask", {}).get(name)
        batch["mask"][name] = real if given is None else given & real
    return batch


def batched(samples: Sequence[Mapping[str, Any]], *, hint: str | None = None) -> dict[str, Any]:
    """Samples of the same sizes as one batch, by PyTorch's default collation.

    Raises InputError that says how samples differ, and ends with ``hint`` on what to do.

    >>> batched([{"inputs": {"x": torch.zeros(3)}}] * 2)["inputs"]["x"].shape
    torch.Size([2, 3])
    """
    flat = [_flat(sample) for sample in samples]
    for other in flat[1:]:
        differing = flat[0].keys() ^ other.keys()
        if differing:  # PyTorch would silently drop a part, such as a mask, that the first sample lacks
            which = f"{', '.join(sorted(differing))} only in one of them"
            raise InputError(f"samples of a batch must have the same parts, got {which}{f': {hint}' if hint else ''}")
    try:
        return default_collate([*samples])
    except Exception as error:
        for other in flat[1:]:
            for name in other:
                expected, got = describe_value(flat[0][name]), describe_value(other[name])
                if expected != got:
                    raise InputError(
                        f"samples of a batch must have the same sizes, but {name} is {expected} in sample "
                        f"{index_of(flat[0])} and {got} in sample {index_of(other)}: {hint or PAD}"
                    ) from error
        raise InputError(f"samples cannot be collated: {error}") from error


def _flat(part: Any, name: str = "") -> dict[str, Any]:
    """The leaves of a sample by dotted name."""
    if not isinstance(part, Mapping):
        return {name[1:]: part}
    return {leaf: value for key, inner in part.items() for leaf, value in _flat(inner, f"{name}.{key}").items()}


def index_of(sample: Mapping[str, Any]) -> Any:
    """The index of a sample that a checked data set drew, else a question mark."""
    return int(sample["draw"][1]) if isinstance(sample.get("draw"), Tensor) else "?"


def _same_keys(values: Sequence[Any], what: str) -> list[str]:
    """The keys that all share; InputError for one that some lack."""
    if not values or not all(isinstance(value, Mapping) for value in values):
        got = next((describe_value(value) for value in values if not isinstance(value, Mapping)), "none")
        raise InputError(f"pad: {what} must be a dict by name, got {got}")
    keys = [*values[0]]
    for value in values:
        differing = {*keys} ^ {*value}
        if differing:
            some = ", ".join(sorted(map(str, differing)))
            raise InputError(
                f"pad: {what} must have the same parts in all samples, got {some} in some only{_hint(what)}"
            )
    return keys


def _hint(what: str) -> str:
    """How to say that a sample lacks an input or a target."""
    missing = {
        "inputs": "; for an input that a sample lacks give zeros and a mask that is False everywhere",
        "targets": "; a missing target is -100 in integers, NaN in floats",
    }
    return missing.get(what, "")


def _padded(tensors: list[Any], what: str, fill: int | float | None) -> tuple[Tensor, Tensor]:
    """The tensors (b, …) at their largest sizes, and bool (b, *leading) that is True within each."""
    for tensor in tensors:
        if not isinstance(tensor, Tensor) or tensor.is_nested or (tensor.dtype, tensor.ndim) != _kind(tensors[0]):
            expected = f"tensors of one dtype and number of axes, such as {describe_value(tensors[0])}"
            raise InputError(f"pad: {what} must be {expected}, got {describe_value(tensor)}")
    sizes = [tuple(tensor.shape) for tensor in tensors]
    largest = tuple(max(lengths) for lengths in zip(*sizes, strict=True))
    leading = max((axis + 1 for axis in range(len(largest)) if len({size[axis] for size in sizes}) > 1), default=0)
    if leading and leading == len(largest) > 1 and what.startswith("inputs"):
        raise InputError(
            f"pad: {what} differs in its last axis, which is not one of rows: {sizes[0]} and "
            f"{next(size for size in sizes if size[-1] != sizes[0][-1])}; resize or crop"
        )
    leading = max(leading, min(1, len(largest)))
    if fill is None:
        fill = math.nan if tensors[0].is_floating_point() else -100 if tensors[0].dtype != torch.bool else False
    whole = tensors[0].new_full((len(tensors), *largest), fill)
    real = torch.zeros(len(tensors), *largest[:leading], dtype=torch.bool, device=whole.device)
    for i, tensor in enumerate(tensors):
        own = tuple(slice(size) for size in tensor.shape)
        whole[(i, *own)] = tensor
        real[(i, *own[:leading])] = True
    return whole, real


def _kind(tensor: Any) -> tuple[Any, Any]:
    return getattr(tensor, "dtype", None), getattr(tensor, "ndim", None)
