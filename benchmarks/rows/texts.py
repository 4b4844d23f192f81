"""Masked bytes, and sentiment of reviews."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils.data import DataLoader

import perceiver_kit as kit
from perceiver_kit.data import corpora, texts
from perceiver_kit.data.tasks import Task

from ..training import SMALL, Row, Run, directory, named, opened, recipes_for, row, train

REVIEW: dict[str, Any] = dict(max_length=128)


def masked_bytes(preset: str, seed: int, small: bool = False) -> list[Row]:
    run, said = named("masked_bytes", preset, small=small)
    (recipe,), length = recipes_for("bible"), 64
    task = opened(recipe, "bible", preset, max_length=length, seed=seed)
    metrics = train(run, recipe, task, preset=preset, seed=seed, parameters=SMALL if small else None)
    train_text, held_out_text = corpora.bible_text()
    held_out = texts.MaskedBytes(held_out_text, length=length, seed=seed)
    label = f"masked bytes of the Bible, `{recipe}`{said}"
    return [row(label, *hidden_bytes(run, seed, train_text, held_out, metrics))]


def hidden_bytes(
    name: str, seed: int, train_text: bytes, held_out: texts.MaskedBytes, metrics: Row
) -> tuple[str, float, Row, Row]:
    """The loss at [MASK] only: other target bytes are visible and could be copied."""
    model, total, count = kit.load(directory(name, seed)), 0.0, 0
    for batch in DataLoader(held_out, batch_size=100):
        ids, targets = batch["inputs"]["text"], batch["targets"]["text"]
        targets[ids != kit.ByteTokenizer.mask_id] = texts.IGNORED
        with torch.no_grad():
            logits = model(ids)["text"]
        total += F.cross_entropy(rearrange(logits, "b n c -> b c n"), targets, reduction="sum").item()
        count += int((targets != texts.IGNORED).sum())
    return "nats a hidden byte", total / count, metrics, texts.byte_baselines(train_text, held_out)


def reviews_pretraining(seed: int) -> list[Row]:
    parts = ["\n".join(part.texts).encode() for part in corpora.review_texts()]
    train_set, held_out = (
        texts.MaskedBytes(part, length=REVIEW["max_length"], seed=seed, visible_target_prob=1.0) for part in parts
    )
    (recipe,) = recipes_for("bible")
    task = Task("reviews", train_set, held_out, REVIEW, corpora.REVIEWS_SOURCE)
    metrics = train("reviews_pretraining", recipe, task, steps=3500, seed=seed)
    label = f"masked bytes of reviews, `{recipe}`"
    return [row(label, *hidden_bytes("reviews_pretraining", seed, parts[0], held_out, metrics))]


def reviews(how: str, seed: int) -> list[Row]:
    def load_encoder(model: nn.Module) -> None:
        source = kit.load(directory("reviews_pretraining", seed)).state_dict()
        encoder = {name: tensor for name, tensor in source.items() if name.startswith(("inputs.", "encoder."))}
        if model.load_state_dict(encoder, strict=False).unexpected_keys:
            raise SystemExit("reviews_pretrained: the encoder of reviews_pretraining differs from this model's")

    (recipe,) = recipes_for("reviews")
    name: str
    options: dict[str, Any]
    name, options = (
        ("reviews_scratch", {}) if how == "from scratch" else ("reviews_pretrained", {"prepare": load_encoder})
    )
    task = opened(recipe, "reviews", seed=seed, **REVIEW)
    metrics = train(name, recipe, task, parameters=dict(dropout=0.1, **REVIEW), seed=seed, **options)
    label, baselines = f"review sentiment {how}, `{recipe}`", word_baselines(REVIEW["max_length"])
    return [row(label, "accuracy", "accuracy", metrics, baselines, samples=len(task.held_out))]


def whole_reviews(preset: str, seed: int) -> list[Row]:
    """Sentiment of whole reviews, for presets that read them."""
    (recipe,), (run, said) = recipes_for("reviews"), named("reviews", preset)
    task = opened(recipe, "reviews", preset, seed=seed)
    metrics = train(run, recipe, task, preset=preset, seed=seed)
    words = {"TF-IDF + logistic regression": word_baselines(2048)["TF-IDF + logistic regression"]}
    label = f"sentiment of whole reviews, `{recipe}`{said}"
    return [row(label, "accuracy", "accuracy", metrics, words, samples=len(task.held_out))]


@functools.cache
def word_baselines(length: int) -> dict[str, float]:
    """TF-IDF + logistic regression on whole reviews, and on the bytes that the model reads."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    scores = {}
    for name, stop in (("TF-IDF + logistic regression", None), (f"the same of {length} bytes", length - 2)):
        train_part, held_out = (
            ([text.encode()[:stop].decode(errors="ignore") for text in part.texts], part.labels)
            for part in corpora.review_texts()
        )
        model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000)).fit(*train_part)
        scores[name] = float(model.score(*held_out))
    return scores


RUNS = {
    "masked_bytes": Run(functools.partial(masked_bytes, "tiny")),
    "reviews_pretraining": Run(reviews_pretraining),
    "reviews_scratch": Run(functools.partial(reviews, "from scratch")),
    "reviews_pretrained": Run(functools.partial(reviews, "after masked pre-training")),
    "masked_bytes_quick": Run(functools.partial(masked_bytes, "quick")),
    "masked_bytes_small": Run(functools.partial(masked_bytes, "quick", small=True)),
    "reviews_quick": Run(functools.partial(whole_reviews, "quick"), seeds=(0, 1, 2)),
}
