"""A recipe of another package is built, trained by the CLI, converted both ways and shown on the site."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from . import fresh

pytest.importorskip("pytorch_lightning")

ROOT = Path(__file__).parent.parent
PACKAGE = """
    import torch
    import perceiver_kit as kit
    from perceiver_kit.data.task import Task
    from perceiver_kit.declarations import HuggingFace
    from perceiver_kit.recipes._shared import CLASSIFIER_NAMES, ENCODER_NAMES, ENCODER_SIZES

    def moons(*, side: int = 1, seed: int = 0) -> Task:
        points = torch.randn(24, 5, 2, generator=torch.Generator().manual_seed(seed))
        samples = [dict(inputs=dict(points=p), targets=dict(label=(p.sum() > 0).long())) for p in points]
        return Task("moons", samples[:16], samples[16:], dict(num_labels=2), "made here", ("low", "high"))

    @kit.recipe(
        presets=dict(base=dict(num_latents=8, latent_dim=16, layers=2), tiny=dict(layers=1)),
        sources=dict(num_labels="the two moons"),
        group=kit.Encoder,
        objective=kit.objectives.Classification,
        training=dict(steps=3, batch=4, rate=1e-3),
        data=dict(moons="moon_package:moons"),
        huggingface=HuggingFace(
            "MoonPerceiver", ENCODER_NAMES | CLASSIFIER_NAMES, ENCODER_SIZES | dict(axes=("axes", 2)), labels=2
        ),
    )
    def moon_classification(
        *, num_labels: int = 2, axes: int = 2, dropout: float = 0.0, activation: str = "gelu", **encoder
    ) -> kit.PerceiverIO:
        \"\"\"Which half a cloud of points lies in.\"\"\"
        inputs = kit.Inputs(points=kit.inputs.Features(axes))
        encoder = kit.Encoder(inputs.channels, dropout=dropout, activation=activation, **encoder)
        queries = kit.Queries(label=kit.queries.LearnedQuery(1, encoder.latent_dim))
        options = dict(query_residual=True, dropout=dropout, activation=activation)
        decoder = kit.Decoder(queries.channels, encoder.latent_dim, **options)
        outputs = kit.Outputs(label=kit.outputs.Classify(num_labels, in_channels=queries.channels))
        return kit.PerceiverIO(inputs, encoder, queries, decoder, outputs)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package is installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "moon_package.py").write_text(dedent(PACKAGE))
    metadata = folder / "moon_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: moon-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[perceiver_kit]\nmoons = moon_package\n")
    return folder


def run(installed: Path, folder: Path, code: str) -> str:
    status, out, errors = fresh.run(code, cwd=folder, path=[installed])
    assert status == 0, errors[-2000:]
    return out


def test_a_foreign_recipe_is_trained_converted_and_loaded(installed: Path, tmp_path: Path) -> None:
    commands = """
        import torch, perceiver_kit as kit
        from perceiver_kit.cli import main
        for line in (
            "list *moon*",
            "describe moon_classification",
            "train moon_classification --data moons --out run",
            "convert run theirs",
            "convert theirs ours",
        ):
            assert main(line.split()) == 0, line
        points = torch.randn(2, 7, 2)
        first, second = (kit.load(path)(points)["label"] for path in ("run", "ours"))
        print(torch.equal(first, second), first.shape)
    """
    printed = run(installed, tmp_path, commands).splitlines()
    assert printed[0] == "moon_classification"
    assert "num_labels = 2" in "\n".join(printed)
    assert printed[-1] == "True torch.Size([2, 2])"
    assert json.loads((tmp_path / "theirs" / "config.json").read_text())["architectures"] == ["MoonPerceiver"]


def test_a_foreign_recipe_has_a_page_on_the_site(installed: Path, tmp_path: Path) -> None:
    page = run(
        installed,
        tmp_path,
        f"""
        import sys
        sys.path.insert(0, {str(ROOT / "docs")!r})
        import hooks
        for name, content in hooks.recipe("moon_classification"):
            print(name, content if name.endswith(".md") else "")
        """,
    )
    assert "recipes/moon_classification.svg" in page
    assert "::: moon_package.moon_classification" in page
    assert "the two moons" in page
