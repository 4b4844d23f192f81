"""Any two data sets as batches: the one generic data module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytorch_lightning as lightning
from torch.utils.data import DataLoader, Dataset

from ..checks import check_positive, check_seed
from ..data.sampling import Steps
from .samples import CheckedDataset, batched


class Data(lightning.LightningDataModule):
    """Any two map-style data sets, as batches: training from a seeded endless stream, the held-out one in order.

    A sample is a dict of ``inputs`` and ``targets`` by name and, where needed, ``mask`` (True = may be read), with
    tensors of fixed sizes. Data sets of the kit's own kind (``perceiver_kit.data.sampling.Samples``, and what passes
    their keys on) are asked for (index, step), so that what is random in them is the same after a resume. Any other
    is asked for its index.

    ``batch`` is the global number of samples of a step, shared by all processes.

    A sample that cannot be made is named, with its step, in an InputError; so is one with NaN or infinities in an
    input without a mask, and samples of different sizes.

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
    ) -> None:
        super().__init__()
        check_positive("Data", batch=batch, steps=steps)
        check_positive("Data", workers=workers, least=0)
        check_positive("Data", held_out_batch=batch if held_out_batch is None else held_out_batch)
        check_seed("Data", seed)
        self.train = CheckedDataset(train, "train", workers=workers)
        self.held_out = None if held_out is None else CheckedDataset(held_out, "held_out", workers=workers)
        self.batch, self.steps, self.seed, self.workers = batch, steps, seed, workers
        self.held_out_batch = held_out_batch or batch

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        sampler = _Resuming(self, trainer)
        return DataLoader(
            self.train,
            batch_sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            collate_fn=batched,
        )

    def val_dataloader(self) -> DataLoader | list:
        if self.held_out is None:
            return []
        return DataLoader(self.held_out, batch_size=self.held_out_batch, num_workers=self.workers, collate_fn=batched)


class _Resuming:
    """The batches of all micro-steps from where the trainer stands when it asks."""

    def __init__(self, data: Data, trainer: lightning.Trainer) -> None:
        self.trainer = trainer
        self.micro = trainer.accumulate_grad_batches
        self.steps = Steps(
            len(data.train),  # type: ignore[arg-type]
            data.batch,
            steps=data.steps * self.micro,
            seed=data.seed,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list]:
        self.steps.start = self.trainer.global_step * self.micro
        return iter(self.steps)
