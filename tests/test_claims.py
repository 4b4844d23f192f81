"""Each row of the tables of the pages "Coming from …" and of Exporting is what the code does."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import perceiver_pytorch
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PerceiverConfig
from transformers.models.perceiver import modeling_perceiver

import perceiver_kit as kit
from perceiver_kit import inputs, outputs, positions, queries
from perceiver_kit.hub.huggingface import convertible
from perceiver_kit.registry import KINDS, find
from qa.graphs import Case

from .strategies import raws
from .strategies import tiny as tiny_model

DOCS = Path(__file__).parents[1] / "docs"


build: Any = kit.build


@functools.cache
def tiny(recipe: str) -> Any:
    return tiny_model(recipe)


@functools.cache
def example(recipe: str) -> dict[str, Tensor]:
    return raws(tiny(recipe), 1)


def table(page: str, section: str) -> dict[str, str]:
    """The first column of the table below a heading → the second."""
    text = (DOCS / page).read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) > 2, section
    return {left.removeprefix("| ").strip(): right.removesuffix(" |").strip() for left, right in rows[1:]}


def default(recipe: str, parameter: str) -> Any:
    return find("recipes", recipe).signature.parameters[parameter].default


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"\b\d+(?:\.\d+)?(?:e-?\d+)?", cell)]


def arguments(block: Any) -> set[str]:
    return {*inspect.signature(block).parameters}


def text_logits(mask: Tensor | None = None) -> Tensor:
    masks = {} if mask is None else {"mask": {"text": mask}}
    return tiny("masked_lm")({"text": torch.arange(6, 14).expand(2, 8)}, **masks)["text"]


def clip(**given: Any) -> dict[str, Tensor]:
    model = tiny("multimodal_autoencoding")
    return model({name: raw for name, raw in example("multimodal_autoencoding").items() if name != "label"}, **given)


def captured(capture: Callable[..., Any]) -> int:
    with capture(tiny("masked_lm")) as seen:
        text_logits()
    return len(seen)


def flow() -> Tensor:
    return tiny("optical_flow")(torch.zeros(1, 2, 3, 32, 48))["flow"]


def raises(call: Callable[[], Any], error: type[Exception] = kit.InputError) -> bool:
    with pytest.raises(error):
        call()
    return True


def equal_to_theirs(ours: dict[str, Any], **theirs: Any) -> bool:
    """An encoder of these arguments has the parameters of perceiver-pytorch's, converted; biases and MLPs differ."""
    make: Any = perceiver_pytorch.Perceiver
    module = make(num_freq_bands=2, max_freq=4, latent_dim=8, num_latents=3, num_classes=2, **{"depth": 2} | theirs)
    recorded = kit.from_perceiver_pytorch(module).encoder.recorded
    return {name: recorded[name] for name in ours} == ours


