"""Data makes batches of any data set: those that know steps are asked for them, others for their index."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset, get_worker_info

import perceiver_kit as kit
from perceiver_kit.data.sampling import Samples
from perceiver_kit.training import Data

pytestmark = pytest.mark.usefixtures("unchecked")  # a trainer is stood in for
SIZE = 6


class Known(Samples):
    """Samples with a random number each, as the kit's own data sets have them."""

    seed = 3

    def __len__(self) -> int:
        return SIZE

    def sample(self, index: int, random: torch.Generator, training: bool) -> dict[str, Any]:
        x = torch.tensor([float(index), torch.rand((), generator=random).item(), float(training)])
        return {"inputs": {"x": x}, "targets": {"y": torch.tensor(index)}}


class Passing(Dataset):
    """A wrapper of the user's that passes the key on."""

    def __init__(self, inside: Dataset) -> None:
        self.inside = inside

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, key: Any) -> dict[str, Any]:
        sample = self.inside[key]
        return sample | {"inputs": {"x": sample["inputs"]["x"] * 2}}


def batches(train: Any, held_out: Any = None, *, accumulate: int = 1) -> tuple[list, list]:
    data = Data(train, held_out, batch=2, steps=5, seed=1)
    data.trainer = SimpleNamespace(accumulate_grad_batches=accumulate, global_rank=0, world_size=1, global_step=0)  # type: ignore[assignment]
    return [*data.train_dataloader()], [*data.val_dataloader()]


def test_a_plain_data_set_is_read_in_the_order_of_ours() -> None:
    plain = [{key: value for key, value in Known()[i].items() if key != "draw"} for i in range(SIZE)]
    (ours, ours_held_out), (theirs, theirs_held_out) = batches(Known(), Known()), batches(plain, plain)
    assert len(ours) == len(theirs) == 5
    for first, second in (*zip(ours, theirs, strict=True), *zip(ours_held_out, theirs_held_out, strict=True)):
        assert torch.equal(first["draw"], second["draw"])
        assert torch.equal(first["targets"]["y"], second["targets"]["y"])
        assert torch.equal(first["inputs"]["x"][:, 0], second["inputs"]["x"][:, 0])


def test_data_sets_that_know_steps_are_told_them_through_wrappers_too() -> None:
    ours, wrapped = batches(Known())[0], batches(Passing(Known()))[0]
    for first, second in zip(ours, wrapped, strict=True):
        assert torch.equal(2 * first["inputs"]["x"], second["inputs"]["x"])
        assert first["inputs"]["x"][:, 2].all(), "training is not seen"
    randoms = torch.cat([batch["inputs"]["x"][:, 1] for batch in ours])
    assert len(randoms.unique()) == len(randoms)


class Stamped(Dataset):
    """Takes any key, as arrays do, and has a draw of its own that says nothing of steps."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, key: Any) -> dict[str, Any]:
        index = key[0] if isinstance(key, tuple) else key
        return {"inputs": {"x": torch.tensor(float(index))}, "targets": {}, "draw": torch.tensor([7, 7])}


def test_a_data_set_with_a_draw_of_its_own_is_not_taken_for_one_that_knows_steps() -> None:
    known, stamped = batches(Known())[0], batches(Stamped())[0]
    for first, second in zip(known, stamped, strict=True):
        assert torch.equal(first["draw"], second["draw"])
        assert torch.equal(second["inputs"]["x"], second["draw"][:, 1].float())


def test_steps_that_accumulate_have_as_many_batches_each() -> None:
    once, thrice = batches(Known())[0], batches(Known(), accumulate=3)[0]
    assert (len(once), len(thrice)) == (5, 15)
    assert all(torch.equal(a["draw"], b["draw"]) for a, b in zip(once, thrice, strict=False))


@pytest.mark.parametrize(("asked", "sizes"), [(None, [2, 2, 2]), (4, [4, 2]), (10, [6])])
def test_held_out_data_come_in_batches_of_their_own_size(asked: int | None, sizes: list[int]) -> None:
    data = Data(Known(), Known(), batch=2, steps=1, held_out_batch=asked)
    assert [len(batch["draw"]) for batch in data.val_dataloader()] == sizes


def test_what_a_mask_hides_may_be_anything() -> None:
    x = torch.tensor([1.0, torch.nan, -torch.inf])
    hidden = {"inputs": {"x": x}, "targets": {}, "mask": {"x": x.isfinite()}}
    for batch in batches([hidden] * SIZE)[0]:
        assert torch.equal(batch["mask"]["x"], batch["inputs"]["x"].isfinite())
    for mask in ({}, {"mask": {"y": x.isfinite()}}):
        with pytest.raises(kit.InputError, match=r"sample 0 of train: input 'x' .*give a mask"):
            batches([{"inputs": {"x": x}, "targets": {}} | mask] * SIZE)


@pytest.mark.parametrize(
    ("data", "got"),
    [
        ([{"image": torch.zeros(2)}], "a dict of image"),
        (TensorDataset(torch.zeros(4, 2), torch.zeros(4)), "a tuple"),
        ([torch.zeros(2)], r"float32 \(2,\)"),
    ],
)
def test_samples_of_another_form_are_refused_in_words(data: Any, got: str) -> None:
    with pytest.raises(kit.InputError, match=rf"train: a sample must be a dict of 'inputs' and 'targets' .*got {got}"):
        Data(data, None, batch=1, steps=1)


class Counting(IterableDataset):
    """Numbers from 0, divided among workers as PyTorch recommends."""

    def __init__(self, length: int, bad: int = -1) -> None:
        self.length, self.bad = length, bad

    def __iter__(self) -> Any:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        for i in range(worker, self.length, workers):
            yield {"inputs": {"x": torch.tensor(float("nan") if i == self.bad else i)}, "targets": {}}


def test_iterable_data_are_repeated_in_training_and_numbered() -> None:
    train, held_out = ([*part] for part in batches_of(Counting(3), Counting(3), count=3))
    assert [batch["inputs"]["x"].tolist() for batch in train] == [[0, 1], [2, 0], [1, 2]]
    assert [batch["draw"].tolist() for batch in train] == [[[0, 0], [0, 1]], [[1, 2], [1, 3]], [[2, 4], [2, 5]]]
    assert [batch["inputs"]["x"].tolist() for batch in held_out] == [[0, 1], [2]]
    assert held_out[1]["draw"].tolist() == [[-1, 2]]


def test_draws_of_iterable_data_are_unique_over_workers() -> None:
    train, _ = batches_of(Counting(12), None, count=6, workers=2)
    draws = [tuple(draw) for batch in train for draw in batch["draw"].tolist()]
    assert draws == [(i // 2, i) for i in range(12)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Counting(0), "train has no samples for process 0"),
        (Counting(3, bad=2), "sample 2 of train at step 1: input 'x'"),
    ],
)
def test_bad_iterable_data_are_refused(data: Counting, message: str) -> None:
    with pytest.raises(kit.InputError, match=message):
        batches_of(data, None, count=3)


def batches_of(train: Any, held_out: Any, *, count: int, workers: int = 0) -> tuple[list, list]:
    data = Data(train, held_out, batch=2, steps=count, workers=workers)
    data.trainer = SimpleNamespace(accumulate_grad_batches=1, global_rank=0, world_size=1, global_step=0)  # type: ignore[assignment]
    return [*islice(data.train_dataloader(), count)], [*data.val_dataloader()]
