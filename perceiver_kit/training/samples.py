"""Samples of any data set, asked for by (index, step); what goes wrong in one says which it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from ..checks import check_finite, describe_value
from ..data.sampling import EVALUATION, Key, Samples
from ..errors import InputError, PerceiverKitError

IDLE = -2  # in place of a step: a worker that makes no sample now


class CheckedDataset(Dataset):
    """A data set under the name that errors give it.

    Whatever it raises becomes an InputError with the sample's index and step. A sample of another form, and NaN or
    infinities in an input that has no mask, are refused in the same way: a step on them would make NaN of all weights.
    Behind a mask anything may stand. In data workers it writes down which sample each is making, for the process that
    started them to read when one dies.
    """

    def __init__(self, data: Any, name: str, *, workers: int = 0) -> None:
        self.name = name
        self.making = torch.full((workers, 2), IDLE).share_memory_() if workers else None
        try:
            length = len(data)
        except TypeError:
            raise InputError(f"{name} must have a length and items, got {describe_value(data)}") from None
        if not length:
            raise InputError(f"{name} has no samples; give at least one")
        self.data = data
        if not _knows_steps(data):
            self.data = _Plain(data)
            self[0, EVALUATION]  # refused now, not after all has been set up

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        index, step = key if isinstance(key, tuple) else (key, EVALUATION)
        info = get_worker_info()
        if info is not None and self.making is not None:
            self.making[info.id] = torch.tensor([step, index])
        where = f"sample {index} of {self.name}{'' if step == EVALUATION else f' at step {step}'}"
        try:
            sample = self.data[key]
        except PerceiverKitError as error:
            raise type(error)(f"{where}: {error}") from error
        except Exception as error:
            raise InputError(f"{where} cannot be made: {type(error).__name__}: {error}") from error
        _check(sample, where)
        if info is not None and self.making is not None:
            self.making[info.id] = IDLE
        return sample

    def samples_in_progress(self) -> list[str]:
        """Which samples data workers are making now, or were when they died."""
        making = [] if self.making is None else self.making.tolist()
        return [f"sample {index} of {self.name}" for step, index in making if step != IDLE]


def _knows_steps(data: Any) -> bool:
    """Whether a data set is one that is asked for (index, step): the kit's own, and what passes their keys on."""
    if isinstance(data, Samples):
        return True
    try:
        return data[0, EVALUATION]["draw"].tolist() == [EVALUATION, 0]
    except Exception:  # whatever a data set raises for a key that it does not know
        return False


class _Plain(Dataset):
    """A data set that knows indices only; it is told nothing of steps."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        index, step = key if isinstance(key, tuple) else (key, EVALUATION)
        sample = self.data[index]
        return {**sample, "draw": torch.tensor([step, index])} if isinstance(sample, Mapping) else sample


def _check(sample: Any, where: str) -> None:
    parts = [sample.get(part) for part in ("inputs", "targets")] if isinstance(sample, Mapping) else [None]
    if not all(isinstance(part, Mapping) for part in parts):
        has = f"a dict of {', '.join(map(str, sample))}" if isinstance(sample, Mapping) else describe_value(sample)
        raise InputError(f"{where}: a sample must be a dict of 'inputs' and 'targets' by name, got {has}")
    masked = sample.get("mask") or {}
    for name, value in sample["inputs"].items():
        if isinstance(value, Tensor) and name not in masked:
            hint = "leave it out of the data, replace what is missing, or give a mask"
            check_finite(value, f"{where}: input {name!r}", hint=hint)


def batched(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples as one batch, by PyTorch's default collation; InputError for samples that differ, saying in what."""
    first = _flat(samples[0])
    for sample in samples[1:]:
        differing = first.keys() ^ _flat(sample).keys()
        if differing:  # parts that the first one lacks, such as its mask, PyTorch would leave out of all
            which = f"{', '.join(sorted(differing))} only in one of them"
            raise InputError(f"samples of a batch must have the same parts, got {which}")
    try:
        return default_collate(samples)
    except Exception as error:
        for sample in samples[1:]:
            for name, value in _flat(sample).items():
                one, other = describe_value(first[name]), describe_value(value)
                if one != other:
                    raise InputError(
                        f"samples of a batch must have the same sizes, but {name} is {one} in sample "
                        f"{_index(samples[0])} and {other} in sample {_index(sample)}: crop, pad or resize"
                    ) from error
        raise InputError(f"samples cannot be put into a batch: {error}") from error


def _flat(sample: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a sample by their names with dots."""
    found = {}
    for name, value in sample.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": part for inner, part in _flat(value).items()}
        else:
            found[str(name)] = value
    return found


def _index(sample: Mapping[str, Any]) -> Any:
    return int(sample["draw"][1]) if isinstance(sample.get("draw"), Tensor) else "?"
