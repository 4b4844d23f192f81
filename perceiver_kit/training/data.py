"""The data module: batches of a training and a held-out data set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..checking import check_positive, check_seed, describe_value
from ..data.collation import batched
from ..data.sampling import Steps
from ..errors import AssemblyError
from .module import Training
from .samples import CheckedDataset, CheckedIterable, collated


class Data(lightning.LightningDataModule):
    """Batches of two data sets: training data in a seeded endless order, held-out data in their own order.

    A sample is a dict of ``inputs`` and ``targets`` by name and, where needed, ``mask`` (True = may be read) and
    ``queries`` (what only the call knows), with tensors of fixed sizes. ``collate`` makes a batch of samples in place
    of stacking: ``kit.pad`` pads samples of different lengths. A missing target is -100 in integers, NaN in floats.
    ``missing`` names inputs in which NaN is a missing value (``inputs.Table``) instead of an error.

    Data sets of the kit (``perceiver_kit.data.sampling.Samples``, and wrappers that pass keys on) get keys (index,
    step), so that their random numbers are the same after a resume. Others get the index. A
    ``torch.utils.data.IterableDataset`` is read in its own order, repeated in training; it divides its samples among
    processes and workers itself. A run on one cannot be resumed.

    ``batch`` is the global number of samples of a step, shared by all processes.

    InputError names the sample and the step if a sample cannot be made, has NaN or infinities in an unmasked input, or
    differs in size from others of its batch.

    >>> points = [{"inputs": {"x": torch.randn(5, 2)}, "targets": {"label": torch.tensor(i % 2)}} for i in range(8)]
    >>> data = Data(points, None, batch=4, steps=100)
    """

    def __init__(
        self,
        train: Dataset | Sequence,
        held_out: Dataset | Sequence | None,
        *,
        batch: int,
        steps: int,
        seed: int = 0,
        workers: int = 0,
        held_out_batch: int | None = None,
        collate: Callable[[list[Any]], Mapping[str, Any]] | None = None,
        missing: Collection[str] = (),
    ) -> None:
        super().__init__()
        held_out_batch = batch if held_out_batch is None else held_out_batch
        check_positive("Data", batch=batch, steps=steps, held_out_batch=held_out_batch)
        check_positive("Data", workers=workers, least=0)
        check_seed("Data", seed)
        if collate is not None and not callable(collate):
            raise AssemblyError(f"Data: collate must be callable, such as kit.pad, got {describe_value(collate)}")
        if isinstance(missing, str) or not all(isinstance(name, str) for name in missing):
            raise AssemblyError(f"Data: missing must be names of inputs, got {missing!r}")
        self.collate = batched if collate is None else partial(collated, collate)
        self.batch, self.steps, self.seed, self.workers = batch, steps, seed, workers
        self.held_out_batch = held_out_batch
        self.train = _checked(train, "train", batch=batch, workers=workers, missing=missing)
        self.held_out: Any = held_out
        if held_out is not None:
            self.held_out = _checked(held_out, "held_out", batch=held_out_batch, workers=workers, missing=missing)

    @property
    def resumable(self) -> bool:
        """Whether a run can resume: iterable data cannot be read from the middle."""
        return isinstance(self.train, CheckedDataset)

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        rank, world = trainer.global_rank, trainer.world_size
        options: dict[str, Any] = self._loading() | {"persistent_workers": self.workers > 0}
        if isinstance(self.train, CheckedIterable):
            if self.batch % world:
                raise AssemblyError(f"Data: batch is global: {self.batch} must be divisible by the {world} processes")
            self.train.rank, self.train.world, self.train.batch = rank, world, self.batch // world
            return DataLoader(self.train, batch_size=self.train.batch, **options)
        micro = trainer.accumulate_grad_batches
        batches = _ResumingSteps(
            len(self.train),
            self.batch,
            steps=self.steps * micro,
            seed=self.seed,
            rank=rank,
            world=world,
        )
        batches.trainer = trainer
        return DataLoader(self.train, batch_sampler=batches, **options)

    def val_dataloader(self) -> DataLoader | list:
        if self.held_out is None:
            return []
        return DataLoader(self.held_out, batch_size=self.held_out_batch, **self._loading())

    def _loading(self) -> dict[str, Any]:
        """Batches for a GPU lie in pinned memory, from which they are copied while it computes."""
        trainer: Any = self.trainer
        pinned = trainer is not None and trainer.strategy.root_device.type == "cuda"
        return dict(num_workers=self.workers, collate_fn=self.collate, pin_memory=pinned)

    # Lightning takes these hooks of a data module before those of a module.
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Look at ids and classes while they are on the CPU: once they are on a GPU, a look waits for it."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        if module.device.type != "cpu" and isinstance(module, Training):
            module.check_values(batch)
        if self.trainer.training and isinstance(module, Training):  # type: ignore[union-attr]
            return {**batch, "rows": module.needed_rows(batch["targets"])}
        return batch

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """``draw`` stays on the CPU, which reads it."""
        move = super().transfer_batch_to_device
        return {name: part if name == "draw" else move(part, device, dataloader_idx) for name, part in batch.items()}


def _checked(data: Any, name: str, *, batch: int, **options: Any) -> Any:  # beartype refuses IterableDataset as a hint
    if isinstance(data, IterableDataset):
        return CheckedIterable(data, name, batch=batch, training=name == "train", **options)
    return CheckedDataset(data, name, **options)


class _ResumingSteps(Steps):
    """Starts at the trainer's step, read when iteration begins: by then a checkpoint is restored."""

    trainer: lightning.Trainer

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        self.start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return super().__iter__()
