"""Tags, answers, and several tasks on text."""

from __future__ import annotations

import functools
import statistics
from typing import Any

import perceiver_kit as kit
from perceiver_kit.data import cloze, glue, tags

from ..training import SMALL, Row, Run, directory, named, opened, recipes_for, row, train

QUICK: dict[str, Any] = dict(preset="quick")


def turkish_tags(seed: int, small: bool = False) -> list[Row]:
    (recipe,), (run, said) = recipes_for("treebank"), chosen("turkish_tags", small)
    task = opened(recipe, "treebank", "quick", seed=seed)
    metrics = train(run, recipe, task, seed=seed, parameters=SMALL if small else None, **QUICK)
    train_set, held_out = tags.treebank_texts()
    baseline = {"the word's most frequent tag": tags.tag_baseline(train_set, held_out)}
    samples = sum(len(sentence.tags) for sentence in held_out)
    label = f"parts of speech in Turkish, `{recipe}`{said}"
    return [row(label, "accuracy", "accuracy", metrics, baseline, samples=samples)]


def bible_cloze(seed: int, small: bool = False) -> list[Row]:
    """The names are compared as texts: an answer anywhere in the context counts."""
    (recipe,), (_, held_out) = recipes_for("bible_cloze"), cloze.cloze_questions()
    run, said = chosen("bible_cloze", small)
    task = opened(recipe, "bible_cloze", "quick", seed=seed)
    metrics = train(run, recipe, task, seed=seed, parameters=SMALL if small else None, **QUICK)
    model = kit.load(directory(run, seed))
    sources = [(one.question, one.context) for one in held_out]
    answers = kit.predict(model, sources, progress=False)
    right = statistics.mean(answer.best == one.texts[0] for answer, one in zip(answers, held_out, strict=True))
    label = f"missing names in the Bible (cloze), `{recipe}`{said}"
    return [row(label, "exact match", right, metrics, cloze.name_baselines(held_out), samples=len(held_out))]


def chosen(run: str, small: bool) -> tuple[str, str]:
    """The name of a run of ``quick``, and what its row says of the sizes."""
    return named(run, "quick", small=True) if small else (run, ", preset `quick`")


def several_tasks(seed: int) -> list[Row]:
    """One model for all tasks, beside the same model trained on each alone, with the same share of the steps."""
    (recipe,) = recipes_for("text_tasks")
    task = opened(recipe, "text_tasks", "quick", seed=seed)
    metrics = train("text_tasks", recipe, task, seed=seed, **QUICK)
    tasks, length = glue.sample_tasks(), task.overrides["max_length"]
    alone = {}
    for name in tasks:
        own = glue.mixed_task(name, {name: tasks[name]}, task.source, max_length=length, seed=seed)
        steps = round(metrics["steps"] * len(own.train) / len(task.train))  # type: ignore[arg-type]
        alone[name] = train(f"text_task_{name}", recipe, own, seed=seed, steps=steps, **QUICK)[f"{name}_accuracy"]
    label = f"`{recipe}`, preset `quick`, "
    mean = statistics.mean(metrics[f"{name}_accuracy"] for name in tasks)
    rows = [
        row(
            f"{label}mean of {len(tasks)} tasks",
            "accuracy",
            mean,
            metrics,
            {"each alone": statistics.mean(alone.values())},
        )
    ]
    for name in tasks:
        baselines = {"alone": alone[name], "TF-IDF + logistic regression": tfidf(tasks[name])}
        samples = len(tasks[name].held_out)
        rows.append(row(f"{label}{name}", "accuracy", f"{name}_accuracy", metrics, baselines, samples=samples))
    return rows


def tfidf(task: glue.TaskTexts) -> float:
    """Words and pairs of words, logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=500)
    )
    (texts, labels), held_out = (
        ([sample.text for sample in part], [sample.label for sample in part]) for part in (task.train, task.held_out)
    )
    return float(model.fit(texts, labels).score(*held_out))


RUNS = {
    "turkish_tags": Run(turkish_tags, seeds=(0, 1, 2)),
    "bible_cloze": Run(bible_cloze, seeds=(0, 1, 2)),
    "turkish_tags_small": Run(functools.partial(turkish_tags, small=True)),
    "bible_cloze_small": Run(functools.partial(bible_cloze, small=True)),
    "text_tasks": Run(several_tasks, seeds=(0, 1, 2)),
}
