"""Recipes and Hugging Face's Perceiver agree in outputs and gradients with the same weights.

In float32 within rounding; in float64 to 1e-9, which shows differences that float32 rounding would hide.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.positions import Positions
from perceiver_kit.recipes._shared import CROSS_LAYER_NAMES as CROSS
from perceiver_kit.recipes._shared import SELF_LAYER_NAMES as SELF

from . import reference
from .reference import ask, relative

OUTPUTS = {torch.float32: 1e-5, torch.float64: 1e-9}
GRADIENTS = {torch.float32: 1e-4, torch.float64: 1e-9}
both_dtypes = pytest.mark.parametrize("dtype", OUTPUTS, ids=lambda dtype: str(dtype).removeprefix("torch."))


@dataclass(frozen=True)
class Case:
    """A configuration in Hugging Face's terms and the size of its raw inputs."""

    recipe: str
    label: str
    config: dict[str, Any]
    size: tuple[int, ...]
    batch: int = 2
    points: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.recipe}-{self.label}"

    __repr__ = __str__

    def __hash__(self) -> int:  # configurations are dicts
        return hash(str(self))


def _config(latents: int, width: int, blocks: int, layers: int, cross_heads: int, self_heads: int, **more: Any) -> dict:
    return dict(
        num_latents=latents,
        d_latents=width,
        num_blocks=blocks,
        num_self_attends_per_block=layers,
        num_cross_attention_heads=cross_heads,
        num_self_attention_heads=self_heads,
        **more,
    )


def _text(*sizes: int, d_model: int = 16, longest: int = 24, **more: Any) -> dict:
    return _config(*sizes, d_model=d_model, max_position_embeddings=longest, **more)


def _video(*sizes: int, frames: int, side: int, samples: int, **more: Any) -> dict:
    shape = dict(num_frames=frames, output_shape=[1, frames, 4 * side, 4 * side], image_size=side)
    return _config(*sizes, **shape, audio_samples_per_frame=samples, **more)


# Unequal widths of queries and values; the default is the width of the keys.
NARROW, WIDE = dict(qk_channels=8, v_channels=24), dict(qk_channels=48, v_channels=24)
NO_RESIDUAL, WIDENED = dict(use_query_residual=False), dict(cross_attention_widening_factor=2)
TANH = dict(hidden_act="gelu_pytorch_tanh")