# What the page says of results that differ are rows of tests/test_fidelity.py.
CALLING: dict[str, Callable[[], bool]] = {
    "`model(inputs=…)`": lambda: torch.equal(
        tiny("masked_lm")(torch.zeros(1, 4, dtype=torch.int64))["text"],
        tiny("masked_lm")({"text": torch.zeros(1, 4, dtype=torch.int64)})["text"],
    ),
    "`attention_mask`": lambda: (
        not torch.equal(text_logits(torch.arange(8).expand(2, 8) < 5), text_logits())
        and raises(lambda: text_logits(torch.ones(2, 8, dtype=torch.int64)))
    ),
    "`outputs.logits`": lambda: isinstance(clip(), dict) and sorted(clip()) == ["audio", "image", "label"],
    "`outputs.last_hidden_state`": lambda: (
        tiny("masked_lm").encode({"text": torch.zeros(2, 3, dtype=torch.int64)}).latents.ndim == 3
    ),
    "`output_attentions=True`": lambda: captured(kit.capture_attention) > 2 and captured(kit.capture_hidden) > 1,
    "`subsampled_output_points": lambda: (
        {name: rows.shape[1] for name, rows in clip(at={"image": torch.tensor([[5, 0, 2]])}).items()} == {"image": 3}
        and clip(at={"image": torch.tensor([1, 2])})["image"].shape[1] == 2
        and raises(lambda: clip(at={"image": torch.tensor([10**6])}))
        and raises(lambda: clip(at={"image": torch.tensor([1], dtype=torch.int32)}))
    ),
    "`interpolate_pos_encoding=True`": lambda: (
        tiny("image_classification_learned")(torch.rand(1, 3, 40, 20))["label"].ndim == 2
    ),
    "`labels=…`": lambda: kit.objectives.Classification()(
        {"label": torch.zeros(2, 4)}, {"label": torch.tensor([0, 3])}
    )[0].isclose(torch.tensor(4.0).log()),
    "multimodal `image`": lambda: clip()["image"].shape == example("multimodal_autoencoding")["image"].shape,
    "multimodal `audio`": lambda: clip()["audio"].ndim == 2,
    "multimodal `label`": lambda: torch.equal(
        clip()["label"], tiny("multimodal_autoencoding")(example("multimodal_autoencoding"))["label"]
    ),
    "flow `inputs`": lambda: raises(lambda: tiny("optical_flow")(torch.zeros(1, 2, 27, 32, 48))),
    "flow output": lambda: flow().shape == (1, 2, 32, 48) and default("optical_flow", "flow_scale") == 20 / 100,
}
CONFIG: dict[str, Callable[[str], bool]] = {
    "`num_blocks`": lambda ours: kit.Encoder(8, num_latents=2, latent_dim=8, layers=3, blocks=2).blocks == 2,
    "`cross_attention_shape_for_attention`": lambda ours: (
        tiny("image_classification_fourier").encoder.cross[0].attention.query.out_features
        == tiny("image_classification_fourier").inputs.channels
    ),
    "`hidden_act`": lambda ours: all(
        build("masked_lm", preset="tiny", activation=name) for name in re.findall(r'"(\w+)"', ours)
    ),
    "`attention_probs_dropout_prob`": lambda ours: (
        numbers(ours) == [default("masked_lm", "dropout"), PerceiverConfig().attention_probs_dropout_prob]
    ),
    "`initializer_range`": lambda ours: (
        ours.startswith("none: fan-in") and abs(float(kit.Attention(400, 400).query.weight.std()) - 0.05) < 1e-3
    ),
    "`layer_norm_eps`": lambda ours: (
        {part.eps for part in tiny("masked_lm").modules() if isinstance(part, nn.LayerNorm)} == {*numbers(ours)}
    ),
    "`num_frames`": lambda ours: (
        default("multimodal_autoencoding", "audio_samples") is None
        and build("multimodal_autoencoding", preset="tiny", num_frames=2).inputs.blocks["audio"].grid == (240,)
    ),
    "`id2label`": lambda ours: (
        build("sequence_classification", preset="tiny", labels=("a", "b")).labels == {"label": ("a", "b")}
    ),
    "`problem_type`": lambda ours: (
        build("sequence_classification", preset="tiny", problem_type="regression").outputs.blocks["label"].problem_type
        == "regression"
    ),
}
PERCEIVER: dict[str, Callable[[str], bool]] = {
    "`num_freq_bands`": lambda ours: positions.Fourier(bands=6, max_resolution=(9,)).channels == 13,
    "`max_freq`": lambda ours: positions.Fourier(bands=2, max_resolution=(10,))((3,)).shape == (3, 5),
    "`fourier_encode_data=False`": lambda ours: inputs.Pixels().channels == 3,
    "`input_channels`": lambda ours: (
        inputs.Features(5, axes=3)(torch.rand(1, 2, 3, 4, 5)).rows.shape == (1, 24, 5)
        and inputs.Pixels((1, 1, 1))(torch.rand(1, 2, 3, 4, 5)).rows.shape == (1, 40, 3)
    ),
    "`depth`": lambda ours: equal_to_theirs(dict(blocks=3, cross_attends=3), depth=3),
    "`self_per_cross_attn`": lambda ours: equal_to_theirs(dict(layers=2), self_per_cross_attn=2),
    "`weight_tie_layers`": lambda ours: equal_to_theirs(
        dict(share_blocks="after_first", share_cross_attends="after_first"), depth=3, weight_tie_layers=True
    ),
    "`num_latents`": lambda ours: equal_to_theirs(dict(num_latents=3, latent_dim=8)),
    "`cross_heads`": lambda ours: equal_to_theirs(dict(cross_heads=2, self_heads=4), cross_heads=2, latent_heads=4),
    "`cross_dim_head`": lambda ours: equal_to_theirs(
        dict(cross_qk_channels=2 * 5, qk_channels=4 * 6),
        cross_heads=2,
        cross_dim_head=5,
        latent_heads=4,
        latent_dim_head=6,
    ),
    "`attn_dropout`": lambda ours: equal_to_theirs(
        dict(dropout=0.1, residual_dropout=0.2), attn_dropout=0.1, ff_dropout=0.2
    ),
    "`num_classes`": lambda ours: (
        kit.PerceiverIO(
            kit.Inputs(image=inputs.Pixels()), kit.Encoder(3, num_latents=2, latent_dim=8, layers=1)
        ).outputs
        is None
    ),
    "`inverted_cross_attn`": lambda ours: equal_to_theirs(
        dict(compete=(True, False)), inverted_cross_attn=(True, False)
    ),
    "`attn_residual`": lambda ours: raises(lambda: equal_to_theirs({}, attn_residual=True), kit.CheckpointError),
    "`forward(data, mask)`": lambda ours: text_logits(torch.ones(2, 8, dtype=torch.bool)).equal(text_logits()),
    "`return_embeddings`": lambda ours: captured(kit.capture_hidden) > 1,
}
PERCEIVER_IO: dict[str, Callable[[str], bool]] = {
    "`dim`": lambda ours: kit.Inputs(rows=inputs.Features(32)).channels == 32,
    "`queries_dim`": lambda ours: kit.Queries(a=queries.LearnedQuery(2, 7)).channels == 7,
    "`logits_dim`": lambda ours: outputs.Project(9, in_channels=4)(torch.rand(1, 2, 4)).shape[-1] == 9,
    "`depth`": lambda ours: (
        len(kit.Encoder(8, num_latents=2, latent_dim=8, layers=3).transformer) == 3
        and len(kit.Encoder(8, num_latents=2, latent_dim=8, blocks=3, layers=1).transformer) == 1
    ),
    "`decoder_ff=False`": lambda ours: kit.Decoder(8, 8, widening=0).cross.mlp is None,
    "`seq_dropout_prob`": lambda ours: "mask" in arguments(kit.PerceiverIO.forward),
    "`queries`": lambda ours: "InputQuery" in kit.list("queries"),
}


