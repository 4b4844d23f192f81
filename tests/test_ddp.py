"""Data-parallel training while only some outputs are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import perceiver_kit as kit

pytestmark = [
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="needs gloo"),
    pytest.mark.filterwarnings("ignore:You are using a Backend"),
]
SOME = [{"image": torch.arange(9)}, {"label": None}, {"audio": torch.arange(3), "image": torch.arange(5)}]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of one process, which DDP treats like one of many."""
    distributed.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'store'}")
    yield
    distributed.destroy_process_group()


def model() -> nn.Module:
    torch.manual_seed(0)
    return kit.build("multimodal_autoencoding", preset="tiny", num_frames=1, image_size=16, audio_samples=160)


def step(module: nn.Module, at: dict) -> None:
    clip = {"image": torch.rand(2, 1, 3, 16, 16), "audio": torch.rand(2, 160)}
    sum(rows.square().mean() for rows in module(clip, at=at).values()).backward()


@pytest.mark.usefixtures("group")
def test_ddp_trains_while_at_names_some_outputs() -> None:
    ours = model()
    ours.outputs.blocks["audio"].requires_grad_(False)
    parallel = DistributedDataParallel(ours)
    for at in (*SOME, None):  # DDP raises at the next call
        step(parallel, at)
    with torch.no_grad():
        assert [*parallel({"image": torch.rand(1, 1, 3, 16, 16), "audio": torch.rand(1, 160)}, at=SOME[1])] == ["label"]


@pytest.mark.usefixtures("group")
def test_outputs_that_are_left_out_have_zero_gradients() -> None:
    ours = model()
    step(ours, SOME[1])
    assert all(not parameter.grad.any() for parameter in ours.outputs.blocks["image"].parameters())
    assert any(parameter.grad.any() for parameter in ours.outputs.blocks["label"].parameters())


def test_without_a_group_they_have_none() -> None:
    """So that weight decay does not change them."""
    ours = model()
    step(ours, SOME[1])
    assert all(parameter.grad is None for parameter in ours.outputs.blocks["image"].parameters())
