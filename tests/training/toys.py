"""Small models of every recipe, random data for them, and a training that records the loss of every step."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

import perceiver_kit as kit
from perceiver_kit.data.sampling import Sample, Samples
from perceiver_kit.declarations import objective_for
from perceiver_kit.training import Data, Training, fit

# Lightning's warnings about PyTorch's pytrees, few data workers, and runs too short to log a step.
QUIET = [
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]

ENCODER = dict(num_latents=8, latent_dim=16, layers=2)
SIZES: dict[str, dict[str, Any]] = {
    "masked_lm": dict(max_length=32, channels=16, qk_channels=16, v_channels=16, decoder_qk_channels=16),
    "sequence_classification": dict(max_length=32, channels=16, qk_channels=16, v_channels=16),
    "image_classification_learned": dict(image_size=12, channels=16, num_labels=4),
    "image_classification_fourier": dict(bands=4, max_resolution=(12, 12), num_labels=4),
    "image_classification_conv": dict(channels=8, bands=4, max_resolution=(4, 4), num_labels=4),
    "optical_flow": dict(image_size=(8, 12), bands=4, channels=16, tile_overlap=2),
    "multimodal_autoencoding": dict(
        num_frames=2, image_size=8, audio_samples=160, image_bands=4, audio_bands=4, label_channels=16, out_channels=16
    ),
    "causal_lm": dict(context=32, channels=16),
    "perceiver_image_classification": dict(bands=4, max_resolution=(12, 12), num_labels=4),
    "object_detection": dict(image_size=16, channels=8, bands=2, num_labels=4, num_queries=4),
    "semantic_segmentation": dict(image_size=(8, 12), channels=8, bands=2, num_labels=4, tile_overlap=2),
    "hierarchical_autoencoding": dict(
        modalities=dict(image=(12, 12, 3), label=(1, 4)), groups=(4, 1, 4), num_latents=(4, 8, 4), widths=(16, 16, 16)
    ),
}
RECIPES = kit.list()
TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2")
FEW = dict(image=9, audio=3)  # of the 128 pixels and 10 patches of multimodal_autoencoding


def small(recipe: str, *, seed: int = 0, **overrides: Any) -> nn.Module:
    torch.manual_seed(seed)
    sizes = SIZES.get(recipe, {})
    encoder = {} if "groups" in sizes else ENCODER  # a hierarchy has sizes of its own
    return kit.build(recipe, preset="tiny", **{**encoder, **sizes, **overrides})


class Toys(Samples):
    """Samples of a recipe, a function of seed and index; 2 % or 70 % of a text's bytes are masked."""

    def __init__(self, recipe: str, length: int = 24, *, seed: int = 0) -> None:
        self.recipe, self.length, self.seed = recipe, length, seed

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, random: torch.Generator, training: bool) -> Sample:
        fixed = torch.Generator().manual_seed(1000 * self.seed + index)
        label = torch.tensor(index % 4)

        def values(*shape: int) -> Tensor:
            """Random values around a level that depends on the label."""
            return (torch.rand(shape, generator=fixed) - 0.5) * 0.5 + (index % 4 - 1.5) / 2

        match self.recipe:
            case "masked_lm":
                text = torch.randint(6, 262, (32,), generator=fixed)
                masked = torch.rand(32, generator=fixed) < (0.02, 0.7)[index % 2]
                return dict(inputs={"text": text.masked_fill(masked, 3)}, targets={"text": text.where(masked, -100)})
            case "causal_lm":
                text = torch.randint(6, 262, (33,), generator=fixed)
                return dict(inputs={"text": text[:-1]}, targets={"text": text[-8:]})
            case "hierarchical_autoencoding":
                both = dict(image=values(3, 12, 12), label=torch.eye(4)[label][None])
                return dict(inputs=both, targets=both)
            case "sequence_classification":
                text = torch.randint(6, 100, (32,), generator=fixed) + 100 * (label % 2)
                keep = torch.arange(32) < 8 + index % 24
                return dict(inputs={"text": text}, targets={"label": label % 2}, mask={"text": keep})
            case "optical_flow":
                targets = {"flow": values(2, 8, 12) * 3, "valid": torch.rand(8, 12, generator=fixed) < 0.5}
                return dict(inputs={"frames": values(2, 3, 8, 12)}, targets=targets)
            case "object_detection":
                classes = torch.where(torch.arange(3) < index % 4, label, -100)
                boxes = torch.rand(3, 4, generator=fixed) / 2 + 0.25
                boxes = boxes.masked_fill((classes < 0)[:, None], torch.nan)
                return dict(inputs={"image": values(3, 16, 16)}, targets={"class": classes, "box": boxes})
            case "semantic_segmentation":
                classes = torch.randint(-1, 4, (8, 12), generator=fixed)
                return dict(inputs={"image": values(3, 8, 12)}, targets={"label": classes.where(classes >= 0, -100)})
            case "multimodal_autoencoding":
                both = dict(image=values(2, 3, 8, 8), audio=values(160))
                return dict(inputs=both | dict(label=torch.eye(4)[label]), targets=both | dict(label=label))
            case "token_classification":
                text = torch.randint(6, 262, (32,), generator=fixed)
                return dict(inputs={"text": text}, targets={"tags": text % 9})
            case "question_answering":
                text, start = torch.randint(6, 262, (32,), generator=fixed), torch.tensor([4 + index % 8])
                allowed = torch.arange(32) > 3
                return dict(inputs={"text": text}, targets=dict(start=start, end=start + 2, allowed=allowed))
            case "multitask_text":
                text = torch.randint(6, 262, (32,), generator=fixed)
                return dict(inputs={"text": text}, targets=dict.fromkeys(TASKS, label % 2) | {"stsb": values(1)})
            case "set_classification":
                kinds = torch.randint(2, (16,), generator=fixed)
                return dict(inputs={"entities": values(16, 12)}, targets={"label": label % 3, "entities": kinds})
            case "forecasting":
                return dict(inputs={"history": values(24, 2)}, targets={"future": values(6, 1)})
            case "audio_classification":
                return dict(inputs={"audio": values(2048)}, targets={"label": label})
            case "video_classification":
                return dict(inputs={"video": values(4, 3, 16, 16), "audio": values(1280)}, targets={"label": label})
            case "point_cloud_classification":
                return dict(inputs={"points": values(32, 3)}, targets={"label": label})
        return dict(inputs={"image": values(3, 12, 12)}, targets={"label": label})