def rows_of(page: str, section: str, claims: dict[str, Any], checked: str = "") -> list[Any]:
    """Each row with its check, which begins as the row; rows of ``checked`` have another test."""
    found = table(page, section)
    cases = []
    for left, right in found.items():
        (own,) = [check for start, check in claims.items() if left.startswith(start)] or [None]
        if own is None:
            assert re.search(checked, left) if checked else False, f"{page}: no check of {left}"
            continue
        cases.append(pytest.param(own, right, id=left[:40]))
    assert len(cases) == len(claims), f"{page}: a check without its row"
    return cases


# Fields of the conversions: tests/test_pages.py compares them with the table.
OTHERS = (
    r"widening|use_query_residual|num_latents|_heads|qk_channels|d_model|image_size|train_size|output_num|num_labels"
)
ROWS = [
    *rows_of("from_huggingface.md", "Calling", {key: lambda ours, c=c: c() for key, c in CALLING.items()}),
    *rows_of("from_huggingface.md", "Config fields", CONFIG, OTHERS),
    *rows_of("from_perceiver_pytorch.md", "`Perceiver`: images to classes", PERCEIVER),
    *rows_of("from_perceiver_pytorch.md", "`PerceiverIO`: your own rows and queries", PERCEIVER_IO),
]


@pytest.mark.parametrize(("check", "ours"), ROWS)
def test_each_row_is_what_the_code_does(check: Callable[[str], bool], ours: str) -> None:
    with torch.no_grad():
        assert check(ours)


