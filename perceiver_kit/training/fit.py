"""One call that trains, keeps checkpoints, and leaves a model, its metrics and their picture."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import EMAWeightAveraging, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from ..checks import check_number, check_positive, check_probability
from ..errors import CheckpointError, InputError
from ..hub import save
from ..plots import curves
from ..spec import build
from .data import Data
from .module import Training
from .reporting import translate_errors
from .saving import Saving, opened, rows_before, step_of


def fit(
    training: Training,
    data: Data,
    directory: str | os.PathLike,
    *,
    precision: str = "32-true",
    accumulate: int = 1,
    clip: float | None = 1.0,
    ema: float | None = None,
    save_every: int = 200,
    validate_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    strategy: Any = "auto",
    devices: int = 1,
    nodes: int = 1,
) -> dict[str, float]:
    """Train, and leave in ``directory`` a model that ``kit.load`` opens, ``metrics.csv`` and ``curves.png``.

    Checkpoints are Lightning's, in ``checkpoints/``: ``resume=True`` goes on from the last one as if nothing had
    happened. ``precision`` and ``strategy`` are Lightning's too (``"bf16-mixed"``, ``"ddp"``, a
    ``ModelParallelStrategy`` for FSDP2). ``ema`` keeps an average of the weights with that decay, and saves it.

    Returns the last held-out metrics.

    Raises InputError, before anything starts, for a directory that holds another run, or none to resume;
    CheckpointError for a checkpoint that is damaged or of another model, and where nothing can be written;
    TrainingError for a data worker that died, too little memory, and weights that have become NaN. Whatever ends a
    run, its last checkpoint is whole, and errors say which it is.
    """
    directory = Path(directory)
    check_positive("fit", accumulate=accumulate, save_every=save_every)
    check_positive("fit", validate_every=1 if validate_every is None else validate_every)
    check_number("fit", clip=0.0 if clip is None else clip)
    saving = Saving(directory / "checkpoints" / "last.ckpt", save_every)
    with translate_errors(saving, data, directory):
        found = saving.found()
    if resume and found is None:
        raise InputError(f"there is nothing to resume in {directory}: {saving.last} does not exist")
    if resume and not data.resumable:
        raise InputError(
            "fit: resume=True needs data with a length and items; an IterableDataset cannot go on from the middle"
        )
    if not resume and found is not None:
        raise InputError(f"{directory} holds a run already: resume it, or choose another directory")
    if data.steps != training.steps:
        raise InputError(f"the data has {data.steps} steps, but the training {training.steps}; they must be equal")
    if ema is not None:
        check_probability("fit", ema=ema)
        if isinstance(strategy, ModelParallelStrategy):
            raise InputError("ema keeps a copy of all weights, which a strategy that shards them does not have")
    step = None if found is None else step_of(found, training)
    average = _Average(decay=ema) if ema is not None else None
    callbacks: list[Any] = [saving] if average is None else [average, saving]
    callbacks += [TQDMProgressBar(refresh_rate=10)] if progress else []
    with translate_errors(saving, data, directory):
        directory.mkdir(parents=True, exist_ok=True)
        loggers = [_metrics(directory, step), TensorBoardLogger(directory, name="tensorboard", version="")]
        try:
            trainer = lightning.Trainer(
                max_steps=training.steps,
                max_epochs=-1,
                precision=precision,  # type: ignore[arg-type]
                accumulate_grad_batches=accumulate,
                gradient_clip_val=clip,
                callbacks=callbacks,
                logger=loggers,
                val_check_interval=None if validate_every is None else validate_every * accumulate,
                check_val_every_n_epoch=None if validate_every is not None else 1,
                enable_progress_bar=progress,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                limit_val_batches=None if data.held_out is not None else 0,
                log_every_n_steps=min(10, training.steps),
                use_distributed_sampler=False,
                strategy=strategy,
                devices=devices,
                num_nodes=nodes,
                accelerator="auto",
            )
        except (ValueError, TypeError, MisconfigurationException) as error:
            raise InputError(f"fit: Lightning refuses precision, strategy, devices or nodes: {error}") from error
        trainer.fit(training, data, ckpt_path=found, weights_only=True)
        if average is not None:
            average.on_train_end(trainer, training)  # a run that had ended when it was resumed has not come to this
        export(training, directory)
        if trainer.is_global_zero:
            curves(directory / "metrics.csv", directory / "curves.png")
        results = trainer.validate(training, data, verbose=False) if data.held_out is not None else [{}]
    return {name.removeprefix("held_out/"): float(value) for name, value in results[0].items()}


class _Average(EMAWeightAveraging):
    def setup(self, *args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You're using the WeightAveraging")  # about sharding: see fit
            super().setup(*args, **kwargs)


def _metrics(directory: Path, step: int | None) -> CSVLogger:
    """Lightning's, which would delete what a run wrote before it was resumed: what came before this step stays."""
    path = directory / "metrics.csv"
    earlier = rows_before(path, step) if step is not None and path.exists() else []
    logger = CSVLogger(directory, name="", version="", prefix="")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory")
        logger.experiment.metrics = earlier
    logger.save()
    return logger


def export(training: Training, directory: str | os.PathLike) -> None:
    """Save the model as the kit does; every process takes part, since each may hold a shard, and the first writes."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(training.model, options=options)
    if training.trainer.is_global_zero:
        model = build(training.spec)
        model.load_state_dict(state)
        save(model, directory)


def load_sharded(checkpoint: str | os.PathLike) -> nn.Module:
    """The model of a sharded checkpoint, which FSDP2 writes, in this one process; ``kit.save`` then makes it plain.

    Nothing that is no tensor is opened. CheckpointError for one that is damaged or of other tensors.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    from .shards import Shards

    checkpoint = Path(checkpoint)
    if not (checkpoint / "meta.pt").is_file():
        raise InputError(f"{checkpoint} is not a sharded checkpoint: it has no meta.pt")
    model = build(opened(checkpoint)[0]["perceiver_kit"])
    state = {"state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()}}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant here
            load(state, storage_reader=Shards(checkpoint))
    except CheckpointException as error:
        (first, _), *_ = error.failures.values()
        why = f"{type(first).__name__}: {str(first).splitlines()[0] if str(first) else 'no more is said'}"
        raise CheckpointError(f"{checkpoint} is damaged or not a sharded checkpoint of this model ({why})") from error
    return model.eval()
