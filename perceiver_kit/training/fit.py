"""One call that trains, keeps checkpoints, and leaves a model, its metrics and their picture."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn

from ..building import build
from ..checks import check_positive, check_probability
from ..errors import InputError
from ..hub import save
from ..plots import curves
from .data import Data
from .module import Training


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

    Returns the last held-out metrics. Raises InputError, before anything starts, for a directory that holds another
    run, or none to resume.
    """
    directory = Path(directory)
    last = directory / "checkpoints" / "last.ckpt"
    if resume and not last.exists():
        raise InputError(f"there is nothing to resume in {directory}: {last} does not exist")
    if not resume and last.exists():
        raise InputError(f"{directory} holds a run already: resume it, or choose another directory")
    check_positive("fit", accumulate=accumulate, save_every=save_every)
    if ema is not None:
        check_probability("fit", ema=ema)
    directory.mkdir(parents=True, exist_ok=True)
    callbacks: list[Any] = [
        ModelCheckpoint(
            directory / "checkpoints",
            filename="last",
            every_n_train_steps=save_every,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
    ]
    callbacks += [TQDMProgressBar(refresh_rate=10)] if progress else []
    callbacks += [EMAWeightAveraging(decay=ema)] if ema is not None else []
    trainer = lightning.Trainer(
        max_steps=training.steps,
        max_epochs=-1,
        precision=precision,  # type: ignore[arg-type]
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        callbacks=callbacks,
        logger=[
            CSVLogger(directory, name="", version="", prefix=""),
            TensorBoardLogger(directory, name="tensorboard", version=""),
        ],
        val_check_interval=None if validate_every is None else validate_every * accumulate,
        check_val_every_n_epoch=None if validate_every is not None else 1,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        use_distributed_sampler=False,
        strategy=strategy,
        devices=devices,
        num_nodes=nodes,
        accelerator="auto",
    )
    trainer.fit(training, data, ckpt_path=last if resume else None, weights_only=True)
    trainer.save_checkpoint(last)
    export(training, directory)
    if trainer.is_global_zero:
        curves(directory / "metrics.csv", directory / "curves.png")
    results = trainer.validate(training, data, verbose=False) if data.held_out is not None else [{}]
    return {name.removeprefix("held_out/"): float(value) for name, value in results[0].items()}


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

    For one's own runs only: PyTorch pickles the list of its shards.
    """
    import torch.distributed.checkpoint as distributed_checkpoint

    checkpoint = Path(checkpoint)
    if not (checkpoint / "meta.pt").is_file():
        raise InputError(f"{checkpoint} is not a sharded checkpoint: it has no meta.pt")
    model = build(torch.load(checkpoint / "meta.pt", weights_only=True)["perceiver_kit"])
    state = {"state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as it is meant here
        distributed_checkpoint.load(state, checkpoint_id=checkpoint)
    return model.eval()
