"""Train a model; leave checkpoints, the trained model, metrics and their plot in a directory."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import Callback, EMAWeightAveraging, ProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn

from ..checking import check_number, check_positive, check_probability, describe_value, short
from ..errors import AssemblyError, CheckpointError, InputError
from ..flags import checked_flags
from ..hub import save
from ..plots import curves
from ..specs import build, spec
from .data import Data
from .module import Training
from .optimisation import check_trainable
from .reporting import translate_errors, with_gradients, without_noise
from .saving import Saving, open_checkpoint, step_of, summary

# Precisions of Lightning that leave the weights as they are.
FLOAT32_WEIGHTS = ("32-true", "32", "16-mixed", "16", "bf16-mixed", "bf16")


@checked_flags
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
    callbacks: Sequence[Callback] = (),
    logger: Logger | Sequence[Logger] | None = None,
) -> dict[str, float]:
    """Train, and leave in ``directory`` a model that ``kit.load`` opens, ``metrics.csv`` and ``curves.png``.

    Checkpoints are Lightning's, in ``checkpoints/``; a run with ``resume=True`` continues from the last one exactly.
    ``precision`` and ``strategy`` are Lightning's too (``"bf16-mixed"``, ``"ddp"``, a ``ModelParallelStrategy`` for
    FSDP2). ``ema`` averages the weights with that decay; the averaged weights are evaluated and saved.

    ``callbacks`` are Lightning's and run beside the kit's own. ``logger`` gives loggers in place of TensorBoard's;
    ``metrics.csv`` is written in any case. With ``progress=False`` nothing is printed.

    A model with adapters inside is trained and checkpointed, but not saved: merge them, then ``kit.save`` it.

    Returns the last held-out metrics.

    Raises InputError, before training starts, for a directory that holds another run, or no run to resume;
    AssemblyError for a model that is frozen as a whole, or of half precision under a precision of float32;
    CheckpointError for a checkpoint that is damaged, of another model, or cannot be written; TrainingError for a dead
    data worker, too little memory, or NaN weights. The last checkpoint is always intact, and errors name it.
    """
    for name, value, kind in (("training", training, Training), ("data", data, Data)):
        if not isinstance(value, kind):
            raise InputError(f"fit: {name} must be a {kind.__name__}, got {describe_value(value)}")
    callbacks = _listed("callbacks", callbacks, Callback)
    loggers = None if logger is None else _listed("logger", logger, Logger)
    check_trainable(training.model)
    _check_precision(training.model, precision)
    directory = Path(directory)
    check_positive("fit", accumulate=accumulate, save_every=save_every)
    check_positive("fit", validate_every=1 if validate_every is None else validate_every)
    check_number("fit", clip=0.0 if clip is None else clip)
    saving = Saving(directory / "checkpoints" / "last.ckpt", save_every)
    with translate_errors(saving, data, directory):
        found = saving.found()
    if resume and found is None:
        raise InputError(f"fit: {directory} has no run to resume: {saving.last} does not exist")
    if resume and not data.resumable:
        raise InputError(
            "fit: resume=True needs data with a length and items; an IterableDataset cannot be read from the middle"
        )
    if not resume and found is not None:
        raise InputError(f"{directory} already holds a run: resume it, or choose another directory")
    if data.steps != training.steps:
        raise InputError(f"fit: data.steps must be equal to training.steps, {training.steps}; got {data.steps}")
    if ema is not None:
        check_probability("fit", ema=ema)
        if isinstance(strategy, ModelParallelStrategy):
            raise InputError("fit: ema needs all weights in each process; a ModelParallelStrategy shards them")
    step = None if found is None else step_of(found, training)
    average = EMAWeightAveraging(decay=ema) if ema is not None else None
    own: list[Callback] = [saving] if average is None else [average, saving]
    if progress and not any(isinstance(callback, ProgressBar) for callback in callbacks):
        own.append(TQDMProgressBar(refresh_rate=10))
    rebuilt = _is_rebuilt(training.model)
    with translate_errors(saving, data, directory), without_noise(progress), with_gradients():
        directory.mkdir(parents=True, exist_ok=True)
        if loggers is None:
            loggers = [TensorBoardLogger(directory, name="tensorboard", version="")]
        try:
            trainer = lightning.Trainer(
                max_steps=training.steps,
                max_epochs=-1,
                precision=precision,  # type: ignore[arg-type]
                accumulate_grad_batches=accumulate,
                gradient_clip_val=clip,
                callbacks=[*own, *callbacks],
                logger=[_metrics(directory, step), *loggers],
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
            refused = "precision, strategy, devices, nodes or callbacks"
            raise InputError(f"fit: Lightning refuses {refused}: {error}") from error
        trainer.fit(training, data, ckpt_path=found, weights_only=True)
        if average is not None:
            average.on_train_end(trainer, training)  # Lightning skips it if the resumed run had ended
        if rebuilt:
            export(training, directory)
        if trainer.is_global_zero:
            curves(directory / "metrics.csv", directory / "curves.png")
        results = trainer.validate(training, data, verbose=False) if data.held_out is not None else [{}]
    return {name.removeprefix("held_out/"): float(value) for name, value in results[0].items()}


def _listed(name: str, value: Any, kind: type) -> list[Any]:
    """One or several objects of a class of Lightning's as a list; InputError for any other."""
    values = [value] if isinstance(value, kind) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, kind) for item in values):
        raise InputError(f"fit: {name} must be a list of Lightning's {kind.__name__}, got {short(value)}")
    return [*values]


