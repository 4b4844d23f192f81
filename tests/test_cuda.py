"""On a GPU: the same results as on the CPU, bounded memory, and steps that never wait for the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.training import fit

from .strategies import noisy, raws
from .training.toys import QUIET, alone, batch, prepared

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    *QUIET,
]
CUDA, RECIPES = torch.device("cuda"), kit.list()


def moved(value: Any, device: torch.device | str = CUDA) -> Any:
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def model_and_inputs(recipe: str) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = noisy(kit.build(recipe, preset="tiny")).eval()
    return model, raws(model, 2)


def error(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖."""
    return float((found.double().cpu() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-9))


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@pytest.mark.parametrize("recipe", RECIPES)
def test_outputs_are_those_of_the_cpu(recipe: str, dtype: torch.dtype, most: float) -> None:
    model, raw = model_and_inputs(recipe)
    with torch.no_grad():
        wanted = model(raw)
        there = moved({name: value.to(dtype) if value.is_floating_point() else value for name, value in raw.items()})
        found = model.to(CUDA, dtype)(there)
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert error(found[name], wanted[name]) < most, name


@pytest.mark.parametrize("recipe", RECIPES)
def test_gradients_are_those_of_the_cpu(recipe: str) -> None:
    model, raw = model_and_inputs(recipe)
    gradients = []
    for device in ("cpu", CUDA):
        model = model.to(device)
        model.zero_grad()
        sum(value.square().mean() for value in model(moved(raw, device)).values()).backward()
        gradients.append({name: p.grad.cpu().clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    whole = [torch.cat([part.flatten() for part in each.values()]) for each in gradients]
    assert error(whole[1], whole[0]) < 1e-3


# Heads of published widths: a multiple of eight or not, equal or not, above and below 256.
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "cq", "ck", "qk", "v"),
    [
        (1, 512, 322, 322, 322),
        (1, 64, 261, 261, 261),
        (8, 128, 96, 32, 160),
        (2, 64, 64, 64, 64),
        (1, 1026, 512, 512, 512),
    ],
)
@pytest.mark.parametrize("masked", ["not", "rows", "by query", "causal"])
def test_attention_is_its_formula(
    heads: int, cq: int, ck: int, qk: int, v: int, masked: str, dtype: torch.dtype, train: bool
) -> None:
    torch.manual_seed(0)
    attention = noisy(kit.Attention(cq, ck, heads=heads, qk_channels=qk, v_channels=v))
    queries, rows = torch.randn(2, 48, cq), torch.randn(2, 80, ck)
    masks: dict[str, Any] = {
        "not": {},
        "rows": dict(mask=torch.rand(2, 80) < 0.5, query_mask=torch.rand(2, 48) < 0.7),
        "by query": dict(mask=(torch.rand(2, 48, 80) < 0.5) & (torch.arange(48) > 2)[:, None]),
        "causal": dict(causal=True),
    }[masked]
    wanted = attention.formula(queries, rows, **masks).detach()
    attention.to(CUDA, dtype)
    q, k = (x.to(CUDA, dtype).requires_grad_(train) for x in (queries, rows))
    with torch.set_grad_enabled(train):
        found = attention(q, k, **moved(masks))
    assert error(found.detach(), wanted) < (1e-5 if dtype == torch.float32 else 2e-2)
    if train:  # as near to the exact gradients as the formula in the same dtype
        found.float().square().sum().backward()
        ours = q.grad.clone(), k.grad.clone()
        q.grad = k.grad = None
        attention.formula(q, k, **moved(masks)).float().square().sum().backward()
        exact = [x.double().requires_grad_() for x in (queries, rows)]
        attention.to("cpu", torch.float64).formula(*exact, **masks).square().sum().backward()
        for mine, formula, wanted in zip(ours, (q.grad, k.grad), exact, strict=True):
            assert error(mine, wanted.grad) < 2 * error(formula, wanted.grad) + 1e-4


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("cq", "ck", "heads"), [(512, 322, 1), (322, 512, 1), (512, 512, 8)])
def test_long_inputs_have_no_scores_in_memory(cq: int, ck: int, heads: int, dtype: torch.dtype, train: bool) -> None:
    """Scores of 65,536 queries over as many rows are 8 GiB a head in 16 bits; a call has some tiles of them."""
    size = 65536
    attention = kit.Attention(cq, ck, heads=heads, qk_channels=512, v_channels=512).to(CUDA, dtype)
    queries, rows = (torch.randn(1, size, c, device=CUDA, dtype=dtype, requires_grad=train) for c in (cq, ck))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.set_grad_enabled(train):
        result = attention(queries, rows)
        if train:
            result.sum().backward()
    used = torch.cuda.max_memory_allocated() - before
    assert used < 4 * 2**30, f"{used / 2**20:.0f} MiB"


