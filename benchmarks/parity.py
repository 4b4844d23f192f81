"""All seven recipes at published size against Hugging Face's Perceiver with the same random numbers: ``make parity``.

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
from typing import NamedTuple

import torch
import transformers
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.models.perceiver.modeling_perceiver import PerceiverLayer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import perceiver_kit as kit  # noqa: E402
from perceiver_kit.hub.huggingface import write_config  # noqa: E402
from tests.hub import reference  # noqa: E402
from tests.hub.reference import Tensors, ask, relative  # noqa: E402

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


def raw(recipe: str) -> tuple[Tensors, str]:
    """Inputs of published size, and what of the outputs is compared."""
    match recipe:
        case "masked_lm":
            return {"text": torch.randint(262, (1, 2048))}, "2,048 × 262 logits"
        case "sequence_classification":
            return {"text": torch.randint(262, (1, 2048))}, "2 logits of one text"
        case "optical_flow":
            return {"frames": torch.rand(1, 2, 3, 368, 496) * 2 - 1}, "flow of 368 × 496"
        case "multimodal_autoencoding":
            clip = {"image": torch.rand(1, 16, 3, 224, 224), "audio": torch.rand(1, 30720) - 0.5}
            return clip | {"label": torch.rand(1, 700)}, "400 pixels, 200 audio patches, 700 logits"
    return {"image": torch.randn(1, 3, 224, 224)}, "1,000 logits of one image"


def points(recipe: str) -> dict[str, dict[str, Tensor | None]]:
    """The reference decodes a video at some points only."""
    if recipe != "multimodal_autoencoding":
        return {}
    return {"at": {"image": torch.randint(16 * 224 * 224, (400,)), "audio": torch.randint(1920, (200,)), "label": None}}


def reference_of(recipe: str) -> nn.Module:
    """The reference with the published numbers of its config and random ones everywhere else."""
    with torch.device("meta"):
        parameters = kit.build(recipe).recipe["parameters"]
    config = write_config(recipe, parameters)
    for key in ("architectures", "model_type"):
        config.pop(key)
    return reference.randomised(reference.configured(recipe, **config))


def masks(model: nn.Module, given: Tensors) -> Tensors:
    """Of every modality the first third: thousands of rows left out here and there would leave the mean as it is."""
    tokens, _ = model.inputs(given)
    rows = {name: tokens[name].shape[1] for name in tokens.layout}
    return {name: (torch.arange(n) <= n // 3).expand(tokens.rows.shape[0], -1) for name, n in rows.items()}


def compared(recipe: str, directory: Path) -> Row:
    torch.manual_seed(0)
    theirs = reference_of(recipe)
    ours = reference.converted(theirs, directory)
    parameters = sum(p.numel() for p in ours.parameters())
    assert parameters == sum(p.numel() for p in theirs.parameters())
    given, what = raw(recipe)
    options = points(recipe)
    with torch.no_grad():
        wanted = ask(recipe, theirs, given, **options)[0]
        free = ours(given, **options)
        outputs = relative(free, wanted)
        keep = masks(ours, given)
        wanted, found = ask(recipe, theirs, given, keep, **options)[0], ours(given, mask=keep, **options)
        if recipe == "optical_flow":
            # Of a masked pixel the reference still asks with its content, which matters for nothing here.
            pixels = keep["frames"].view(1, 1, 368, 496)
            wanted, found, free = ({"flow": torch.where(pixels, out["flow"], 0)} for out in (wanted, found, free))
        masked, moved = relative(found, wanted), relative(found, free)
    del wanted, found, free
    recompute(theirs)
    gradients = []
    for model, names in ((theirs, None), (ours, reference.parameters(recipe, ours))):
        out = ask(recipe, model, given, **options)[0] if names is None else model(given, **options)
        reference.loss(out).backward()
        del out
        gradients.append(reference.gradients(model, names))
        model.zero_grad()
        gc.collect()
    their_gradients, our_gradients = gradients
    joined = [reference.joined(tensors, their_gradients) for tensors in (our_gradients, their_gradients)]
    return Row(recipe, parameters, what, outputs, masked, relative(*joined), moved)


def recompute(model: nn.Module) -> None:
    """Have the reference run each layer again on the way back: the same operations, in the memory of one layer.

    A copy of optical flow's scores is 1.4 GiB, and each attention keeps several.
    """
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
            "The seven recipes at published size against the same models in Hugging Face's `transformers`, with random",
            "weights that were saved there and loaded here. No published checkpoint takes part.",
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
            "A few differences are by design. Of a masked pixel of `optical_flow` the reference still asks with its",
            "content, which matters for nothing here: only pixels that may be read are compared. Where a sample has",
            "nothing at all to read, the kit reads zeros and the reference reads what is masked. The reference",
            "decodes `multimodal_autoencoding` at some points only.",
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


def main(recipes: list[str]) -> None:
    start, rows = time.perf_counter(), []
    for recipe in recipes or kit.list():
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
    if not recipes:
        (ROOT / "docs" / "parity.md").write_text(page(rows, time.perf_counter() - start), encoding="utf-8")
        print("wrote docs/parity.md")


if __name__ == "__main__":
    main(sys.argv[1:])
