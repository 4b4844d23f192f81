"""Each row of the fidelity table of docs/concepts.md is what the code does."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PerceiverConfig

import perceiver_kit as kit
from perceiver_kit.positions import Fourier
from perceiver_kit.registry import find

from .strategies import raws, tiny

PAGE = (Path(__file__).parents[1] / "docs" / "concepts.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Fidelity to the references")[2].partition("\n## ")[0]
CELLS = [[cell.strip() for cell in line.split("|")] for line in SECTION.splitlines() if line.startswith("|")]
ROWS = {cells[1]: cells[2:5] for cells in CELLS}
Check = Callable[[str, str, str], bool]


def numbers(cell: str) -> list[float]:
    return [float(number.replace(",", "")) for number in re.findall(r"-?\d[\d,]*\.?\d*", cell)]


def option(cell: str) -> dict[str, Any]:
    """The arguments that a cell names, such as ``dropout=0.1``."""
    (call,) = [node.value for node in ast.parse(f"f({re.findall(r'`([^`]*=[^`]*)`', cell)[-1]})").body]
    return {argument.arg: ast.literal_eval(argument.value) for argument in call.keywords}


def build(recipe: str, cell: str) -> Any:
    """The recipe with the option that a cell names."""
    return kit.build(recipe, preset="tiny", **option(cell)).eval()


def stem(model: Any) -> list[float]:
    return [float(side) for side in model.inputs.blocks["image"].embed(torch.rand(1, 3, 224, 224), "image").shape[1:3]]


def label_shown(model: Any) -> bool:
    """Whether the label that is given changes the prediction in evaluation."""
    clip = raws(model, 1)
    other = clip | {"label": clip["label"].flip(-1)}
    one, two = (model(inputs, at={"label": None})["label"] for inputs in (clip, other))
    return not torch.equal(one, two)


def default(parameter: str, recipe: str = "masked_lm") -> object:
    return find("recipes", recipe).signature.parameters[parameter].default


def positions_of_queries() -> set[str]:
    queries = tiny("multimodal_autoencoding").queries.blocks
    return {queries[name].positions.ends for name in ("audio", "image")}


def gelu(model: Any) -> str:
    """The approximation of the model's GELU."""
    return next(module.approximate for module in model.modules() if isinstance(module, torch.nn.GELU))


def fully_masked() -> torch.Tensor:
    attention = kit.Attention(4, 6)
    read = attention(torch.randn(1, 2, 4), torch.randn(1, 3, 6), torch.zeros(1, 3, dtype=torch.bool))
    return read - attention.output.bias


# Each check reads the numbers and options in the row's cells: original, Hugging Face, the kit.
CLAIMS: dict[str, Check] = {
    "positions of a whole grid": lambda original, theirs, ours: (
        ours == 'the same: `Fourier(ends="both")`'
        and Fourier(bands=1, max_resolution=(5,), ends="both")((5,))[[0, -1], 0].tolist() == numbers(original)
        and Fourier(bands=1, max_resolution=(5,)).ends == "both"
    ),
    "positions of chosen output points": lambda original, theirs, ours: (
        {re.findall(r'ends="(\w+)"', ours)[0]} == positions_of_queries()
        and "-1 + 2·i/n" in original
        and Fourier(bands=1, max_resolution=(4,), ends="half_open")((4,))[:, 0].tolist() == [-1, -0.5, 0, 0.5]
    ),
    "convolutional stem": lambda original, theirs, ours: (
        ours.startswith("as Hugging Face")
        and stem(kit.build("image_classification_conv", preset="tiny")) == numbers(theirs)
        and stem(build("image_classification_conv", ours)) == numbers(original)
    ),
    "decoder's residual of `image_classification_learned`": lambda original, theirs, ours: (
        (original, theirs, ours.partition(";")[0]) == ("off", "on", "on")
        and default("decoder_residual", "image_classification_learned") is True
        and not build("image_classification_learned", ours).decoder.cross.query_residual
    ),
    "GELU": lambda original, theirs, ours: (
        (original, theirs, ours.partition(";")[0]) == ("tanh approximation", "exact", "exact")
        and gelu(tiny("masked_lm")) == "none"
        and gelu(build("masked_lm", ours)) == "tanh"
    ),
    "initial weights": lambda original, theirs, ours: (
        "fan-in" in original
        and ours.startswith("by fan-in")
        and numbers(theirs) == [PerceiverConfig().initializer_range]
        and abs(float(kit.Attention(400, 400).query.weight.std()) - 1 / 400**0.5) < 1e-3
    ),
    "attention dropout": lambda original, theirs, ours: (
        [default("dropout")] == numbers(original) == numbers(ours)[:1]
        and numbers(theirs) == [PerceiverConfig().attention_probs_dropout_prob]
        and build("masked_lm", ours).encoder.transformer[0].attention.dropout == numbers(ours)[1]
    ),
    "residual dropout of the encoder": lambda original, theirs, ours: (
        [default("residual_dropout")] == numbers(ours)[:1]
        and build("masked_lm", ours).encoder.transformer[0].dropout.p == numbers(ours)[1]
    ),
    "a fully masked sample": lambda original, theirs, ours: original == ours == "zeros" and not fully_masked().any(),
    "label in evaluation": lambda original, theirs, ours: (
        ours.startswith("always hidden;")
        and not label_shown(tiny("multimodal_autoencoding"))
        and label_shown(build("multimodal_autoencoding", ours))
    ),
    "queries of padded text": lambda original, theirs, ours: (
        (original, theirs) == ("read no latents", "read them")
        and ours.startswith("read them; `model(inputs, query_mask=…)`")
        and not torch.equal(
            tiny("masked_lm")(torch.zeros(1, 3, dtype=torch.int64))["text"],
            tiny("masked_lm")(
                torch.zeros(1, 3, dtype=torch.int64), query_mask={"text": torch.tensor([[True, True, False]])}
            )["text"],
        )
    ),
    "text logits": lambda original, theirs, ours: (
        ours == "one per input byte"
        and numbers(theirs) == [PerceiverConfig().max_position_embeddings]
        and tiny("masked_lm")(torch.zeros(1, 7, dtype=torch.int64))["text"].shape[1] == 7
    ),
    "flow": lambda original, theirs, ours: (
        ours.startswith("pixels")
        and numbers(ours)[0] == default("flow_scale", "optical_flow") == numbers(original)[1] / numbers(original)[0]
        and option(ours)["flow_scale"] == 1 / numbers(theirs)[0]
    ),
    "flow of larger images": lambda original, theirs, ours: (
        numbers(original) == numbers(ours) == [default("tile_overlap", "optical_flow")]
        and "smaller images too" in ours
        and tiny("optical_flow")(torch.zeros(1, 2, 3, 20, 60))["flow"].shape == (1, 2, 20, 60)
    ),
}


def test_each_row_has_a_check() -> None:
    assert set(ROWS) - {"", "---"} == set(CLAIMS)


@pytest.mark.parametrize("row", CLAIMS)
def test_each_row_is_what_the_code_does(row: str) -> None:
    with torch.no_grad():
        assert CLAIMS[row](*ROWS[row])


def test_each_option_is_a_parameter_of_a_recipe() -> None:
    known = {name for recipe in kit.list() for name in find("recipes", recipe).signature.parameters}
    named = {name for cells in ROWS.values() for name in re.findall(r"`(\w+)=", cells[2])}
    assert named and named <= known
    assert named <= {*re.findall(r"`(\w+)`", SECTION)}, "the paragraph below the table names each of them"
