"""Streaming: every item once over all ranks and workers, in an order that a seed fixes, resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from perceiver_kit.data.stream import Stream
from perceiver_kit.errors import AssemblyError, InputError


def ten(source: int) -> Iterator[int]:
    yield from range(10 * source, 10 * source + 10 - source % 3)


def lines(path: Path) -> Iterator[str]:
    with path.open() as file:
        for line in file:
            yield line.strip()


def expected(sources: int) -> list[int]:
    return [item for source in range(sources) for item in ten(source)]


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 30), st.integers(0, 9), st.integers(0, 3))
def test_ranks_share_every_epoch(sources: int, world: int, shuffle: int, seed: int, epoch: int) -> None:
    ranks = [
        [*Stream(range(sources), ten, shuffle=shuffle, seed=seed, epoch=epoch, rank=rank, world=world)]
        for rank in range(world)
    ]
    assert sorted(item for rank in ranks for item in rank) == expected(sources)


@pytest.mark.parametrize("sources", [2, 9])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_workers_of_all_ranks_share_an_epoch(sources: int, workers: int) -> None:
    seen: Counter[int] = Counter()
    for rank in range(2):
        stream = Stream(range(sources), ten, shuffle=4, rank=rank, world=2)
        loader = DataLoader(stream, batch_size=3, num_workers=workers)
        seen.update(int(item) for batch in loader for item in batch)
    assert seen == Counter(expected(sources))


def test_order_is_by_seed_and_epoch_and_the_buffer_mixes() -> None:
    def order(**options: int) -> list[int]:
        return [*Stream(range(20), ten, **options)]

    assert order(shuffle=30, seed=1) == order(shuffle=30, seed=1)
    different = [order(shuffle=30, seed=seed, epoch=epoch) for seed in range(2) for epoch in range(2)]
    assert len({tuple(each) for each in different}) == 4
    plain = order()
    assert all(b == a + 1 for a, b in pairwise(plain[:7])) and plain != sorted(plain)
    mixed = different[0]
    assert sum(b == a + 1 for a, b in pairwise(mixed)) < 20
    assert order(shuffle=1) == plain
    assert len({tuple(order(seed=seed, epoch=epoch)) for seed in range(2) for epoch in range(2)}) == 4


def test_the_buffer_is_bounded() -> None:
    opened: list[int] = []

    def spy(source: int) -> Iterator[int]:
        for item in ten(source):
            opened.append(item)
            yield item

    stream = iter(Stream(range(100), spy, shuffle=8))
    for taken in range(1, 50):
        next(stream)
        assert len(opened) <= taken + 9


@given(st.integers(0, 40), st.integers(1, 4))
def test_skipping_is_reading_on(skip: int, batch: int) -> None:
    whole = [*Stream(range(5), ten, shuffle=6, seed=2)]
    assert [*Stream(range(5), ten, shuffle=6, seed=2, skip=skip, batch=batch)] == whole[skip * batch :]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_resumed_loader_reads_on(workers: int) -> None:
    def batches(count: int, skip: int = 0) -> list[list[int]]:
        stream = Stream(range(9), ten, shuffle=5, epochs=None, skip=skip, batch=4)
        found = iter(DataLoader(stream, batch_size=4, num_workers=workers))
        return [next(found).tolist() for _ in range(count)]

    whole = batches(12)
    for skip in (1, 5, 6):
        assert batches(12 - skip, skip=skip) == whole[skip:]


def test_epochs_follow_each_other() -> None:
    twice = [*Stream(range(4), ten, shuffle=5, epochs=2, epoch=3)]
    assert twice == [item for epoch in (3, 4) for item in Stream(range(4), ten, shuffle=5, epoch=epoch)]


def test_files_are_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(f"{name}1\n{name}2\n")
    paths = sorted(tmp_path.iterdir())
    assert sorted(Stream(paths, lines)) == ["a1", "a2", "b1", "b2", "c1", "c2"]
    with pytest.raises(InputError, match=r"Stream: .*gone cannot be read"):
        list(Stream([*paths, tmp_path / "gone"], lines))


def test_wrong_numbers_and_nothing_to_read_are_refused() -> None:
    with pytest.raises(InputError, match="sources is empty"):
        Stream([], ten)
    with pytest.raises(AssemblyError, match="rank 2 of 2"):
        Stream([1], ten, rank=2, world=2)
    for wrong in (dict(shuffle=-1), dict(epochs=0), dict(skip=-1), dict(batch=0), dict(world=0)):
        with pytest.raises(AssemblyError, match=next(iter(wrong))):
            Stream([1], ten, **wrong)
    with pytest.raises(InputError, match="no items for reader 3 of 4"):
        list(Stream([7], lambda source: iter(range(3)), epochs=None, rank=3, world=4))
