"""Model cards of ``kit.save``, read by huggingface_hub's own parser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import perceiver_kit as kit

from ..strategies import tiny

TEXT = "Which digit is it? Accuracy 0.97, a mean of the pixels 0.81.\n\n## Not for\n\nLetters: `ß`, 漢字, 🙂."
ENTRIES = {
    "license": "cc-by-4.0",
    "language": ["tr", "no"],  # without quotes YAML reads a bool
    "datasets": ["mnist"],
    "tags": ["a: tag # of mine", "perceiver"],
    "model-index": [{"name": "digits", "results": []}],
}


def read(directory: Path) -> ModelCard:
    return ModelCard.load(directory / "README.md")


def test_the_hub_reads_the_entries_of_a_card(tmp_path: Path) -> None:
    card = read(kit.save(tiny("sequence_classification"), tmp_path / "digits", card={"text": TEXT, **ENTRIES}))
    assert card.data.library_name == "perceiver-kit"
    assert card.data.tags == ["perceiver", "sequence_classification", "a: tag # of mine"]
    assert (card.data.license, card.data.language, card.data.datasets) == ("cc-by-4.0", ["tr", "no"], ["mnist"])
    assert card.text.startswith(f"\n# digits\n\n{TEXT}\n\nA Perceiver (`sequence_classification`, preset `tiny`)")


@pytest.mark.parametrize("name", ["digits", 'a "b" \\ é'])
def test_the_line_of_the_card_loads_the_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = kit.assemble(
        dict(x=kit.inputs.Features(3)), dict(y=kit.outputs.Classify(2)), num_latents=4, latent_dim=8, layers=1
    )
    kit.save(model, tmp_path / name, card={})
    found = re.findall(r"```python\n(.*?)```", read(tmp_path / name).text, re.DOTALL)
    names: dict = {}
    exec(found[0], names)
    assert kit.spec(names["model"]) == kit.spec(model)
    assert kit.describe(model) in read(tmp_path / name).text


def test_a_card_that_is_there_stays(tmp_path: Path) -> None:
    model = tiny("sequence_classification")
    (tmp_path / "README.md").write_text("mine")
    kit.save(model, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    kit.save(model, tmp_path, card={})
    assert read(tmp_path).data.library_name == "perceiver-kit"


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("text", ["card must be a dict", "'text'"]),
        ({"licence": "mit"}, ["'licence'", "did you mean 'license'"]),
        ({"library_name": "mine"}, ["'library_name'"]),
        ({"text": 3}, ["text must be a str, got an int"]),
        ({"tags": "one"}, ["tags must be a list"]),
        ({"tags": [{1, 2}]}, ["tags must be text"]),
        ({"datasets": float("nan")}, ["datasets must be text"]),
        ({"text": "\ud800"}, ["surrogate"]),
    ],
)
def test_a_wrong_card_is_refused_before_anything_is_written(card: object, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(kit.PerceiverKitError) as caught:
        kit.save(tiny("sequence_classification"), tmp_path / "new", card=card)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words), caught.value
    assert not (tmp_path / "new").exists()