def _check_precision(model: nn.Module, precision: str) -> None:
    """Refuse to train half-precision weights under a precision that means float32 weights: small steps are lost."""
    trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    half = sorted(str(dtype) for dtype in trained & {torch.float16, torch.bfloat16})
    if half and str(precision) in FLOAT32_WEIGHTS:
        raise AssemblyError(
            f"fit: precision {precision!r} needs float32 weights, got {', '.join(half)}; call model.float() or take "
            'precision="bf16-true"'
        )


def _is_rebuilt(model: nn.Module) -> bool:
    """Whether the model's spec makes it, so that it can be saved; a warning says why not."""
    try:
        spec(model)
        return True
    except AssemblyError as error:
        warnings.warn(f"fit writes checkpoints, but will not save the model: {error}", stacklevel=3)
        return False


def _metrics(directory: Path, step: int | None) -> CSVLogger:
    """Lightning's logger, which deletes the file of an earlier run; rows before the resumed step are kept."""
    path = directory / "metrics.csv"
    earlier = rows_before(path, step) if step is not None and path.exists() else []
    logger = CSVLogger(directory, name="", version="", prefix="")
    logger.experiment.metrics = earlier
    logger.save()
    return logger


def rows_before(metrics: Path, step: int) -> list[dict[str, str]]:
    """The rows of ``metrics.csv`` before a step, without a truncated last line."""
    text = metrics.read_text(encoding="utf-8", errors="replace")
    lines = text[: text.rfind("\n") + 1].splitlines()
    rows = [{name: value for name, value in row.items() if name and value} for row in csv.DictReader(lines)]
    try:
        return [row for row in rows if "step" in row and int(row["step"]) < step]
    except ValueError:
        raise InputError(f"{metrics} is damaged: a step is not a number; remove the file to resume") from None


def export(training: Training, directory: str | os.PathLike) -> None:
    """Save the model in the kit's format. All processes must call it, since each may hold a shard; the first writes."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(training.model, options=options)
    if training.trainer.is_global_zero:
        model = build(training.spec)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise AssemblyError(f"export: merge adapters first, then kit.save the model ({error})") from None
        save(model, directory)


def load_sharded(checkpoint: str | os.PathLike) -> nn.Module:
    """The whole model of an FSDP2 checkpoint, in one process; ``kit.save`` then writes it unsharded.

    Only tensors are read. CheckpointError for a damaged checkpoint, or one of other tensors.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    from .shards import Shards

    checkpoint = Path(checkpoint)
    if not (checkpoint / "meta.pt").is_file():
        raise InputError(f"{checkpoint} is not a sharded checkpoint: it has no meta.pt")
    model = build(open_checkpoint(checkpoint)["perceiver_kit"])
    state = {"state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()}}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as intended
            load(state, storage_reader=Shards(checkpoint))
    except CheckpointException as error:
        (first, _), *_ = error.failures.values()
        reason = f"{checkpoint} is damaged or not a sharded checkpoint of this model"
        raise CheckpointError(f"{reason} ({summary(first)})") from error
    return model.eval()
