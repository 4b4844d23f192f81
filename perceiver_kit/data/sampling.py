"""Which item at which step, and the random numbers of each: functions of a seed, never of what ran before.

So a run that is interrupted and resumed, has more workers, or more processes, reads the same data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Generator
from torch.utils.data import Dataset, Sampler

from ..checks import check_positive
from ..errors import AssemblyError, InputError

EVALUATION = -1
"""The step that items have outside training: their random numbers then depend on seed and index alone."""

Key = int | tuple[int, int]
Sample = dict[str, Any]


def generator(*numbers: int) -> Generator:
    """A CPU generator whose stream depends on the numbers, their order and how many they are.

    The numbers, each of 64 bits with a sign, go through NumPy's ``SeedSequence``. Its result is cut to the 32 bits
    that PyTorch seeds from: among 65,000 draws two are expected to coincide.

    Raises InputError for no numbers, or one that is not a whole number of 64 bits.

    >>> torch.rand(2, generator=generator(0, 1)).equal(torch.rand(2, generator=generator(0, 1)))
    True
    >>> torch.rand(2, generator=generator(0, 1)).equal(torch.rand(2, generator=generator(1, 0)))
    False
    """
    if not numbers:
        raise InputError("generator: give at least one number")
    words = [len(numbers)]  # SeedSequence cannot tell (1,) from (1, 0), nor (2**32, 0) from (0, 1), by itself
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool) or not -(2**63) <= number < 2**63:
            raise InputError(f"generator: numbers must be ints from -2**63 to 2**63 - 1, got {number!r}")
        words += [number & 0xFFFFFFFF, number >> 32 & 0xFFFFFFFF]
    return Generator().manual_seed(int(np.random.SeedSequence(words).generate_state(1)[0]))


class Steps(Sampler[list[tuple[int, int]]]):
    """A batch sampler that counts steps: for each a list of keys ``(index, step)``.

    The stream of indices is a seeded permutation of ``range(length)``, then another, without end. Step s of
    ``batch`` takes positions s · batch to (s + 1) · batch of it, and rank r of ``world`` the r-th stretch of those,
    so that all ranks in order give what one process alone would have had. Across the seam between two permutations
    an index can come twice in a batch; with one step, both have the same random numbers.

    Args:
        length: how many items there are.
        batch: keys of one step over all ranks: divisible by ``world``.
        steps: where the run ends; ``len()``, wherever it starts.
        start: the first step to give. Read when iteration begins, so it may be set until then.

    Raises AssemblyError for sizes that are not positive, do not divide, or a rank that does not exist.

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
            raise AssemblyError(f"Steps: batch is that of all ranks: {batch} must be divisible by world {world}")
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
    """Items by index, or by ``(index, step)`` in training: the base of the data sets here.

    ``data[i]`` is always the same; ``data[i, step]`` has the random numbers of seed, step and index. Each is a dict
    of ``inputs``, ``targets``, where needed ``mask`` (True = may be read), and ``draw``: int64 (2,), the step (−1 in
    evaluation) and the index. Sizes are fixed, so that PyTorch's default collation makes batches.

    Raises IndexError outside ``range(len(data))``.
    """

    seed: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int, random: Generator, training: bool) -> Sample:
        """The item without its draw; ``random`` is made for it alone."""

    def __getitem__(self, key: Key) -> Sample:
        index, step = key if isinstance(key, tuple) else (key, EVALUATION)
        if not 0 <= index < len(self):
            raise IndexError(f"{type(self).__name__} has items 0 to {len(self) - 1}, got {index}")
        sample = self.sample(index, generator(self.seed, step, index), step != EVALUATION)
        return sample | {"draw": torch.tensor([step, index])}
