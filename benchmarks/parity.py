"""Every recipe with a Hugging Face counterpart, at published size and with the same weights: ``make parity``.

Writes docs/parity.md. Models are built one after another, in float32 on the CPU; this needs 16 GB of memory and about
half an hour on two cores. ``python -m benchmarks.parity RECIPE …`` runs only those recipes and writes nothing.
"""

from __future__ import annotations

import gc
import platform
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.perceiver.modeling_perceiver import PerceiverLayer

import perceiver_kit as kit
from perceiver_kit.hub.huggingface import write_config
from perceiver_kit.queries import InputQuery
from perceiver_kit.registry import find
from tests.hub import reference
from tests.hub.reference import Tensors, relative

from .models import reference_call, rows
from .tasks import recipes

PAGE = Path(__file__).resolve().parent.parent / "docs" / "parity.md"


class Row(NamedTuple):
    """A line of the table; differences are relative to the largest value of the reference."""

    recipe: str
    parameters: int
    compared: str
    outputs: float
    masked: float
    gradient: float
    moved: float


def points(model: Any) -> dict[str, dict[str, Tensor | None]]:
    """400 rows of each large output, where the reference decodes several outputs at given points only."""
    if len(model.outputs.blocks) == 1:
        return {}
    return {"at": {name: torch.randint(n, (400,)) if n > 400 else None for name, n in rows(model).items()}}


def reference_of(recipe: str) -> nn.Module:
    """The reference at published size with random weights."""
    with torch.device("meta"):
        parameters = kit.build(recipe).recipe["parameters"]
    config = write_config(recipe, parameters)
    for key in ("architectures", "model_type"):
        config.pop(key)
    return reference.randomised(reference.configured(recipe, **config))


def masks(model: Any, given: Tensors) -> Tensors:
    """Keep the first third of every modality; a random third would hardly move the outputs."""
    tokens, _ = model.inputs(given)
    sizes = {name: tokens[name].shape[1] for name in tokens.layout}
    return {name: (torch.arange(n) <= n // 3).expand(tokens.rows.shape[0], -1) for name, n in sizes.items()}


def readable(model: Any, out: Tensors, given: Tensors, keep: Tensors) -> Tensors:
    """Zero outputs whose query is a masked input row: the reference queries with its content."""
    for name in out:
        query = model.queries.blocks[name]
        if isinstance(query, InputQuery):
            pixels = keep[query.follows].view(1, 1, *given[query.follows].shape[-2:])
            out = out | {name: torch.where(pixels, out[name], 0)}
    return out


def compared(recipe: str, directory: Path) -> Row:
    torch.manual_seed(0)
    theirs = reference_of(recipe)
    ours = reference.converted(theirs, directory)
    parameters = sum(p.numel() for p in ours.parameters())
    assert parameters == sum(p.numel() for p in theirs.parameters())
    given = find("recipes", recipe).example()
    options = points(ours)
    ask = partial(reference_call, recipe, theirs, given, **options)
    with torch.no_grad():
        wanted, free = ask()(), ours(given, **options)
        what = ", ".join(f"{name} {' × '.join(map(str, value.shape[1:]))}" for name, value in wanted.items())
        outputs = relative(free, wanted)
        keep = masks(ours, given)
        wanted, found = ask(mask=keep)(), ours(given, mask=keep, **options)
        wanted, found, free = (readable(ours, out, given, keep) for out in (wanted, found, free))
        masked, moved = relative(found, wanted), relative(found, free)
    del wanted, found, free
    recompute(theirs)
    gradients = []
    for model, names in ((theirs, None), (ours, reference.parameters(recipe, ours))):
        out = ask()() if names is None else model(given, **options)
        reference.loss(out).backward()
        del out
        gradients.append(reference.gradients(model, names))
        model.zero_grad()
        gc.collect()
    their_gradients, our_gradients = gradients
    joined = [reference.joined(tensors, their_gradients) for tensors in (our_gradients, their_gradients)]
    return Row(recipe, parameters, what, outputs, masked, relative(*joined), moved)


def recompute(model: nn.Module) -> None:
    """Checkpoint each layer of the reference, whose attention scores take several times 1.4 GiB at 182,528 rows."""
    for layer in model.modules():
        if isinstance(layer, PerceiverLayer):
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)


def page(rows: list[Row], seconds: float) -> str:
    """The text of docs/parity.md."""
    lines = [
        f"| {row.recipe} | {row.parameters:,} | {row.compared} | {row.outputs:.1e} | {row.masked:.1e} "
        f"| {row.gradient:.1e} | {row.moved:.0%} |"
        for row in rows
    ]
    return f"""\
# Parity with Hugging Face

{len(rows)} recipes at published size against the same models in Hugging Face's `transformers`. Random weights are saved
there and loaded here. No published checkpoint is used.

| recipe | parameters | compared | outputs | masked | gradient | masks move by |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}

Differences are maxima over all values, relative to the largest value of the reference. Gradients are end to end, of all
parameters. The differences are float32 rounding: small models of each recipe agree to 1e-9 in float64
(`tests/hub/test_parity.py`). *Masked*: only the first third of every input's rows may be read; the last column says how
much this changes the outputs. Weights have variance 1.5² / fan-in, so that attention is selective; tables are standard
normal.

Differences by design: where queries come from inputs, the reference queries with the content of masked rows, so only
unmasked rows are compared. For a fully masked sample the kit's attention gives zeros; the reference attends to masked
rows. The reference decodes several outputs at given points only.

`make parity` writes this page ({seconds / 60:.0f} minutes on {torch.get_num_threads()} threads).
perceiver_kit {version("perceiver_kit")}, torch {torch.__version__.partition("+")[0]}, transformers \
{transformers.__version__}, Python {platform.python_version()}, on the CPU.
"""


def main(chosen: list[str]) -> None:
    start, rows = time.perf_counter(), []
    for recipe in chosen or recipes():
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            row = compared(recipe, Path(directory))
        gc.collect()
        rows.append(row)
        print(
            f"{row.recipe:<30} {row.parameters:>11,} parameters   outputs {row.outputs:.1e}   "
            f"masked {row.masked:.1e}   gradient {row.gradient:.1e}   masks move {row.moved:.0%}   "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
    if not chosen:
        PAGE.write_text(page(rows, time.perf_counter() - start), encoding="utf-8")
        print("wrote docs/parity.md")


if __name__ == "__main__":
    main(sys.argv[1:])
