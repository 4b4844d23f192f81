"""peft's LoRA on every layer it takes: trained, merged, saved and loaded, the model is the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import perceiver_kit as kit
from perceiver_kit.registry import find

from .strategies import assert_close, noisy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("recipe", ["masked_lm", "image_classification_fourier", "optical_flow"])
def test_adapters_are_trained_merged_saved_and_loaded(recipe: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = noisy(kit.build(recipe, preset="tiny"))
    raw = find("recipes", recipe).example(2, "tiny")
    targets = [name for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        before = model.eval()(raw)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets)).train()
    trained = {name: part for name, part in adapted.named_parameters() if part.requires_grad}
    assert len(trained) == 2 * len(targets)

    optimizer = torch.optim.Adam(trained.values(), lr=1e-2)
    for _ in range(2):  # lora_A has no gradient while lora_B is zero
        optimizer.zero_grad()
        sum((rows - 1).square().mean() for rows in adapted(raw).values()).backward()
        optimizer.step()
    # The bias of keys cancels in the softmax, but their weights do not: every adapter learns.
    assert not [name for name, part in trained.items() if part.grad is None or not part.grad.any()]

    with torch.no_grad():
        wanted = adapted.eval()(raw)
        by_chunk = adapted(raw, chunk=7)
        merged = adapted.merge_and_unload()
        loaded = kit.load(kit.save(merged, tmp_path))(raw)
        for name in wanted:
            assert (wanted[name] - before[name]).abs().max() > 1e-3
            assert_close(by_chunk[name], wanted[name], 1e-5)
            assert_close(merged(raw)[name], wanted[name], 1e-5)
            assert_close(loaded[name], wanted[name], 1e-5)


@torch.no_grad()
def test_a_head_that_peft_trains_whole_is_called() -> None:
    model = kit.build("image_classification_fourier", preset="tiny").eval()
    raw = find("recipes", "image_classification_fourier").example(1, "tiny")
    before = model(raw)["label"]
    config = LoraConfig(r=2, target_modules=r"encoder.*\.attention\.query", modules_to_save=["label"])
    adapted = get_peft_model(model, config).eval()
    for name, part in adapted.named_parameters():
        if name.endswith("default.project.bias"):
            part += 1
    assert_close(adapted(raw)["label"], before + 1, 1e-5)
