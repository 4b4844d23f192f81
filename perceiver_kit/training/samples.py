"""Samples of any data set, checked; errors name the sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from ..checking import check_finite, describe_value
from ..data.collation import index_of
from ..data.sampling import EVALUATION, Key, Samples
from ..errors import InputError, PerceiverKitError
from ..flags import checked_flags

IDLE = -2  # in place of a step: the worker makes no sample
END = object()


class _Checked:
    """Base of checked data sets; ``name`` is the data set's name in errors, ``missing`` the inputs that may have NaN.

    Any exception of a data set becomes an error with the sample's index and step. Samples of another form are refused,
    and NaN or infinities in an unmasked input, since one step on them turns all weights into NaN. Masked inputs are
    not checked. Each data worker records its current sample, so that the main process can name it if the worker dies.
    """

    def __init__(self, name: str, workers: int, missing: Collection[str] = ()) -> None:
        self.name, self.missing = name, missing
        self.current = torch.full((workers, 2), IDLE).share_memory_() if workers else None

    def checked(self, make: Callable[[], Any], index: int, step: int) -> Any:
        """The sample that ``make`` returns, checked; END for the end of iterable data."""
        self._record(step, index)
        where = f"sample {index} of {self.name}{'' if step == EVALUATION else f' at step {step}'}"
        try:
            sample = make()
        except PerceiverKitError as error:
            raise type(error)(f"{where}: {error}") from error
        except Exception as error:
            raise InputError(f"{where} cannot be made: {type(error).__name__}: {error}") from error
        if sample is not END:
            _check(sample, where, self.missing)
        self._record(IDLE, IDLE)
        return sample

    def _record(self, step: int, index: int) -> None:
        worker = get_worker_info()
        if worker is not None and self.current is not None:
            self.current[worker.id] = torch.tensor([step, index])

    def samples_in_progress(self) -> list[str]:
        """The current samples of all data workers, dead ones included."""
        current = [] if self.current is None else self.current.tolist()
        return [f"sample {index} of {self.name}" for step, index in current if step != IDLE]


class CheckedDataset(_Checked, Dataset):
    """A map-style data set whose samples are checked.

    The kit's own data sets, and wrappers that pass keys on, get keys (index, step); others get the index.
    """

    def __init__(self, data: Any, name: str, *, workers: int = 0, missing: Collection[str] = ()) -> None:
        super().__init__(name, workers, missing)
        try:
            length = len(data)
        except TypeError:
            expected = "must have a length and items, or be a torch.utils.data.IterableDataset"
            raise InputError(f"{name} {expected}, got {describe_value(data)}") from None
        if not length:
            raise InputError(f"{name} has no samples; give at least one")
        self.data, self.takes_steps = data, _takes_steps(data)
        if not self.takes_steps:
            self[0, EVALUATION]  # refuse wrong samples before training starts

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        index, step = key if isinstance(key, tuple) else (key, EVALUATION)
        if self.takes_steps:
            return self.checked(lambda: self.data[key], index, step)
        return {**self.checked(lambda: self.data[index], index, step), "draw": torch.tensor([step, index])}


class CheckedIterable(_Checked, IterableDataset):
    """An iterable data set whose samples are checked, and numbered in the order of batches.

    ``batch`` is the number of samples per process and batch. In training the data are repeated without end.
    """

    @checked_flags
    def __init__(
        self,
        data: Iterable[Any],
        name: str,
        *,
        batch: int,
        training: bool,
        workers: int = 0,
        missing: Collection[str] = (),
    ) -> None:
        super().__init__(name, workers, missing)
        self.data, self.batch, self.training = data, batch, training
        self.rank, self.world = 0, 1

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        items = iter(self.data)
        for count in itertools.count():
            batch, place = divmod(count, self.batch)
            step = batch * workers + worker  # the loader takes batches from its workers in turn
            index = (step * self.world + self.rank) * self.batch + place
            step = step if self.training else EVALUATION
            sample = self.checked(lambda: next(items, END), index, step)  # noqa: B023
            if sample is END and self.training:
                items = iter(self.data)
                sample = self.checked(lambda: next(items, END), index, step)  # noqa: B023
            if sample is END:
                break
            yield {**sample, "draw": torch.tensor([step, index])}
        if self.training:
            raise InputError(f"{self.name} has no samples for process {self.rank}, worker {worker}; use fewer")


def _takes_steps(data: Any) -> bool:
    if isinstance(data, Samples):
        return True
    try:
        return data[0, EVALUATION]["draw"].tolist() == [EVALUATION, 0]
    except Exception:  # a data set may raise anything for an unknown key
        return False


def _check(sample: Any, where: str, missing: Collection[str] = ()) -> None:
    parts = [sample.get(part) for part in ("inputs", "targets")] if isinstance(sample, Mapping) else [None]
    if not all(isinstance(part, Mapping) for part in parts):
        got = f"a dict of {', '.join(map(str, sample))}" if isinstance(sample, Mapping) else describe_value(sample)
        raise InputError(f"{where}: a sample must be a dict of 'inputs' and 'targets' by name, got {got}")
    masked = sample.get("mask") or {}
    for name, value in sample["inputs"].items():
        if isinstance(value, Tensor) and value.is_nested:
            hint = "give a plain tensor for each sample, and Data(collate=kit.pad)"
            raise InputError(f"{where}: input {name!r} is a nested tensor; {hint}")
        if isinstance(value, Tensor) and name not in masked:
            value = value.nan_to_num(nan=0.0, posinf=math.inf, neginf=-math.inf) if name in missing else value
            hint = "remove the sample, replace the missing values, or give a mask"
            check_finite(value, f"{where}: input {name!r}", hint=hint)


def collated(collate: Callable[[list[Any]], Mapping[str, Any]], samples: list[Any]) -> dict[str, Any]:
    """A batch by a collation of the user; an InputError that names the samples for any exception."""
    where = f"collate of samples {', '.join(str(index_of(sample)) for sample in samples)}"
    try:
        batch = collate([{key: value for key, value in sample.items() if key != "draw"} for sample in samples])
    except PerceiverKitError as error:
        raise type(error)(f"{where}: {error}") from error
    except Exception as error:
        raise InputError(f"{where} failed: {type(error).__name__}: {error}") from error
    if not isinstance(batch, Mapping) or not {"inputs", "targets"} <= {*batch}:
        raise InputError(f"{where} must give a dict of 'inputs' and 'targets', got {describe_value(batch)}")
    return {**batch, "draw": torch.stack([sample["draw"] for sample in samples])}
