"""Sampling depends on seed and step alone, not on workers, ranks or where the run started."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from perceiver_kit.data.sampling import EVALUATION, Samples, Steps, generator
from perceiver_kit.errors import AssemblyError, InputError

LENGTH, WORLD, SHARE, STEPS = (st.integers(1, 20), st.integers(1, 4), st.integers(1, 6), st.integers(0, 12))
INT64 = st.integers(-(2**63), 2**63 - 1)


def first_draw(*numbers: int) -> int:
    return int(torch.randint(2**62, (), generator=generator(*numbers)))


class Noise(Samples):
    seed = 3

    def __len__(self) -> int:
        return 10

    def sample(self, index: int, random: torch.Generator, training: bool) -> dict[str, Any]:
        noise = torch.rand(2, generator=random) if training else torch.zeros(2)
        return {"inputs": {"x": noise}, "targets": {"y": torch.tensor(index)}}


@given(st.lists(INT64, min_size=1, max_size=4), st.lists(INT64, min_size=1, max_size=4))
@example([1], [1, 0])
@example([2**32, 0], [0, 1])
@example([2**32], [0])
@example([-1], [2**32 - 1])
@example([5], [0, 5])
def test_generators_agree_only_for_equal_numbers(ours: list[int], theirs: list[int]) -> None:
    assert (first_draw(*ours) == first_draw(*theirs)) == (ours == theirs)


def test_neighbouring_seeds_are_unrelated() -> None:
    draws = torch.stack([torch.rand(200, generator=generator(0, step, 7)) for step in range(50)])
    correlations = torch.corrcoef(draws) - torch.eye(50)
    assert correlations.abs().max() < 0.35


@pytest.mark.parametrize("numbers", [(), (1.5,), (True,), (2**63,), (-(2**63) - 1,)])
def test_bad_numbers_are_refused(numbers: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match="generator: "):
        generator(*numbers)


@given(LENGTH, WORLD, SHARE, STEPS, st.integers(0, 99))
def test_ranks_together_read_the_batches_of_one_process(length: int, world: int, share: int, steps: int, seed: int):
    whole = [*Steps(length, share * world, steps=steps, seed=seed)]
    ranks = [[*Steps(length, share * world, steps=steps, seed=seed, rank=r, world=world)] for r in range(world)]
    assert [[*chain(*parts)] for parts in zip(*ranks, strict=True)] == whole
    assert all(len(batch) == share for rank in ranks for batch in rank)


@given(LENGTH, SHARE, STEPS, st.integers(0, 12), st.integers(0, 99))
def test_start_skips_steps(length: int, batch: int, steps: int, start: int, seed: int) -> None:
    sampler = Steps(length, batch, steps=steps, seed=seed)
    whole = [*sampler]
    sampler.start = start
    assert [*sampler] == whole[start:]
    assert len(sampler) == steps == len(whole)
    assert [*sampler] == whole[start:]  # iteration leaves it unchanged


@given(LENGTH, SHARE, STEPS, st.integers(0, 99))
def test_every_epoch_is_a_permutation(length: int, batch: int, steps: int, seed: int) -> None:
    keys = [key for batch_keys in Steps(length, batch, steps=steps, seed=seed) for key in batch_keys]
    assert [step for _, step in keys] == [step for step in range(steps) for _ in range(batch)]
    for epoch in range(0, len(keys) - length + 1, length):
        assert Counter(index for index, _ in keys[epoch : epoch + length]) == Counter(range(length))


def test_permutations_differ_by_seed_and_epoch() -> None:
    orders = [[i for i, _ in batch] for seed in range(3) for batch in Steps(50, 50, steps=3, seed=seed)]
    assert len({tuple(order) for order in orders}) == 9
    assert all(sum(a == b for a, b in zip(one, other, strict=True)) < 10 for one, other in pairwise(orders))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(length=0), "length must be an int of at least 1"),
        (dict(batch=0), "batch must be"),
        (dict(batch=3, world=2), "batch 3, over all ranks, must be divisible by world 2"),
        (dict(rank=1), "rank 1 of 1"),
        (dict(rank=-1), "rank must be an int of at least 0"),
        (dict(steps=-1), "steps must be"),
        (dict(start=-1), "start must be"),
    ],
)
def test_bad_sizes_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(AssemblyError, match=message):
        Steps(**(dict(length=4, batch=2, steps=1) | wrong))


def test_items_depend_on_seed_step_and_index_alone() -> None:
    data = Noise()
    ahead = {key: data[key]["inputs"]["x"] for key in [(2, 0), (2, 1), (3, 0)]}
    torch.manual_seed(9)
    data[0, 5]
    assert all(data[key]["inputs"]["x"].equal(noise) for key, noise in ahead.items())
    assert len({tuple(noise.tolist()) for noise in ahead.values()}) == 3
    assert data[2, 1]["draw"].tolist() == [1, 2]
    assert data[2]["draw"].tolist() == [EVALUATION, 2]
    for index in (-1, 10):
        with pytest.raises(IndexError):
            data[index]
    assert len([*iter(data)]) == 10


def test_workers_read_the_same_items() -> None:
    def batches(workers: int) -> list[torch.Tensor]:
        loader = DataLoader(Noise(), batch_sampler=Steps(10, 4, steps=5, seed=1), num_workers=workers)
        return [torch.cat([batch["inputs"]["x"].flatten(), batch["draw"].flatten()]) for batch in loader]

    assert all(a.equal(b) for a, b in zip(batches(0), batches(2), strict=True))
