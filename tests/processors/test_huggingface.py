"""Answers equal those of transformers' pipelines on a checkpoint directory with its own class names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import perceiver_kit as kit
from perceiver_kit import processors

from ..data.making import picture

pytestmark = pytest.mark.usefixtures("checked")

SIZES: dict[str, Any] = dict(
    d_latents=16,
    num_latents=4,
    num_self_attends_per_block=1,
    num_self_attention_heads=2,
    num_cross_attention_heads=2,
    d_model=16,
    max_position_embeddings=64,
    qk_channels=16,
    v_channels=16,
)
NAMES = {0: "Katze", 1: "Hund", 2: "Maus, die"}


def checkpoint(architecture: str, directory: Path, **options: Any) -> Path:
    """A model with random weights, saved by transformers."""
    torch.manual_seed(0)
    names = {} if "MaskedLM" in architecture else dict(id2label=NAMES, label2id={name: i for i, name in NAMES.items()})
    model = getattr(transformers, architecture)(transformers.PerceiverConfig(**(SIZES | names | options)))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(directory)
    return directory


def pipeline(task: str, directory: Path, **parts: Any) -> Any:
    for part in parts.values():
        part.save_pretrained(directory)
    return transformers.pipeline(task, model=str(directory), device="cpu", **parts)


def agree(found: dict[str, float], wanted: list[dict[str, Any]]) -> None:
    """The same labels in the same order, with scores that differ by at most 1e-5."""
    assert [*found][: len(wanted)] == [row["label"] for row in wanted]
    for row in wanted:
        assert found[row["label"]] == pytest.approx(row["score"], abs=1e-5)


@pytest.mark.parametrize("settings", [{}, dict(size={"height": 32, "width": 32}, image_mean=[0.3, 0.4, 0.5])])
def test_images_are_classified_as_by_the_pipeline(settings: dict[str, Any], tmp_path: Path) -> None:
    heads = dict(num_self_attention_heads=2, num_cross_attention_heads=1, qk_channels=None, v_channels=None)
    directory = checkpoint("PerceiverForImageClassificationConvProcessing", tmp_path / "model", **heads)
    theirs = pipeline(
        "image-classification", directory, image_processor=transformers.PerceiverImageProcessorPil(**settings)
    )
    model = kit.load(directory)
    paths = [picture(tmp_path / f"{i}.png", i, size=(90 + 31 * i, 70)) for i in range(2)]
    answers = kit.predict(model, paths, progress=False)
    for path, answer in zip(paths, answers, strict=True):
        agree(answer.scores, theirs(str(path)))
    assert abs(answers[0].scores["Hund"] - answers[1].scores["Hund"]) > 1e-4


def test_texts_are_classified_as_by_the_pipeline(tmp_path: Path) -> None:
    directory = checkpoint("PerceiverForSequenceClassification", tmp_path / "model")
    theirs = pipeline("text-classification", directory, tokenizer=transformers.PerceiverTokenizer())
    model = kit.load(directory)
    texts = ["A fine film.", "Schade, drei Stunden!", "a [MASK] b"]
    for text, answer in zip(texts, kit.predict(model, texts, progress=False), strict=True):
        agree(answer.scores, theirs(text, top_k=None))


def test_masks_are_filled_as_by_the_pipeline(tmp_path: Path) -> None:
    directory = checkpoint("PerceiverForMaskedLM", tmp_path / "model", num_self_attention_heads=2, qk_channels=8 * 32)
    theirs = pipeline("fill-mask", directory, tokenizer=transformers.PerceiverTokenizer())
    model = kit.load(directory)
    one, two = kit.predict(model, ["This is[MASK] text.", "a[MASK][MASK] b"], progress=False)
    for answer, wanted in ((one, [theirs("This is[MASK] text.")]), (two, theirs("a[MASK][MASK] b"))):
        for scores, rows in zip(answer.scores, wanted, strict=True):
            names = [processors.texts.byte_name(row["token"]) for row in rows]
            agree(scores, [row | {"label": name} for row, name in zip(rows, names, strict=True)])
            ascii_rows = [row for row in rows if 6 + 32 <= row["token"] < 6 + 127]
            assert all(row["token_str"] in scores for row in ascii_rows)
    assert one.best == theirs("This is[MASK] text.")[0]["sequence"]


def test_settings_are_kept_by_our_checkpoints_and_written_back(tmp_path: Path) -> None:
    heads = dict(num_cross_attention_heads=1, qk_channels=None, v_channels=None)
    directory = checkpoint("PerceiverForImageClassificationConvProcessing", tmp_path / "model", **heads)
    settings = dict(size={"height": 48, "width": 48}, crop_size={"height": 60, "width": 60}, image_std=[0.1, 0.2, 0.3])
    transformers.PerceiverImageProcessorPil(**settings).save_pretrained(directory)
    model = kit.load(directory)
    reader = model.processor.readers["image"]
    assert (reader.size, reader.crop, reader.std) == ((48, 48), 0.8, (0.1, 0.2, 0.3))
    assert kit.load(kit.save(model, tmp_path / "ours")).processor == model.processor
    again = kit.to_huggingface(model, tmp_path / "theirs")
    assert kit.load(again).processor == model.processor
    read = transformers.PerceiverImageProcessorPil.from_pretrained(again)
    assert (read.size["height"], read.crop_size["height"], tuple(read.image_std)) == (48, 60, (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("architecture", "file", "content", "message"),
    [
        ("ImageClassificationConvProcessing", "preprocessor_config.json", {"resample": 2}, "resample must be 3"),
        ("ImageClassificationConvProcessing", "preprocessor_config.json", {"size": {"shortest_edge": 2}}, "height"),
        ("ImageClassificationConvProcessing", "preprocessor_config.json", [], "must hold a JSON object"),
        ("SequenceClassification", "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}, "BertTokenizer"),
        ("SequenceClassification", "tokenizer_config.json", {"model_max_length": "x"}, "must be a number"),
    ],
)
def test_unknown_settings_do_not_keep_a_model_from_loading(
    architecture: str, file: str, content: Any, message: str, tmp_path: Path
) -> None:
    heads = dict(num_cross_attention_heads=1, qk_channels=None, v_channels=None) if "Image" in architecture else {}
    directory = checkpoint(f"PerceiverFor{architecture}", tmp_path / "model", **heads)
    (directory / file).write_text(json.dumps(content))
    model = kit.load(directory)
    source = "a text" if "Sequence" in architecture else picture(tmp_path / "a.png")
    with pytest.raises(kit.InputError, match=rf"{file} is not supported.*{message}.*pass processor= to predict"):
        kit.predict(model, source)


def test_checkpoints_without_settings_are_read_as_the_published_ones(tmp_path: Path) -> None:
    assert os.listdir(checkpoint("PerceiverForSequenceClassification", tmp_path)).count("tokenizer_config.json") == 0
    assert kit.load(tmp_path).processor.readers["text"] == processors.Text(64)


def test_a_download_from_the_hub_has_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    directory = checkpoint("PerceiverForSequenceClassification", tmp_path)
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 20}')
    there: set[str] = set()

    def download(repository: str, file: str, local_files_only: bool = False) -> str:
        if local_files_only and file not in there:
            raise LocalEntryNotFoundError("not cached")
        there.add(file)
        return str(directory / file)

    def metadata(file: str, timeout: int) -> None:
        if not (directory / file).exists():
            raise EntryNotFoundError.__new__(EntryNotFoundError)  # its arguments depend on the HTTP client

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_url", lambda repository, file: file)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repository, file: None)
    assert kit.load("owner/name").processor.readers["text"].max_length == 20
    assert there == {"config.json", "tokenizer_config.json", "model.safetensors"}
