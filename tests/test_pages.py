"""Snippets of the pages run, and the migration tables are complete and correct."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import perceiver_pytorch
import pytest
import torch
from perceiver_pytorch.perceiver_pytorch import fourier_encode
from transformers import PerceiverConfig, PretrainedConfig
from transformers.models.perceiver import modeling_perceiver

import perceiver_kit as kit
from perceiver_kit.hub.huggingface import convertible

from . import fresh

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("api/*.md")])
# A fence of Python with an optional comment that says why it is not run.
FENCE = re.compile(r"(?P<why><!-- no-run: [^\n]+ -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
SLOW = {"exporting.md": "takes minutes; qa/graphs.py tests it"}
# Training and evaluation take minutes otherwise.
SHORTER = {"steps=1500": "steps=2", "warmup=75": "warmup=1", "batch=64": "batch=2"}
SHORTER |= {"task.held_out, batch": "[task.held_out[0]], batch", "halves(train, 4000)": "halves(train, 40)"}
SHORTER |= {"halves(held_out, 1000)": "halves(held_out, 10)", "halves(held_out, 100)": "halves(held_out, 10)"}


def snippets(page: Path) -> list[str]:
    """The runnable code of a page, in order."""
    fences = [*FENCE.finditer(page.read_text(encoding="utf-8"))]
    return [fence["code"] for fence in fences if fence["why"] is None]


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name)
def test_snippets_run(page: Path, tmp_path: Path) -> None:
    if page.name in SLOW:
        pytest.skip(SLOW[page.name])
    code = "\n".join(snippets(page))
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    warn = "ignore" if "training" in code else "error"  # Lightning warns
    status, _, errors = fresh.run(code, cwd=tmp_path, warn=warn)
    assert status == 0, f"{page.name}:\n{errors[-3000:]}"


def test_fences_and_no_run_comments_are_found() -> None:
    text = "```python\na = 1\n```\n\n<!-- no-run: needs two machines -->\n```python\nb = 2\n```\n\n```sh\nls\n```\n"
    found = [(fence["code"], fence["why"] is None) for fence in FENCE.finditer(text)]
    assert found == [("a = 1\n", True), ("b = 2\n", False)]


def words_in_code(page: str) -> set[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    fenced = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    code = [*fenced.findall(text), *re.findall(r"`([^`]+)`", fenced.sub("", text))]
    return {word for part in code for word in re.findall(r"\w+", part)}


def test_the_table_has_every_class_and_field_of_hugging_face() -> None:
    inner = {"AbstractDecoder", "AbstractPositionEncoding", "Attention", "MLP", "PreTrainedModel"}
    inner |= {"SelfAttention", "SelfOutput", "ModelOutput", "DecoderOutput", "MaskedLMOutput", "ClassifierOutput"}
    classes = {name for name in vars(modeling_perceiver) if name.startswith("Perceiver")}
    words = words_in_code("from_huggingface.md")
    missing = classes - words - {f"Perceiver{name}" for name in inner}
    fields = {*inspect.signature(PerceiverConfig).parameters} - {*inspect.signature(PretrainedConfig).parameters}
    missing |= fields - words - {"self", "kwargs"}
    assert not missing
    assert fields >= {"d_latents", "use_query_residual"}


def test_the_page_of_tasks_names_every_recipe_model_preprocessor_and_decoder() -> None:
    text = (DOCS / "tasks.md").read_text(encoding="utf-8")
    kinds = re.compile("Perceiver(For|.*(Preprocessor|Postprocessor|Decoder|Tokenizer|Processor|Config|Model)$)")
    classes = {name for name in vars(modeling_perceiver) if kinds.match(name)}
    inner = {"AbstractDecoder", "AbstractPreprocessor", "PreTrainedModel"}
    missing = {name for name in classes if name not in text} - {f"Perceiver{name}" for name in inner}
    assert not missing | {name for name in kit.list() if name not in text}
    assert "PerceiverForMaskedLM" in classes


# Systems and tasks of the table of goals, a line each as on the page.
TASKS = """
PerceiverModel; PerceiverConfig; PerceiverTokenizer; PerceiverFeatureExtractor; PerceiverImageProcessor
PerceiverTextPreprocessor; PerceiverImagePreprocessor; PerceiverOneHotPreprocessor; PerceiverAudioPreprocessor
PerceiverMultimodalPreprocessor; PerceiverProjectionDecoder; PerceiverBasicDecoder; PerceiverClassificationDecoder
PerceiverOpticalFlowDecoder; PerceiverBasicVideoAutoencodingDecoder; PerceiverMultimodalDecoder
PerceiverProjectionPostprocessor; PerceiverAudioPostprocessor; PerceiverClassificationPostprocessor
PerceiverMultimodalPostprocessor; PerceiverModelOutput; DecoderOutput; MaskedLMOutput; ClassifierOutput
PerceiverForMaskedLM; PerceiverForSequenceClassification; PerceiverForImageClassificationLearned
PerceiverForImageClassificationFourier; PerceiverForImageClassificationConvProcessing; PerceiverForOpticalFlow
PerceiverForMultimodalAutoencoding; Text classification; Masked language modelling; Image classification; DataParallel
DDP; FSDP2; Question answering; Named entities; Object detection; Audio classification; Video classification; GLUE
AudioSet; ModelNet40; StarCraft II; Sintel; KITTI; The first Perceiver; Perceiver AR; Hierarchical Perceiver; HiP
Perceiver resampler; gated cross-attention; Flamingo; IDEFICS; Semantic segmentation; Forecasting; perceiver-pytorch
From a file to an answer; Trained models at hand
"""
GOALS = [task.strip() for line in TASKS.split("\n") for task in line.split(";") if task.strip()]


def test_the_page_of_tasks_has_a_line_and_a_snippet_for_each_goal() -> None:
    text = (DOCS / "tasks.md").read_text(encoding="utf-8")
    entries = re.split(r"^(?=\*\*|## )", text, flags=re.MULTILINE)[1:]
    with_code = [entry.partition("```python\n")[0] for entry in entries if "```python\n" in entry]
    without = [entry[:60] for entry in entries if entry.startswith("**") and "```python\n" not in entry]
    assert not without
    for goal in GOALS:
        assert any(goal in head for head in with_code), goal


def test_the_config_table_agrees_with_the_conversions() -> None:
    text = (DOCS / "from_huggingface.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ") and line.count("|") == 3]
    for conversion in convertible().values():
        for ours, (theirs, _) in conversion.sizes.items():
            (right,) = [
                right for left, right in rows if re.search(rf"`{theirs}`", left) and "PerceiverFor" not in left
            ][:1]
            assert re.search(rf"\b{ours}\b", right), f"{theirs}: expected {ours}, got {right}"


def test_names_on_pages_exist() -> None:
    for page in ("from_huggingface.md", "from_perceiver_pytorch.md", "concepts.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        for kind, name in re.findall(r"`(?:kit\.)?(inputs|outputs|queries|positions|objectives)\.([A-Z]\w+)", text):
            assert name in kit.list(kind), f"{page} names {kind}.{name}"
        for name in re.findall(r"kit\.([a-zA-Z_]+)", text):
            assert hasattr(kit, name), f"{page} names kit.{name}"
    encoder = {*inspect.signature(kit.Encoder.__init__).parameters}
    assert encoder >= {"share_blocks", "share_cross_attends", "cross_attends", "cross_qk_channels", "residual_dropout"}


@pytest.mark.parametrize("name", ["Perceiver", "PerceiverIO", "PerceiverLM"])
def test_the_table_has_every_argument_of_perceiver_pytorch(name: str) -> None:
    reference = getattr(perceiver_pytorch, name)
    names = {*inspect.signature(reference.__init__).parameters, *inspect.signature(reference.forward).parameters}
    assert names - {"self", "kwargs", "x"} <= words_in_code("from_perceiver_pytorch.md")


def test_the_page_of_predicting_names_every_reader_and_interpreter() -> None:
    assert {*kit.list("processors")} - {"Processor", "Unsupported"} <= words_in_code("predicting.md")


@pytest.mark.parametrize(("bands", "max_freq", "size"), [(6, 10, 9), (64, 224, 32)])
def test_fourier_features_match_perceiver_pytorch(bands: int, max_freq: int, size: int) -> None:
    """The same columns in another order."""
    ours = kit.positions.Fourier(bands=bands, max_resolution=(max_freq,))((size,))
    theirs = fourier_encode(torch.linspace(-1, 1, size), float(max_freq), bands)
    torch.testing.assert_close(ours, torch.cat([theirs[:, -1:], theirs[:, :-1]], dim=-1), atol=2e-5, rtol=0)


def test_depth_of_perceiver_pytorch_is_blocks() -> None:
    """The number of attention layers is the same, tied and untied."""
    for tied in (False, True):
        theirs = perceiver_pytorch.Perceiver(
            num_freq_bands=6, max_freq=10, depth=3, self_per_cross_attn=2, latent_dim=32, weight_tie_layers=tied
        )
        ours = kit.Encoder(
            29,
            num_latents=8,
            latent_dim=32,
            blocks=3,
            cross_attends=3,
            layers=2,
            share_blocks=tied,
            share_cross_attends="after_first" if tied else "none",
        )
        attends = {id(module) for module in theirs.modules() if type(module).__name__ == "Attention"}
        cross, layers = len(ours.cross), len(ours.transformer)
        # Tied: theirs has a separate first block; ours repeats one set of layers.
        assert len(attends) == (2 + 2 * 2 if tied else cross + layers)
        assert (cross, layers) == ((2, 2) if tied else (3, 6))
