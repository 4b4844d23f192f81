"""Masked bytes, and sentiment of reviews."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils.data import DataLoader

import perceiver_kit as kit
from perceiver_kit.data import corpora, texts
from perceiver_kit.data.tasks import Task
from perceiver_kit.data.views import SpanViews, each_view
from perceiver_kit.objectives import Contrast
from perceiver_kit.outputs import Project, Rows
from perceiver_kit.queries import PooledQuery

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
    return hidden_bytes(label, run, seed, train_text, held_out, metrics)


def masked_reviews(seed: int) -> list[Row]:
    """The same preset on reviews."""
    (recipe,), (run, said), length = recipes_for("bible"), named("masked_reviews", "quick"), 128
    parts = ["\n".join(part.texts).encode() for part in corpora.review_texts()]
    train_set, held_out = (texts.MaskedBytes(part, length=length, seed=seed) for part in parts)
    task = Task("reviews", train_set, held_out, dict(max_length=length), corpora.REVIEWS_SOURCE)
    metrics = train(run, recipe, task, preset="quick", steps=1000, seed=seed)
    label = f"masked bytes of reviews, `{recipe}`{said}"
    return hidden_bytes(label, run, seed, parts[0], held_out, metrics)


def hidden_bytes(
    label: str, name: str, seed: int, train_text: bytes, held_out: texts.MaskedBytes, metrics: Row
) -> list[Row]:
    """The loss at [MASK] only: other target bytes are visible and could be copied.

    A second row decodes from the latents of another window: its distance says what the latents contribute.
    """
    model, totals, count = kit.load(directory(name, seed)), [0.0, 0.0], 0
    for batch in DataLoader(held_out, batch_size=100):
        ids, targets = batch["inputs"]["text"], batch["targets"]["text"]
        targets[ids != kit.ByteTokenizer.mask_id] = texts.IGNORED
        with torch.no_grad():
            own = model.encode(ids)
            others = replace(own, latents=own.latents.roll(1, 0))
            for which, encoded in enumerate((own, others)):
                logits = rearrange(model.decode(encoded)["text"], "b n c -> b c n")
                totals[which] += F.cross_entropy(logits, targets, reduction="sum").item()
        count += int((targets != texts.IGNORED).sum())
    nats, baselines = "nats a hidden byte", texts.byte_baselines(train_text, held_out)
    own_loss, others_loss = (total / count for total in totals)
    strangers = f"{label}, decoded from the latents of another window"
    return [
        row(label, nats, own_loss, metrics, baselines),
        row(strangers, nats, others_loss, metrics, {"from its own latents": own_loss}),
    ]


def reviews_pretraining(seed: int) -> list[Row]:
    parts = ["\n".join(part.texts).encode() for part in corpora.review_texts()]
    train_set, held_out = (
        texts.MaskedBytes(part, length=REVIEW["max_length"], seed=seed, visible_target_prob=1.0) for part in parts
    )
    (recipe,) = recipes_for("bible")
    task = Task("reviews", train_set, held_out, REVIEW, corpora.REVIEWS_SOURCE)
    metrics = train("reviews_pretraining", recipe, task, steps=3500, seed=seed)
    label = f"masked bytes of reviews, `{recipe}`"
    return hidden_bytes(label, "reviews_pretraining", seed, parts[0], held_out, metrics)


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


def few_labels(seed: int) -> list[Row]:
    """Contrast of spans without labels, then logistic regression on the frozen model from 200 labels."""
    (labelled, held_out), (recipe,) = corpora.review_texts(), recipes_for("reviews")
    views, others = (
        SpanViews(part, length=1024, seed=seed)
        for part in (labelled.texts + corpora.unlabelled_reviews(), held_out.texts[:500])
    )
    task = Task("review_views", views, others, {}, corpora.REVIEWS_SOURCE)
    options: dict[str, Any] = dict(steps=600, batch=64, collate=each_view, prepare=embedding_model, seed=seed)
    metrics = train("few_labels", recipe, task, preset="quick", objective=Contrast(), **options)
    model: Any = kit.load(directory("few_labels", seed))
    model.outputs = kit.Outputs(view=Rows(model.decoder.out_channels, size=(1,)))
    known, asked = (text_features(model, part.texts) for part in (labelled, held_out))
    mean, deviation = known.mean(0), known.std(0)
    ours = few_label_accuracy((known - mean) / deviation, (asked - mean) / deviation)
    label = f"sentiment of whole reviews from 200 labels after contrast of spans, `{recipe}` with a pooled query"
    return [row(label, "accuracy", ours, metrics, few_label_baselines(), samples=len(held_out.texts))]


def embedding_model(classifier: Any) -> kit.PerceiverIO:
    """The inputs and encoder of a text classifier with a pooled query and an embedding of 64 values."""
    channels, latent_dim = classifier.inputs.blocks["text"].content_channels, classifier.encoder.latent_dim
    return kit.PerceiverIO(
        classifier.inputs,
        classifier.encoder,
        kit.Queries(view=PooledQuery("text", content_channels=channels)),
        kit.Decoder(channels, latent_dim, heads=8, qk_channels=64, v_channels=64, query_residual=True),
        kit.Outputs(view=Project(64, in_channels=channels, size=(1,))),
    )


@torch.no_grad()
def text_features(model: Any, reviews: list[str]) -> np.ndarray:
    """The output ``view`` of each review, (n, c)."""
    batches = DataLoader(texts.Texts(reviews, [0] * len(reviews), length=2048), batch_size=50)
    rows = [model(batch["inputs"], mask=batch["mask"])["view"] for batch in batches]
    return rearrange(torch.cat(rows), "n 1 c -> n c").numpy()


def few_label_accuracy(known: Any, held_out: Any, *, count: int = 200, draws: int = 8, strength: float = 0.1) -> float:
    """Held-out accuracy of logistic regression on features from ``count`` labels, the mean over draws of them.

    The 4,000 training reviews come negative first, then positive; so do the 2,000 held-out ones.
    """
    from sklearn.linear_model import LogisticRegression

    (labels, wanted), scores = (part.labels for part in corpora.review_texts()), []
    labels = np.array(labels)
    for draw in range(draws):
        random = np.random.default_rng(draw)
        chosen = np.concatenate([random.permutation((labels == c).nonzero()[0])[: count // 2] for c in (0, 1)])
        model = LogisticRegression(C=strength, max_iter=1000).fit(known[chosen], labels[chosen])
        scores.append(model.score(held_out, wanted))
    return float(np.mean(scores))


@functools.cache
def few_label_baselines() -> dict[str, float]:
    """TF-IDF, and its leading singular vectors (LSA), of all reviews without labels, then the same few labels."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    labelled, held_out = corpora.review_texts()
    every = labelled.texts + corpora.unlabelled_reviews()
    words = TfidfVectorizer(min_df=3, sublinear_tf=True).fit(every)
    semantic = TruncatedSVD(100, random_state=0).fit(words.transform(every))
    parts = [words.transform(part.texts) for part in (labelled, held_out)]
    return {
        "TF-IDF + logistic regression": few_label_accuracy(*parts, strength=1.0),
        "LSA + logistic regression": few_label_accuracy(*map(semantic.transform, parts), strength=10.0),
    }


RUNS = {
    "masked_bytes": Run(functools.partial(masked_bytes, "tiny")),
    "reviews_pretraining": Run(reviews_pretraining),
    "reviews_scratch": Run(functools.partial(reviews, "from scratch")),
    "reviews_pretrained": Run(functools.partial(reviews, "after masked pre-training")),
    "masked_bytes_quick": Run(functools.partial(masked_bytes, "quick"), seeds=(0, 1, 2)),
    "masked_reviews_quick": Run(masked_reviews, seeds=(0, 1, 2)),
    "few_labels": Run(few_labels, seeds=(0, 1, 2)),
    "masked_bytes_small": Run(functools.partial(masked_bytes, "quick", small=True)),
    "reviews_quick": Run(functools.partial(whole_reviews, "quick"), seeds=(0, 1, 2)),
}