CASES = [
    Case("masked_lm", "narrow", _text(6, 24, 2, 2, 8, 4, **NARROW), (24,)),
    Case("masked_lm", "short text", _text(5, 24, 1, 3, 2, 2, **WIDE), (17,), batch=3),
    Case("masked_lm", "widths as attended", _text(4, 32, 1, 1, 4, 1, d_model=32, vocab_size=300), (24,), batch=1),
    Case("masked_lm", "no residual", _text(6, 24, 2, 1, 1, 3, **NO_RESIDUAL, **WIDENED, **TANH), (9,)),
    Case("sequence_classification", "two labels", _text(6, 24, 2, 2, 8, 4, **NARROW), (24,)),
    Case("sequence_classification", "one value", _text(3, 16, 1, 1, 1, 1, num_labels=1, longest=40), (11,), batch=3),
    Case(
        "sequence_classification",
        "widened",
        _text(6, 24, 1, 2, 2, 2, num_labels=5, self_attention_widening_factor=2, **WIDENED, **NO_RESIDUAL),
        (19,),
    ),
    Case("image_classification_learned", "square", _config(6, 24, 2, 2, 1, 4, image_size=8, num_labels=7), (8, 8)),
    Case("image_classification_learned", "larger", _config(6, 24, 1, 2, 8, 3, image_size=6, **TANH), (9, 11), batch=3),
    Case("image_classification_learned", "smaller", _config(5, 24, 2, 1, 4, 4, image_size=12, **WIDE), (7, 10)),
    Case("image_classification_fourier", "square", _config(6, 24, 2, 2, 1, 4, num_labels=7), (8, 8)),
    Case("image_classification_fourier", "wide", _config(5, 24, 1, 3, 3, 2, **NO_RESIDUAL), (5, 13), batch=3),
    Case("image_classification_fourier", "tall", _config(4, 24, 3, 1, 2, 1, **NARROW, **WIDENED), (12, 3)),
    Case("image_classification_conv", "square", _config(6, 24, 2, 2, 1, 4, num_labels=7), (32, 32)),
    Case("image_classification_conv", "odd", _config(5, 24, 1, 2, 2, 2, **NO_RESIDUAL, **TANH), (31, 45), batch=3),
    Case("image_classification_conv", "wide", _config(4, 24, 3, 1, 4, 1, **WIDE, **WIDENED), (21, 50)),
    Case("optical_flow", "wide", _config(6, 24, 1, 3, 1, 4, train_size=[6, 10]), (6, 10)),
    Case("optical_flow", "tall", _config(5, 24, 2, 2, 2, 2, train_size=[11, 4], **NO_RESIDUAL), (11, 4), batch=3),
    Case("optical_flow", "narrow", _config(6, 24, 1, 1, 4, 8, train_size=[7, 7], **NARROW, **WIDENED), (7, 7)),
    Case(
        "multimodal_autoencoding",
        "small",
        _video(6, 24, 1, 3, 1, 4, frames=4, side=3, samples=32, num_labels=5, _label_trainable_num_channels=30),
        (4, 12, 12),
        points=dict(image=90, audio=6),
    ),
    Case(
        "multimodal_autoencoding",
        "wide label",
        _video(
            5, 24, 2, 2, 2, 2, frames=2, side=4, samples=24, samples_per_patch=8, num_labels=450, output_num_channels=20
        ),
        (2, 16, 16),
        batch=3,
        points=dict(image=70, audio=9),
    ),
    Case(
        "multimodal_autoencoding",
        "narrow",
        _video(
            4, 24, 1, 2, 4, 1, frames=3, side=2, samples=48, output_num_channels=30, **NARROW, **NO_RESIDUAL, **WIDENED
        ),
        (3, 8, 8),
        batch=1,
        points=dict(image=64, audio=4),
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


@functools.cache
def models(case: Case, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    """The reference and the kit's model with the same weights, cached for all tests: do not change them."""
    if dtype != torch.float32:
        return tuple(copy.deepcopy(model).to(dtype) for model in models(case))
    torch.manual_seed(len(str(case)))
    theirs = reference.randomised(reference.configured(case.recipe, **case.config))
    with tempfile.TemporaryDirectory() as directory:
        return theirs, reference.converted(theirs, Path(directory))


def raw(case: Case, dtype: torch.dtype) -> dict[str, Tensor]:
    b, size = case.batch, case.size
    if len(size) == 1:
        return {"text": torch.randint(262, (b, *size))}
    if case.recipe == "optical_flow":
        return {"frames": torch.randn(b, 2, 3, *size, dtype=dtype)}
    if len(size) == 2:
        return {"image": torch.randn(b, 3, *size, dtype=dtype)}
    labels = models(case)[0].config.num_labels
    return {
        "image": torch.randn(b, size[0], 3, *size[1:], dtype=dtype),
        "audio": torch.randn(b, size[0] * case.config["audio_samples_per_frame"], dtype=dtype),
        "label": torch.rand(b, labels, dtype=dtype),
    }


def at(case: Case) -> dict[str, dict[str, Tensor | None]]:
    """Points to decode, in any order and repeated: the multimodal reference cannot decode the whole."""
    if case.recipe != "multimodal_autoencoding":
        return {}
    ours = models(case)[1]
    grids = {name: ours.queries.blocks[name].size for name in case.points}
    points = {name: torch.randint(torch.Size(grids[name]).numel(), (count,)) for name, count in case.points.items()}
    return {"at": points | {"label": None}}


def masks(case: Case, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks about one row in three, differently for each sample."""
    layout = models(case)[1].encode({k: v.float() if v.is_floating_point() else v for k, v in given.items()}).layout
    return {name: torch.rand(case.batch, torch.Size(layout.grid(name)).numel()) < 0.65 for name in layout}


@both_dtypes
@every_case
def test_outputs_and_gradients_match(case: Case, dtype: torch.dtype) -> None:
    theirs, ours = models(case, dtype)
    given, options = raw(case, dtype), at(case)
    with torch.no_grad():  # attention takes other paths without gradients
        assert relative(ours(given, **options), ask(case.recipe, theirs, given, **options)[0]) < OUTPUTS[dtype]
    inputs = [
        {name: value.clone().requires_grad_(value.is_floating_point()) for name, value in given.items()} for _ in "ab"
    ]
    found, (wanted, _) = ours(inputs[0], **options), ask(case.recipe, theirs, inputs[1], **options)
    assert relative(found, wanted) < OUTPUTS[dtype]
    for outputs in (found, wanted):
        reference.loss(outputs).backward()
    names = reference.parameters(case.recipe, ours)
    their_gradients, our_gradients = reference.gradients(theirs), reference.gradients(ours, names)
    for model in (theirs, ours):
        model.zero_grad()
    parameters = {names[name] for name, _ in ours.named_parameters()}
    assert our_gradients.keys() == parameters, "a parameter without a gradient stops distributed training"
    joined = [reference.joined(g, their_gradients) for g in (our_gradients, their_gradients)]
    assert relative(*joined) < GRADIENTS[dtype]
    for name, value in inputs[1].items():
        if value.grad is not None and name != "label":  # labels are hidden
            assert relative(inputs[0][name].grad, value.grad) < GRADIENTS[dtype]


@both_dtypes
@every_case
def test_masked_outputs_match(case: Case, dtype: torch.dtype) -> None:
    theirs, ours = models(case, dtype)
    given, options = raw(case, dtype), at(case)
    keep = masks(case, given)
    with torch.no_grad():
        found, (wanted, _) = ours(given, mask=keep, **options), ask(case.recipe, theirs, given, keep, **options)
        unmasked = ours(given, **options)
    if case.recipe == "optical_flow":
        # The reference queries masked pixels with their content; compare the others only.
        grid = keep["frames"].unflatten(1, case.size)[:, None]
        found, wanted, unmasked = ({"flow": torch.where(grid, out["flow"], 0)} for out in (found, wanted, unmasked))
    assert relative(found, wanted) < OUTPUTS[dtype]
    assert relative(found, unmasked) > 0.01, "masks have no effect with these weights: nothing was tested"


@every_case
def test_all_positions_matter_with_these_weights(case: Case) -> None:
    """Otherwise the agreement above would say nothing about positions."""
    ours = models(case)[1]
    given, options = raw(case, torch.float32), at(case)
    blocks = {name: block for name, block in ours.named_modules() if isinstance(block, Positions)}
    assert blocks
    with torch.no_grad():
        wanted = ours(given, **options)
        for name, block in blocks.items():
            hook = block.register_forward_hook(lambda block, args, rows: torch.randn_like(rows))
            found = ours(given, **options)
            hook.remove()
            changes = {out: relative(found[out], wanted[out]) for out in wanted}
            assert max(changes.values()) > 0.01, f"{name} changes outputs only by {changes}"


@pytest.mark.parametrize("case", [case for case in CASES if case.recipe == "multimodal_autoencoding"], ids=str)
def test_all_points_of_a_video_match(case: Case) -> None:
    """The reference cannot decode the whole: it decodes all points as a subsample."""
    theirs, ours = models(case, torch.float64)
    given = raw(case, torch.float64)
    t, h, w = case.size
    patches = given["audio"].shape[1] // theirs.config.samples_per_patch
    points = {"image": torch.arange(t * h * w), "audio": torch.arange(patches)}
    with torch.no_grad():
        wanted, _ = ask(case.recipe, theirs, given, at=points)
        found = ours(given)
    assert relative(found["image"], wanted["image"].unflatten(1, (t, h, w)).movedim(-1, 2)) < 1e-9
    assert relative(found["audio"], wanted["audio"].flatten(1)) < 1e-9
    assert relative(found["label"], wanted["label"]) < 1e-9


def test_latents_match() -> None:
    """``PerceiverModel`` without a decoder against ``Encoder``, on the same rows."""
    config = transformers.PerceiverConfig(**_config(6, 24, 2, 2, 3, 4, d_model=15, **NO_RESIDUAL))
    theirs = reference.randomised(transformers.PerceiverModel(config).eval().double())
    ours = kit.Encoder(
        15,
        num_latents=6,
        latent_dim=24,
        blocks=2,
        layers=2,
        cross_heads=3,
        self_heads=4,
        cross_qk_channels=15,
        query_residual=False,
    ).double()
    table = {"latents": "embeddings.latents"}
    table |= {f"cross.0.{o}": f"encoder.cross_attention.{t}" for o, t in CROSS.items()}
    table |= {f"transformer.{i}.{o}": f"encoder.self_attends.{i}.{t}" for i in range(2) for o, t in SELF.items()}
    numbers = theirs.state_dict()
    ours.load_state_dict(
        {
            name: numbers[table.get(name) or f"{table[path]}.{leaf}"]
            for name, (path, _, leaf) in ((name, name.rpartition(".")) for name in ours.state_dict())
        }
    )
    rows, keep = torch.randn(3, 20, 15).double(), torch.rand(3, 20) < 0.6
    with torch.no_grad():
        wanted = theirs(rows, attention_mask=keep)
        assert relative(ours(rows, keep), wanted.last_hidden_state) < 1e-9
        assert relative(ours(rows), wanted.last_hidden_state) > 0.01
        assert relative(ours(rows), theirs(rows).last_hidden_state) < 1e-9
