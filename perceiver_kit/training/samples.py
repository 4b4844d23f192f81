"""Samples of any data set, checked; errors name the sample."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, default_collate, get_worker_info

from ..checks import check_finite, describe_value
from ..data.sampling import EVALUATION, Key, Samples
from ..errors import InputError, PerceiverKitError

IDLE = -2  # in place of a step: the worker makes no sample


class _Checked:
    """Samples under the name that errors give their data set.

    Whatever a data set raises becomes an error with the sample's index and step. Samples of another form, and NaN or
    infinities in an unmasked input, are refused in the same way: a step on them would turn all weights into NaN.
    Values that a mask hides are not checked. Each data worker records which sample it makes, so that the main process
    can name it when the worker dies.
    """

    def __init__(self, name: str, workers: int) -> None:
        self.name = name
        self.making = torch.full((workers, 2), IDLE).share_memory_() if workers else None

    def checked(self, make: Callable[[], Any], index: int, step: int) -> Any:
        """The sample that ``make`` returns; None where it has no more."""
        info = get_worker_info()
        if info is not None and self.making is not None:
            self.making[info.id] = torch.tensor([step, index])
        where = f"sample {index} of {self.name}{'' if step == EVALUATION else f' at step {step}'}"
        try:
            sample = make()
        except PerceiverKitError as error:
            raise type(error)(f"{where}: {error}") from error
        except Exception as error:
            raise InputError(f"{where} cannot be made: {type(error).__name__}: {error}") from error
        if sample is not None:
            _check(sample, where)
        if info is not None and self.making is not None:
            self.making[info.id] = IDLE
        return sample

    def samples_in_progress(self) -> list[str]:
        """The samples that data workers are making, or were making when they died."""
        making = [] if self.making is None else self.making.tolist()
        return [f"sample {index} of {self.name}" for step, index in making if step != IDLE]


class CheckedDataset(_Checked, Dataset):
    """A map-style data set whose samples are checked."""

    def __init__(self, data: Any, name: str, *, workers: int = 0) -> None:
        super().__init__(name, workers)
        try:
            length = len(data)
        except TypeError:
            expected = "must have a length and items, or be a torch.utils.data.IterableDataset"
            raise InputError(f"{name} {expected}, got {describe_value(data)}") from None
        if not length:
            raise InputError(f"{name} has no samples; give at least one")
        self.data = data
        if not _knows_steps(data):
            self.data = _Plain(data)
            self[0, EVALUATION]  # wrong samples are refused before training starts

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        index, step = key if isinstance(key, tuple) else (key, EVALUATION)
        return self.checked(lambda: self.data[key], index, step)


class CheckedIterable(_Checked, IterableDataset):
    """An iterable data set whose samples are checked, and numbered in the order of batches.

    ``batch`` is the number of samples that a process has of a batch. In training the data are repeated without end.
    """

    def __init__(
        self,
        data: IterableDataset,
        name: str,
        *,
        batch: int,
        training: bool,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        super().__init__(name, workers)
        self.data, self.batch, self.training, self.rank, self.world = data, batch, training, rank, world

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        items = iter(self.data)
        for count in itertools.count():
            batch, place = divmod(count, self.batch)
            step = batch * workers + worker  # the loader takes batches from its workers in turn
            index = (step * self.world + self.rank) * self.batch + place
            step = step if self.training else EVALUATION
            sample = self.checked(lambda: next(items, None), index, step)  # noqa: B023
            if sample is None and self.training:
                items = iter(self.data)
                sample = self.checked(lambda: next(items, None), index, step)  # noqa: B023
            if sample is None:
                break
            yield {**sample, "draw": torch.tensor([step, index])}
        if self.training:
            raise InputError(f"{self.name} has no samples for process {self.rank}, worker {worker}; use fewer")


def _knows_steps(data: Any) -> bool:
    """Whether a data set takes keys (index, step): the kit's own, and wrappers that pass keys on."""
    if isinstance(data, Samples):
        return True
    try:
        return data[0, EVALUATION]["draw"].tolist() == [EVALUATION, 0]
    except Exception:  # data sets raise anything for keys that they do not know
        return False


class _Plain(Dataset):
    """A data set that takes indices only."""

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
    """Samples as one batch, by PyTorch's default collation; InputError says in what samples differ."""
    first = _flat(samples[0])
    for sample in samples[1:]:
        differing = first.keys() ^ _flat(sample).keys()
        if differing:  # PyTorch would drop parts that the first sample lacks, such as a mask, from all of them
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
    """The parts of a sample by dotted name."""
    found = {}
    for name, value in sample.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": part for inner, part in _flat(value).items()}
        else:
            found[str(name)] = value
    return found


def _index(sample: Mapping[str, Any]) -> Any:
    return int(sample["draw"][1]) if isinstance(sample.get("draw"), Tensor) else "?"
