"""Data larger than memory: files read one after the other, divided among processes and their workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch.utils.data import IterableDataset, get_worker_info

from ..checks import check_positive
from ..errors import AssemblyError, InputError
from .sampling import generator

Source = TypeVar("Source")
Item = TypeVar("Item")


class Stream(IterableDataset[Item], Generic[Source, Item]):
    """Items of many sources, each item once an epoch over all ranks and all of their data workers.

    Every epoch has its own order of sources. Whole sources are dealt out, one reader a source; where there are
    fewer sources than readers, every reader reads all and keeps every so many-th item. Items then pass a buffer of
    ``shuffle``, from which one leaves at random for each that comes: memory holds no more than these, and items move
    little further than this. The result is a function of seed, epoch, and the numbers of ranks and workers.

    Ranks need not get equally many items, so a run over several counts its steps and takes ``epochs=None``.

    To resume, give ``skip`` and ``batch``: what ``skip`` batches of ``batch`` items took is read again and dropped.
    That is exact while every worker still has items (always so with ``epochs=None``) and with as many workers.

    Args:
        sources: files, or anything that ``read`` opens.
        read: a source → its items, in an order of its own that is always the same.
        shuffle: size of the buffer; 0 keeps the order within a source.
        epochs: how often to go through everything; None: without end.
        epoch: the number of the first one.
        rank: which process this is; None: as torch.distributed says, else 0.
        world: of how many processes; None: as torch.distributed says, else 1.

    Raises InputError for no sources, an epoch without items in endless reading, or a source that cannot be read,
    naming it; AssemblyError for wrong numbers.

    >>> numbers = Stream([0, 10], lambda source: range(source, source + 3))
    >>> sorted(numbers)
    [0, 1, 2, 10, 11, 12]
    """

    def __init__(
        self,
        sources: Sequence[Source],
        read: Callable[[Source], Iterable[Item]],
        *,
        shuffle: int = 0,
        seed: int = 0,
        epochs: int | None = 1,
        epoch: int = 0,
        rank: int | None = None,
        world: int | None = None,
        skip: int = 0,
        batch: int = 1,
    ) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = (dist.get_rank() if together else 0) if rank is None else rank
        self.world = (dist.get_world_size() if together else 1) if world is None else world
        check_positive("Stream", least=0, shuffle=shuffle, epoch=epoch, skip=skip, rank=self.rank)
        check_positive("Stream", world=self.world, batch=batch, epochs=1 if epochs is None else epochs)
        if self.rank >= self.world:
            raise AssemblyError(f"Stream: rank must be below world, got rank {self.rank} of {self.world}")
        if not len(sources):
            raise InputError("Stream: sources is empty; give at least one")
        self.sources, self.read, self.shuffle, self.seed = sources, read, shuffle, seed
        self.epochs, self.epoch, self.skip, self.batch = epochs, epoch, skip, batch

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        # A loader takes batches from its workers in turn, 0, 1, …, 0, 1, …, and a new one starts with 0 again: each
        # takes the place of the one whose turn it was.
        worker = (worker + self.skip) % workers
        reader, readers = self.rank * workers + worker, self.world * workers
        taken = (self.skip - worker + workers - 1) // workers * self.batch
        return islice(self._epochs(reader, readers), taken, None)

    def _epochs(self, reader: int, readers: int) -> Iterator[Item]:
        for epoch in count(self.epoch) if self.epochs is None else range(self.epoch, self.epoch + self.epochs):
            some = False
            for item in self._mixed(self._items(epoch, reader, readers), epoch, reader):
                some = True
                yield item
            if not some and self.epochs is None:
                raise InputError(f"Stream: epoch {epoch} has no items for reader {reader} of {readers}; use fewer")

    def _items(self, epoch: int, reader: int, readers: int) -> Iterator[Item]:
        order = torch.randperm(len(self.sources), generator=generator(self.seed, epoch)).tolist()
        if len(order) >= readers:
            for index in order[reader::readers]:
                yield from self._opened(self.sources[index])
        else:
            everything = (item for index in order for item in self._opened(self.sources[index]))
            yield from islice(everything, reader, None, readers)

    def _opened(self, source: Source) -> Iterator[Item]:
        try:
            yield from self.read(source)
        except (OSError, InputError) as error:
            raise InputError(f"Stream: {source} cannot be read: {error}") from error

    def _mixed(self, items: Iterator[Item], epoch: int, reader: int) -> Iterator[Item]:
        if not self.shuffle:
            yield from items
            return
        random = generator(self.seed, epoch, reader, 0)
        buffer = [*islice(items, self.shuffle)]
        for item in items:
            place = int(torch.randint(len(buffer), (), generator=random))
            buffer[place], item = item, buffer[place]
            yield item
        for place in torch.randperm(len(buffer), generator=random).tolist():
            yield buffer[place]
