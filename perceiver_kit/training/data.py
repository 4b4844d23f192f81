"""Any two data sets as batches: the one generic data module."""

from __future__ import annotations

from collections.abc import Iterator

import pytorch_lightning as lightning
from torch.utils.data import DataLoader, Dataset

from ..checks import check_positive
from ..data.sampling import Steps


class Data(lightning.LightningDataModule):
    """Any two map-style data sets, as batches: training from a seeded endless stream, the held-out one in order.

    ``batch`` is the global number of samples of a step, shared by all processes.
    """

    def __init__(
        self,
        train: Dataset,
        held_out: Dataset | None,
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
        self.train, self.held_out = train, held_out
        self.batch, self.steps, self.seed, self.workers = batch, steps, seed, workers
        self.held_out_batch = held_out_batch or batch

    def train_dataloader(self) -> DataLoader:
        trainer = self.trainer
        assert trainer is not None
        sampler = _Resuming(self, trainer)
        return DataLoader(
            self.train, batch_sampler=sampler, num_workers=self.workers, persistent_workers=self.workers > 0
        )

    def val_dataloader(self) -> DataLoader | list:
        if self.held_out is None:
            return []
        return DataLoader(self.held_out, batch_size=self.held_out_batch, num_workers=self.workers)


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
