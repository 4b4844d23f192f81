"""Every recipe with a counterpart, at published size, against Hugging Face with the same weights: ``make parity``.

Writes docs/parity.md. Models are made and dropped one after another, in float32 on the CPU; 16 GB of memory and a
quarter of an hour of two idle cores will do. Names of recipes as arguments run only those and write nothing.
"""

from __future__ import annotations

import gc
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.perceiver.modeling_perceiver import PerceiverLayer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import perceiver_kit as kit  # noqa: E402
from benchmarks.models import reference_call, rows  # noqa: E402
from benchmarks.tasks import recipes  # noqa: E402
from perceiver_kit.hub.huggingface import write_config  # noqa: E402
from perceiver_kit.queries import InputQuery  # noqa: E402
from perceiver_kit.registry import find  # noqa: E402
from tests.hub import reference  # noqa: E402
from tests.hub.reference import Tensors, relative  # noqa: E402

TITLES = ("recipe", "parameters", "compared", "outputs", "masked", "gradient", "masks move by")


class Row(NamedTuple):
    """What a line of the table says; differences relative to the largest value of the reference."""

    recipe: str
    parameters: int
    compared: str
    outputs: float
    masked: float
    gradient: float
    moved: float


def points(model: Any) -> dict[str, dict[str, Tensor | None]]:
    """The reference decodes several outputs at some points only: 400 rows of each large one."""
    if len(model.outputs.blocks) == 1:
        return {}
    return {"at": {name: torch.randint(n, (400,)) if n > 400 else None for name, n in rows(model).items()}}


def reference_of(recipe: str) -> nn.Module:
    """The reference with the published numbers of its config and random ones everywhere else."""
    with torch.device("meta"):
        parameters = kit.build(recipe).recipe["parameters"]
    config = write_config(recipe, parameters)
    for key in ("architectures", "model_type"):
        config.pop(key)
    return reference.randomised(reference.configured(recipe, **config))


def masks(model: Any, given: Tensors) -> Tensors:
    """Keep the first third of every modality: a random choice of so many rows would hardly move the outputs."""
    tokens, _ = model.inputs(given)
    sizes = {name: tokens[name].shape[1] for name in tokens.layout}
    return {name: (torch.arange(n) <= n // 3).expand(tokens.rows.shape[0], -1) for name, n in sizes.items()}


def readable(model: Any, out: Tensors, given: Tensors, keep: Tensors) -> Tensors:
    """Zero outputs whose query is a masked input row, which the reference still asks with its content."""
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
    ask = partial(reference_call, ours, theirs, given, **options)
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
    """docs/parity.md: as short as the table lets it be."""
    lines = [
        f"| {row.recipe} | {row.parameters:,} | {row.compared} | {row.outputs:.1e} | {row.masked:.1e} "
        f"| {row.gradient:.1e} | {row.moved:.0%} |"
        for row in rows
    ]
    return "\n".join(
        [
            "# Parity with Hugging Face",
            "",
            f"{len(rows)} recipes at published size against the same models in Hugging Face's `transformers`, with",
            "random weights that were saved there and loaded here. No published checkpoint is used.",
            "",
            f"| {' | '.join(TITLES)} |",
            f"|{' --- |' * len(TITLES)}",
            *lines,
            "",
            "Differences are the largest over all values, relative to the largest value of the reference; gradients",
            "are those of all parameters, end to end. Everything is in float32, whose rounding these differences are:",
            "in float64 small models of each recipe agree to 1e-9 (`tests/hub/test_parity.py`). *Masked*: only the",
            "first third of every input's rows may be read; the last column says how much that moves the outputs, so",
            "that agreement about masks means something. Weights have the variance 1.5² / fan-in, so attention picks;",
            "all that is looked up is a standard normal.",
            "",
            "A few differences are by design. Where queries are made from inputs, the reference queries with",
            "the content of masked rows: only rows that may be read are compared. For a fully masked sample the kit",
            "reads zeros and the reference reads what is masked. The reference decodes several outputs at some points",
            "only.",
            "",
            f"`make parity` makes this page ({seconds / 60:.0f} minutes on {torch.get_num_threads()} threads).",
            f"perceiver_kit {version()}, torch {torch.__version__.partition('+')[0]}, transformers "
            f"{transformers.__version__}, Python {platform.python_version()}, on the CPU.",
            "",
        ]
    )


def version() -> str:
    from importlib.metadata import version

    return version("perceiver_kit")


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
        (ROOT / "docs" / "parity.md").write_text(page(rows, time.perf_counter() - start), encoding="utf-8")
        print("wrote docs/parity.md")


if __name__ == "__main__":
    main(sys.argv[1:])