@pytest.mark.parametrize("recipe", ["masked_lm", "optical_flow", "multimodal_autoencoding", "semantic_segmentation"])
def test_a_decode_in_chunks_is_the_whole(recipe: str) -> None:
    model, raw = model_and_inputs(recipe)
    model, raw = model.to(CUDA), moved(raw)
    with torch.no_grad():
        found, wanted = model(raw, chunk=7), model(raw)
    for name in wanted:
        assert error(found[name], wanted[name].cpu()) < 1e-4


@pytest.mark.parametrize("recipe", ["masked_lm", "image_classification_conv", "optical_flow", "causal_lm"])
def test_captured_maps_are_those_of_the_cpu(recipe: str) -> None:
    model, raw = model_and_inputs(recipe)
    maps = []
    for device in ("cpu", CUDA):
        with kit.capture_attention(model.to(device)) as seen, torch.no_grad():
            model(moved(raw, device))
        maps.append(dict(seen))
    assert maps[0]
    assert maps[0].keys() == maps[1].keys()
    for name, there in maps[0].items():
        assert error(maps[1][name][0], there[0]) < 1e-3, name


@pytest.mark.parametrize("policy", ["roll", "refill", "recompute"])
def test_generated_tokens_are_those_of_the_cpu(policy: str) -> None:
    torch.manual_seed(0)
    model = noisy(kit.build("causal_lm", preset="tiny"), 0.3).double().eval()
    prompt = torch.randint(6, 262, (20,))
    options: dict[str, Any] = dict(length=12, policy=policy, temperature=0.0)
    wanted = kit.generate(model, prompt, **options)
    assert torch.equal(kit.generate(model.to(CUDA), prompt, **options).cpu(), wanted)


# ---- training


# Hungarian matching is computed by SciPy, on the CPU.
WAITS = {"object_detection"}


@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "muon"])
@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe not in WAITS])
def test_a_step_never_waits_for_the_device(recipe: str, optimizer: Any) -> None:
    """Forward, loss, backward, the optimizer and the schedule, under torch's own detector of synchronisation."""
    training = alone(recipe, optimizer=optimizer).to(CUDA)
    configured = training.configure_optimizers()
    steps, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    whole = batch(recipe, [(0, 0), (1, 0), (2, 0), (3, 0)])
    there = {name: part if name == "draw" else moved(part) for name, part in whole.items()}

    def step() -> None:
        steps.zero_grad()
        training.training_step(there, 0).backward()
        training.on_before_optimizer_step(steps)
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        steps.step()
        schedule.step()

    step()  # buffers are made in the first
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_run_trains_and_resumes(precision: str, tmp_path: Path) -> None:
    for resume in (False, True):
        training, data = prepared("image_classification_conv", steps=3)
        metrics = fit(training, data, tmp_path, precision=precision, save_every=2, resume=resume, progress=False)
    assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values())


def test_adamw_is_fused() -> None:
    training = alone("masked_lm").to(CUDA)
    assert all(group["fused"] for group in training.configure_optimizers()["optimizer"].param_groups)
