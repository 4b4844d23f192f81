"""Data makes batches of any data set: some take (index, step), others an index."""

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

SIZE = 6


class KitSamples(Samples):
    """A data set of the kit, with a random number in each sample."""

    seed = 3

    def __len__(self) -> int:
        return SIZE

    def sample(self, index: int, random: torch.Generator, training: bool) -> dict[str, Any]:
        x = torch.tensor([float(index), torch.rand((), generator=random).item(), float(training)])
        return {"inputs": {"x": x}, "targets": {"y": torch.tensor(index)}}


class Wrapper(Dataset):
    """A wrapper that passes the key on."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, key: Any) -> dict[str, Any]:
        sample = self.data[key]
        return sample | {"inputs": {"x": sample["inputs"]["x"] * 2}}


def trainer(device: str, accumulate: int = 1) -> SimpleNamespace:
    strategy = SimpleNamespace(root_device=torch.device(device))
    alone = dict(global_rank=0, world_size=1, global_step=0)
    return SimpleNamespace(accumulate_grad_batches=accumulate, strategy=strategy, **alone)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_are_pinned(device: str) -> None:
    data = Data(KitSamples(), KitSamples(), batch=2, steps=1)
    data.trainer = trainer(device)  # type: ignore[assignment]
    loaders = data.train_dataloader(), data.val_dataloader()
    assert [loader.pin_memory for loader in loaders] == [device == "cuda"] * 2  # type: ignore[union-attr]


def batches(
    train: Any, held_out: Any = None, *, steps: int = 5, accumulate: int = 1, workers: int = 0
) -> tuple[list, list]:
    """The batches of ``steps`` steps, and all held-out batches."""
    data = Data(train, held_out, batch=2, steps=steps, seed=1, workers=workers)
    data.trainer = trainer("cpu", accumulate)  # type: ignore[assignment]
    return [*islice(data.train_dataloader(), steps * accumulate)], [*data.val_dataloader()]


def test_plain_data_sets_are_read_in_the_same_order() -> None:
    plain = [{key: value for key, value in KitSamples()[i].items() if key != "draw"} for i in range(SIZE)]
    (kit_train, kit_held_out), (train, held_out) = batches(KitSamples(), KitSamples()), batches(plain, plain)
    assert len(kit_train) == len(train) == 5
    for first, second in (*zip(kit_train, train, strict=True), *zip(kit_held_out, held_out, strict=True)):
        assert torch.equal(first["draw"], second["draw"])
        assert torch.equal(first["targets"]["y"], second["targets"]["y"])
        assert torch.equal(first["inputs"]["x"][:, 0], second["inputs"]["x"][:, 0])


def test_steps_pass_through_wrappers() -> None:
    plain, wrapped = batches(KitSamples())[0], batches(Wrapper(KitSamples()))[0]
    for first, second in zip(plain, wrapped, strict=True):
        assert torch.equal(2 * first["inputs"]["x"], second["inputs"]["x"])
        assert first["inputs"]["x"][:, 2].all(), "the sample is for training"
    randoms = torch.cat([batch["inputs"]["x"][:, 1] for batch in plain])
    assert len(randoms.unique()) == len(randoms)


class Stamped(Dataset):
    """Takes any key, as arrays do, and has a draw without a step."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, key: Any) -> dict[str, Any]:
        index = key[0] if isinstance(key, tuple) else key
        return {"inputs": {"x": torch.tensor(float(index))}, "targets": {}, "draw": torch.tensor([7, 7])}


def test_a_data_set_with_a_draw_without_steps_gets_indices() -> None:
    expected, stamped = batches(KitSamples())[0], batches(Stamped())[0]
    for first, second in zip(expected, stamped, strict=True):
        assert torch.equal(first["draw"], second["draw"])
        assert torch.equal(second["inputs"]["x"], second["draw"][:, 1].float())


def test_accumulation_takes_several_batches_per_step() -> None:
    once, thrice = batches(KitSamples())[0], batches(KitSamples(), accumulate=3)[0]
    assert (len(once), len(thrice)) == (5, 15)
    assert all(torch.equal(a["draw"], b["draw"]) for a, b in zip(once, thrice, strict=False))


@pytest.mark.parametrize(("held_out_batch", "sizes"), [(None, [2, 2, 2]), (4, [4, 2]), (10, [6])])
def test_held_out_data_have_their_own_batch_size(held_out_batch: int | None, sizes: list[int]) -> None:
    data = Data(KitSamples(), KitSamples(), batch=2, steps=1, held_out_batch=held_out_batch)
    assert [len(batch["draw"]) for batch in data.val_dataloader()] == sizes


def test_masked_inputs_may_be_nan() -> None:
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
def test_samples_of_another_form_are_refused(data: Any, got: str) -> None:
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
    train, held_out = batches(Counting(3), Counting(3), steps=3)
    assert [batch["inputs"]["x"].tolist() for batch in train] == [[0, 1], [2, 0], [1, 2]]
    assert [batch["draw"].tolist() for batch in train] == [[[0, 0], [0, 1]], [[1, 2], [1, 3]], [[2, 4], [2, 5]]]
    assert [batch["inputs"]["x"].tolist() for batch in held_out] == [[0, 1], [2]]
    assert held_out[1]["draw"].tolist() == [[-1, 2]]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_draws_of_iterable_data_are_unique_over_workers() -> None:
    train, _ = batches(Counting(12), steps=6, workers=2)
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
        batches(data, steps=3)
