"""What pages say is so: their snippets run, and the tables for newcomers leave nothing out."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import perceiver_pytorch
import pytest
import torch
from perceiver_pytorch.perceiver_pytorch import fourier_encode
from transformers import PerceiverConfig, PretrainedConfig
from transformers.models.perceiver import modeling_perceiver

import perceiver_kit as kit
from perceiver_kit.hub.huggingface import convertible

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), *DOCS.glob("api/*.md")])
# A fence of Python, and the comment before it that says why it is not run.
FENCE = re.compile(r"(?P<why><!-- no-run: [^\n]+ -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
SLOW = {"exporting.md": "tests/graphs.py holds it, in minutes"}
SHORTER = {"steps=1500": "steps=2", "warmup=75": "warmup=1"}  # what is said to train for minutes


def snippets(page: Path) -> list[str]:
    """The code of a page that is to run, in its order; each cell sees those before it."""
    fences = [*FENCE.finditer(page.read_text(encoding="utf-8"))]
    return [fence["code"] for fence in fences if fence["why"] is None]


@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)], ids=lambda page: page.name)
def test_snippets_of_a_page_run(page: Path, tmp_path: Path) -> None:
    if page.name in SLOW:
        pytest.skip(SLOW[page.name])
    code = "\n".join(snippets(page))
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    warnings = ["-W", "ignore"] if "training" in code else ["-W", "error"]  # Lightning's own are not ours to mend
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *warnings, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{page.name}:\n{done.stderr[-3000:]}"


def test_fences_are_found_and_marks_are_seen() -> None:
    text = "```python\na = 1\n```\n\n<!-- no-run: needs two machines -->\n```python\nb = 2\n```\n\n```sh\nls\n```\n"
    found = [(fence["code"], fence["why"] is None) for fence in FENCE.finditer(text)]
    assert found == [("a = 1\n", True), ("b = 2\n", False)]


def named_in(page: str) -> set[str]:
    """Every word that stands in code on a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    fenced = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    code = [*fenced.findall(text), *re.findall(r"`([^`]+)`", fenced.sub("", text))]
    return {word for part in code for word in re.findall(r"\w+", part)}


def test_every_class_and_field_of_hugging_faces_is_in_the_table() -> None:
    inner = {"AbstractDecoder", "AbstractPositionEncoding", "Attention", "MLP", "PreTrainedModel"}
    inner |= {"SelfAttention", "SelfOutput", "ModelOutput", "DecoderOutput", "MaskedLMOutput", "ClassifierOutput"}
    classes = {name for name in vars(modeling_perceiver) if name.startswith("Perceiver")}
    words = named_in("from_huggingface.md")
    missing = classes - words - {f"Perceiver{name}" for name in inner}
    fields = {*inspect.signature(PerceiverConfig).parameters} - {*inspect.signature(PretrainedConfig).parameters}
    missing |= fields - words - {"self", "kwargs"}
    assert not missing
    assert fields >= {"d_latents", "use_query_residual"}


def test_our_side_of_the_config_table_is_the_conversions() -> None:
    text = (DOCS / "from_huggingface.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ") and line.count("|") == 3]
    for conversion in convertible().values():
        for ours, (theirs, _) in conversion.sizes.items():
            (right,) = [
                right for left, right in rows if re.search(rf"`{theirs}`", left) and "PerceiverFor" not in left
            ][:1]
            assert re.search(rf"\b{ours}\b", right), f"{theirs} is {ours} here, and the page says {right}"


def test_every_block_and_argument_that_pages_name_exists() -> None:
    for page in ("from_huggingface.md", "from_perceiver_pytorch.md", "concepts.md"):
        text = (DOCS / page).read_text(encoding="utf-8")
        for kind, name in re.findall(r"`(?:kit\.)?(inputs|outputs|queries|positions|objectives)\.([A-Z]\w+)", text):
            assert name in kit.list(kind), f"{page} names {kind}.{name}"
        for name in re.findall(r"kit\.([a-zA-Z_]+)", text):
            assert hasattr(kit, name), f"{page} names kit.{name}"
    encoder = {*inspect.signature(kit.Encoder.__init__).parameters}
    assert encoder >= {"share_blocks", "share_cross_attends", "cross_attends", "cross_qk_channels", "residual_dropout"}


@pytest.mark.parametrize("name", ["Perceiver", "PerceiverIO", "PerceiverLM"])
def test_every_argument_of_perceiver_pytorch_is_in_the_table(name: str) -> None:
    there = getattr(perceiver_pytorch, name)
    names = {*inspect.signature(there.__init__).parameters, *inspect.signature(there.forward).parameters}
    assert names - {"self", "kwargs", "x"} <= named_in("from_perceiver_pytorch.md")


@pytest.mark.parametrize(("bands", "most", "size"), [(6, 10, 9), (64, 224, 32)])
def test_fourier_features_are_perceiver_pytorchs(bands: int, most: int, size: int) -> None:
    """Bands and maximum mean the same: columns of one axis, in another order."""
    ours = kit.positions.Fourier(bands=bands, max_resolution=(most,))((size,))
    theirs = fourier_encode(torch.linspace(-1, 1, size), float(most), bands)
    torch.testing.assert_close(ours, torch.cat([theirs[:, -1:], theirs[:, :-1]], dim=-1), atol=2e-5, rtol=0)


def test_depth_is_blocks_of_a_cross_attend_and_its_self_attends() -> None:
    """As many layers and, biases and gates aside, the same matrices, tied and not."""
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
        # Tied, theirs keeps the first block apart from the rest altogether; ours repeats one set of layers.
        assert len(attends) == (2 + 2 * 2 if tied else cross + layers)
        assert (cross, layers) == ((2, 2) if tied else (3, 6))
