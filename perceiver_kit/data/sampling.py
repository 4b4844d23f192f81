"""Deterministic sampling: the items of each step and their random numbers depend on the seed and the step alone.

A resumed run, or one with other numbers of workers or processes, therefore reads the same data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Generator
from torch.utils.data import Dataset, Sampler

from ..checking import check_positive
from ..errors import AssemblyError, InputError
from ..flags import checked_flags

EVALUATION = -1
"""The step of evaluation items: their random numbers depend on seed and index alone."""

Key = int | tuple[int, int]
Sample = dict[str, Any]


def generator(*numbers: int) -> Generator:
    """A CPU generator seeded by a sequence of signed 64-bit ints, through NumPy's ``SeedSequence``.

    PyTorch uses 32 bits of the seed: expect one collision among 65,000 sequences.

    Raises InputError for no numbers, or one that is not a signed 64-bit int.

    >>> torch.rand(2, generator=generator(0, 1)).equal(torch.rand(2, generator=generator(0, 1)))
    True
    >>> torch.rand(2, generator=generator(0, 1)).equal(torch.rand(2, generator=generator(1, 0)))
    False
    """
    if not numbers:
        raise InputError("generator: give at least one number")
    words = [len(numbers)]  # SeedSequence alone equates (1,) and (1, 0), (2**32, 0) and (0, 1)
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or not -(2**63) <= number < 2**63:
            raise InputError(f"generator: numbers must be ints from -2**63 to 2**63 - 1, got {number!r}")
        words += [number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF]
    return Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


class Steps(Sampler[list[tuple[int, int]]]):
    """A batch sampler that yields a list of keys ``(index, step)`` for each step.

    The stream of indices is a sequence of seeded permutations of ``range(length)``. Step s takes its positions
    s · batch to (s + 1) · batch; rank r of ``world`` takes the r-th contiguous share of these, so that the ranks
    together read the batches of a single process. A batch across two permutations may repeat an index; both
    items then have the same random numbers.

    Args:
        length: number of items.
        batch: keys per step over all ranks, divisible by ``world``.
        steps: the step at which the run ends; also ``len()``, whatever ``start`` is.
        start: the first step. Read when iteration begins, so it can be set until then.

    Raises AssemblyError for sizes that are not positive, a batch that ``world`` does not divide, or a rank that is
    not below ``world``.

    >>> [*Steps(3, 2, steps=3)]
    [[(1, 0), (0, 0)], [(2, 1), (0, 1)], [(2, 2), (1, 2)]]
    >>> [*Steps(3, 2, steps=3, start=2, rank=1, world=2)]
    [[(1, 2)]]
    """

    def __init__(
        self, length: int, batch: int, *, steps: int, seed: int = 0, rank: int = 0, world: int = 1, start: int = 0
    ) -> None:
        check_positive("Steps", length=length, batch=batch, world=world)
        check_positive("Steps", least=0, steps=steps, rank=rank, start=start)
        if rank >= world:
            raise AssemblyError(f"Steps: rank must be below world, got rank {rank} of {world}")
        if batch % world:
            raise AssemblyError(f"Steps: batch {batch}, over all ranks, must be divisible by world {world}")
        self.length, self.batch, self.steps, self.seed = length, batch, steps, seed
        self.rank, self.world, self.start = rank, world, start

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch // self.world
        epoch, order = -1, []
        for step in range(self.start, self.steps):
            keys = []
            first = step * self.batch + self.rank * share
            for position in range(first, first + share):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = torch.randperm(self.length, generator=generator(self.seed, epoch)).tolist()
                keys.append((order[position % self.length], step))
            yield keys


class Samples(Dataset[Sample], ABC):
    """Base of the kit's data sets: items by index in evaluation, by ``(index, step)`` in training.

    ``data[i]`` is deterministic; the random numbers of ``data[i, step]`` depend on seed, step and index. An item is
    a dict of ``inputs``, ``targets``, optionally ``mask`` (True = may be read), and ``draw``: int64 (2,), the step
    (−1 in evaluation) and the index. Sizes are fixed, so that PyTorch's default collation works. Flags of the
    constructor must be bools.

    Raises IndexError outside ``range(len(data))``.
    """

    seed: int

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = checked_flags(cls.__init__)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int, random: Generator, training: bool) -> Sample:
        """The item without ``draw``; ``random`` is its own generator."""

    def __getitem__(self, key: Key) -> Sample:
        index, step = key if isinstance(key, tuple) else (key, EVALUATION)
        if not 0 <= index < len(self):
            raise IndexError(f"{type(self).__name__} has items 0 to {len(self) - 1}, got {index}")
        sample = self.sample(index, generator(self.seed, step, index), step != EVALUATION)
        return sample | {"draw": torch.tensor([step, index])}
