"""Errors of samples and batches name the sample and give a hint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.data.collation import batched
from perceiver_kit.training import samples
from perceiver_kit.training.samples import CheckedDataset


def sample(x: Tensor, **more: Any) -> dict[str, Any]:
    return {"inputs": {"x": x}, "targets": {"y": torch.tensor(0)}} | more


def drawn(index: int, **parts: Any) -> dict[str, Any]:
    return sample(torch.zeros(3), draw=torch.tensor([4, index])) | parts


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([]), "train must have a length and items, or be a .*IterableDataset, got a list_iterator"),
        (7, "train must have a length and items, or be a .*IterableDataset, got an? int"),
        ([], "train has no samples; give at least one"),
        ([None], "sample 0 of train: a sample must be a dict of 'inputs' and 'targets' by name, got .*None.*"),
    ],
)
def test_other_objects_are_not_data_sets(data: Any, message: str) -> None:
    with pytest.raises(kit.InputError, match=f"^{message}$"):
        CheckedDataset(data, "train")


class Raising:
    """Its sample 2 raises an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 2:
            raise self.error
        return sample(torch.zeros(3))


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("sound"), kit.InputError, " cannot be made: KeyError: 'sound'"),
        (MemoryError(), kit.InputError, " cannot be made: MemoryError: "),
        (kit.CheckpointError("it is gone"), kit.CheckpointError, ": it is gone"),
    ],
)
def test_errors_of_a_data_set_name_the_sample(error: Exception, kind: type, message: str) -> None:
    data = CheckedDataset(Raising(error), "held_out")
    for key, where in ((2, "sample 2 of held_out"), ((2, 7), "sample 2 of held_out at step 7")):
        with pytest.raises(kind) as caught:
            data[key]
        assert str(caught.value) == where + message
        assert type(caught.value) is kind
        assert caught.value.__cause__ is error


def test_a_data_worker_records_its_current_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    class Recording(Raising):
        def __getitem__(self, index: int) -> dict[str, Any]:
            seen.append(data.samples_in_progress())
            return super().__getitem__(index)

    data = CheckedDataset(Raising(ValueError("no")), "train", workers=3)
    data.data = Recording(ValueError("no"))
    assert data.samples_in_progress() == []
    data[0, 5]
    assert seen == [[]], "the main process records nothing"
    monkeypatch.setattr(samples, "get_worker_info", lambda: SimpleNamespace(id=1))
    data[1, 6]
    assert seen[1:] == [["sample 1 of train"]]
    assert data.samples_in_progress() == []
    with pytest.raises(kit.InputError):
        data[2, 6]
    assert data.samples_in_progress() == ["sample 2 of train"]


# ---- batches


def test_samples_of_different_sizes_are_refused() -> None:
    given = [drawn(8), drawn(5), drawn(9, inputs={"x": torch.zeros(4)}), drawn(6, inputs={"x": torch.zeros(5)})]
    with pytest.raises(kit.InputError) as caught:
        batched(given)
    assert str(caught.value) == (
        "samples of a batch must have the same sizes, but inputs.x is float32 (3,) in sample 8 and float32 (4,) in "
        "sample 9: crop or resize, or pad with Data(collate=kit.pad)"
    )


def test_samples_of_different_sizes_without_an_index_are_refused() -> None:
    with pytest.raises(kit.InputError, match=r"is float32 \(3,\) in sample \? and float32 \(4,\) in sample \?"):
        batched([sample(torch.zeros(3)), sample(torch.zeros(4))])


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (sample(torch.zeros(3)), "draw"),
        (drawn(5, mask={"x": torch.ones(3).bool()}), "mask.x"),
        (drawn(5, inputs={"sound": torch.zeros(3)}), "inputs.sound, inputs.x"),
    ],
)
def test_samples_of_different_parts_are_refused(other: dict[str, Any], named: str) -> None:
    for given in ([drawn(8), drawn(7), other], [other, drawn(8)]):
        with pytest.raises(kit.InputError) as caught:
            batched(given)
        assert str(caught.value) == f"samples of a batch must have the same parts, got {named} only in one of them"


def test_values_that_pytorch_cannot_collate_are_refused() -> None:
    with pytest.raises(kit.InputError, match=r"^samples cannot be collated: .*found .*object"):
        batched([drawn(8, note=object()), drawn(9, note=object())])


def test_equal_sizes_are_collated() -> None:
    batch = batched([drawn(8), drawn(9, inputs={"x": torch.ones(3)})])
    assert batch["draw"].tolist() == [[4, 8], [4, 9]]
    assert torch.equal(batch["inputs"]["x"], torch.stack([torch.zeros(3), torch.ones(3)]))