def test_each_class_of_hugging_face_is_the_recipe_that_converts_it() -> None:
    rows = table("from_huggingface.md", "Models")
    for recipe, conversion in convertible().items():
        assert f'kit.build("{recipe}"' in rows[f"`{conversion.architecture}`"]
    named = {name for right in rows.values() for name in re.findall(r'build\("(\w+)"', right)}
    assert named == convertible().keys()


def test_sizes_of_exported_graphs_are_as_the_page_says() -> None:
    names = {"text": ("batch", "length"), "image": ("batch", "channels", "height", "width")}
    rows = table("exporting.md", "torch.export")
    said = {recipe: right for left, right in rows.items() for recipe in re.findall(r"`(\w+)`", left)}
    assert said.keys() <= {*kit.list()}
    assert rows["others"] == "batch"
    for recipe in kit.list():
        case = Case(recipe)
        axes = {names.get(name, names["image"])[axis] for name, own in case.axes.items() for axis in own}
        wanted = {*re.findall(r"batch|length|height|width", said.get(recipe, "batch").partition(";")[0])}
        assert axes == wanted if recipe in said else axes >= wanted, recipe


PAGES = {
    "from_huggingface.md": ("Models", "Blocks", "Config fields", "Calling"),
    "from_perceiver_pytorch.md": ("`Perceiver`: images to classes", "`PerceiverIO`: your own rows and queries"),
}
BLOCKS = {name: find(kind, name) for kind in KINDS if kind not in ("recipes", "processors") for name in kit.list(kind)}
PARAMETERS = {
    *(name for recipe in kit.list() for name in find("recipes", recipe).signature.parameters),
    *(name for block in (*BLOCKS.values(), kit.PerceiverIO.forward) for name in arguments(block)),
}
THEIRS = {
    *arguments(perceiver_pytorch.Perceiver),
    *arguments(perceiver_pytorch.perceiver_pytorch.Attention),
    *arguments(modeling_perceiver.PerceiverImagePreprocessor),
}
CODE = [
    pytest.param(code, id=f"{section[:12]} {code[:40]}")
    for page, sections in PAGES.items()
    for section in sections
    for right in table(page, section).values()
    for code in re.findall(r"`([^`]+)`", right)
]


def exists(name: str) -> bool:
    """Whether a name of a page is one of the kit's, dotted or alone, or a parameter of theirs."""
    model = tiny("masked_lm")
    first, *rest = name.split(".")
    roots = {"kit": [kit], "model": [model], "inputs": [inputs, model.inputs], "queries": [queries, model.queries]}
    roots |= {"outputs": [outputs], "positions": [positions]}
    if not rest:
        return name in {*BLOCKS, *PARAMETERS, *THEIRS, *roots, *kit.list()} or hasattr(kit, name)
    found = [
        functools.reduce(lambda owner, part: getattr(owner, part, None), rest, root) for root in roots.get(first, [])
    ]
    return any(value is not None for value in found)


@pytest.mark.parametrize("code", CODE)
def test_each_name_in_the_tables_is_one_of_the_kit(code: str) -> None:
    plain = re.sub(r'"[^"]*"|\bas maps\b|\bwith\b|\bTrue\b|\bFalse\b|\{[^}]*\}', "", code)
    plain = re.sub(r"\(([btnhwk0-9, 3]*)\)|\bname=\w+|\bout\b|\btargets\b|\bkeep\b|\bindex\b|\.latents\b", "", plain)
    for name in re.findall(r"[A-Za-z_][\w.]*", plain):
        assert exists(name), name


def test_each_name_of_the_others_is_one_of_theirs() -> None:
    theirs = {*vars(modeling_perceiver), *dir(transformers), "PerceiverFeatureExtractor"}  # the last in transformers 4
    config = PerceiverConfig()
    for section in ("Models", "Blocks"):
        for name in re.findall(r"`(Perceiver\w+)`", " ".join(table("from_huggingface.md", section))):
            assert name in theirs, name
    for name in re.findall(r"`([a-z]\w+)`", " ".join(table("from_huggingface.md", "Config fields"))):
        assert hasattr(config, name), name