class Shared(Data):
    """Six held-out samples in two batches, of which each of two processes reads one."""

    def val_dataloader(self) -> DataLoader:
        batches = [[0, 2, 4, 1], [3, 5]]  # for masked_lm, all texts with few masked bytes are in the first
        if dist.is_initialized():
            batches = batches[dist.get_rank() :: dist.get_world_size()]
        return DataLoader(self.held_out, batch_sampler=batches, collate_fn=default_collate)


class RecordingTraining(Training):
    """Writes the mean loss of every batch to a file, exactly; its process is killed at step ``kill_at``."""

    losses: Path | None = None
    kill_at: int | None = None

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        loss = super().training_step(batch, batch_index)
        mean = loss.detach().clone()
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        if self.losses is not None and self.global_rank == 0:
            with open(self.losses, "a") as file:
                file.write(f"{int(batch['draw'][0, 0])} {mean.item().hex()}\n")
        if self.global_step == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss


def prepared(
    recipe: str,
    *,
    steps: int = 3,
    batch: int = 4,
    workers: int = 0,
    length: int = 24,
    model: dict[str, Any] | None = None,
    held_out: bool = True,
    shared: bool = False,
    **options: Any,
) -> tuple[RecordingTraining, Data]:
    """A training and its data."""
    built = small(recipe, **(model or {}))
    training = RecordingTraining(built, objective_for(recipe, model=built), steps=steps, **options)
    kind, samples = Shared if shared else Data, Toys(recipe, 6, seed=1) if held_out else None
    data = kind(Toys(recipe, length), samples, batch=batch, steps=steps, workers=workers, held_out_batch=4)
    return training, data


def batch(recipe: str, keys: list[tuple[int, int]]) -> dict[str, Any]:
    """The batch of keys (index, step)."""
    return default_collate([Toys(recipe)[key] for key in keys])


def alone(recipe: str, **options: Any) -> Training:
    """A training without a trainer: it logs nothing."""
    training, _ = prepared(recipe, **options)
    training.log = training.log_dict = lambda *_, **__: None
    return training.train()


FIT = ("precision", "accumulate", "clip", "ema", "save_every", "validate_every", "resume")


def run(config: dict[str, Any]) -> dict[str, float]:
    """Run a training whose arguments, those of ``prepared`` and ``fit``, are a dict that fits into JSON."""
    config = dict(config)
    directory, kill_at = Path(config.pop("directory")), config.pop("kill_at", None)
    strategy, devices = config.pop("strategy", "auto"), config.pop("devices", 1)
    training, data = prepared(config.pop("recipe"), **{key: v for key, v in config.items() if key not in FIT})
    directory.parent.mkdir(parents=True, exist_ok=True)
    training.losses, training.kill_at = directory.with_suffix(".losses"), kill_at
    if strategy == "fsdp":
        strategy = ModelParallelStrategy(
            data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=True
        )
    options = {key: v for key, v in config.items() if key in FIT}
    return fit(training, data, directory, progress=False, strategy=strategy, devices=devices, **options)


def losses(directory: Path) -> dict[int, float]:
    """The last recorded loss of every batch by step; accumulated batches have steps of their own."""
    lines = (line.split() for line in directory.with_suffix(".losses").read_text().splitlines())
    return {int(step): float.fromhex(loss) for step, loss in lines}
