"""`make results`: train on real data for about five minutes a run, beside a baseline, and write docs/results.md.

Each run is a process of its own with a fixed seed and number of steps. `results/` holds finished runs, which are
skipped, and interrupted ones, which are resumed. `RUNS="flow clip"` picks some. docs/results.json keeps the rows of
all runs, earlier ones included; `RUNS=--page` only rewrites the page from it.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.utils.data import DataLoader

import perceiver_kit as kit
from perceiver_kit.data import corpora, texts, warps
from perceiver_kit.data.tasks import Task, open_task
from perceiver_kit.demo import psnr
from perceiver_kit.objectives import Classification
from perceiver_kit.recipe import objective_for
from perceiver_kit.registry import find
from perceiver_kit.training import Data, Training, fit
from perceiver_kit.training.recipe import large_outputs

from .tasks import traits

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PAGE, ROWS = ROOT / "docs" / "results.md", ROOT / "docs" / "results.json"
SEED = 0
COSTS = ("seconds", "processor_seconds", "steps", "batch", "threads")

Row = dict[str, Any]


def train(
    name: str,
    recipe: str,
    task: Task,
    *,
    preset: str = "tiny",
    objective: Any = None,
    parameters: dict[str, Any] | None = None,
    prepare: Callable[[nn.Module], None] = lambda model: None,
    **settings: Any,
) -> Row:
    """Train a preset with the recipe's settings for it; returns the last held-out metrics and the cost."""
    options = find("recipes", recipe).settings(preset) | settings
    steps, batch = options.pop("steps"), options.pop("batch")
    torch.manual_seed(SEED)
    model = kit.build(recipe, preset=preset, **(dict(task.overrides) | (parameters or {})))
    prepare(model)
    training = Training(
        model,
        objective or objective_for(recipe),
        steps=steps,
        warmup=steps // 20,
        seed=SEED,
        queries=large_outputs(model),
        **options,
    )
    data = Data(task.train, task.held_out, batch=batch, steps=steps, seed=SEED, held_out_batch=50)
    resume = (RESULTS / name / "checkpoints" / "last.ckpt").exists()
    start, cpu_start = time.time(), time.process_time()
    metrics = fit(training, data, RESULTS / name, save_every=100, resume=resume)
    cost = (time.time() - start, time.process_time() - cpu_start, steps, batch, torch.get_num_threads())
    return metrics | dict(zip(COSTS, cost, strict=True))


def opened(recipe: str, data: str, preset: str = "tiny", **options: Any) -> Task:
    return open_task(data, recipe=recipe, preset=preset, seed=SEED, **options)


def named(run: str, preset: str) -> tuple[str, str]:
    """The name of a run, and what its row says of the preset."""
    return (run, "") if preset == "tiny" else (f"{run}_{preset}", f", preset `{preset}`")


def recipes_for(data: str) -> list[str]:
    """Recipes that declare this sample data."""
    return [name for name in kit.list() if data in find("recipes", name).data]


def row(task: str, metric: str, ours: float, metrics: Row, baselines: dict[str, float]) -> Row:
    return {"task": task, "metric": metric, "ours": ours, "baselines": baselines} | {key: metrics[key] for key in COSTS}


def mnist(recipe: str) -> list[Row]:
    from sklearn.linear_model import LogisticRegression

    task = opened(recipe, "mnist")
    metrics = train(f"mnist_{recipe}", recipe, task, objective=Classification(label_smoothing=0.1))
    (x, y), held_out = (
        (rearrange(part.pixels, "n ... -> n (...)").numpy() / 255, part.labels.numpy())
        for part in (task.train, task.held_out)
    )
    baseline = float(LogisticRegression(max_iter=200).fit(x, y).score(*held_out))
    return [row(f"MNIST-5k, `{recipe}`", "accuracy", metrics["accuracy"], metrics, {"logistic regression": baseline})]


def masked_bytes(preset: str = "tiny") -> list[Row]:
    run, said = named("masked_bytes", preset)
    (recipe,), length = recipes_for("bible"), 64
    metrics = train(run, recipe, opened(recipe, "bible", preset, max_length=length), preset=preset)
    train_text, held_out_text = corpora.bible_text()
    held_out = texts.MaskedBytes(held_out_text, length=length, seed=SEED)
    return [row(f"masked bytes of the Bible, `{recipe}`{said}", *hidden_bytes(run, train_text, held_out, metrics))]


def hidden_bytes(
    name: str, train_text: bytes, held_out: texts.MaskedBytes, metrics: Row
) -> tuple[str, float, Row, Row]:
    """The loss at [MASK] only: other target bytes are visible and could be copied."""
    model, total, count = kit.load(RESULTS / name), 0.0, 0
    for batch in DataLoader(held_out, batch_size=100):
        ids, targets = batch["inputs"]["text"], batch["targets"]["text"]
        targets[ids != kit.ByteTokenizer.mask_id] = texts.IGNORED
        with torch.no_grad():
            logits = model(ids)["text"]
        total += F.cross_entropy(rearrange(logits, "b n c -> b c n"), targets, reduction="sum").item()
        count += int((targets != texts.IGNORED).sum())
    return "nats a hidden byte", total / count, metrics, texts.byte_baselines(train_text, held_out)


REVIEW: dict[str, Any] = dict(max_length=128)


def reviews_pretraining() -> list[Row]:
    parts = ["\n".join(part.texts).encode() for part in corpora.review_texts()]
    train_set, held_out = (
        texts.MaskedBytes(part, length=REVIEW["max_length"], seed=SEED, visible_target_prob=1.0) for part in parts
    )
    (recipe,) = recipes_for("bible")
    task = Task("reviews", train_set, held_out, REVIEW, corpora.REVIEWS_SOURCE)
    metrics = train("reviews_pretraining", recipe, task, steps=3500)
    label = f"masked bytes of reviews, `{recipe}`"
    return [row(label, *hidden_bytes("reviews_pretraining", parts[0], held_out, metrics))]


def reviews(how: str) -> list[Row]:
    def load_encoder(model: nn.Module) -> None:
        source = kit.load(RESULTS / "reviews_pretraining").state_dict()
        encoder = {name: tensor for name, tensor in source.items() if name.startswith(("inputs.", "encoder."))}
        if model.load_state_dict(encoder, strict=False).unexpected_keys:
            raise SystemExit("reviews_pretrained: the encoder of reviews_pretraining differs from this model's")

    (recipe,) = recipes_for("reviews")
    name: str
    options: dict[str, Any]
    name, options = (
        ("reviews_scratch", {}) if how == "from scratch" else ("reviews_pretrained", {"prepare": load_encoder})
    )
    task = opened(recipe, "reviews", **REVIEW)
    metrics = train(name, recipe, task, parameters=dict(dropout=0.1, **REVIEW), **options)
    label = f"review sentiment {how}, `{recipe}`"
    return [row(label, "accuracy", metrics["accuracy"], metrics, word_baselines(REVIEW["max_length"]))]


def whole_reviews(preset: str) -> list[Row]:
    """Sentiment of whole reviews, for presets that read them."""
    (recipe,), (run, said) = recipes_for("reviews"), named("reviews", preset)
    metrics = train(run, recipe, opened(recipe, "reviews", preset), preset=preset)
    words = {"TF-IDF + logistic regression": word_baselines(2048)["TF-IDF + logistic regression"]}
    return [row(f"sentiment of whole reviews, `{recipe}`{said}", "accuracy", metrics["accuracy"], metrics, words)]


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


def flow(preset: str = "tiny") -> list[Row]:
    run, said = named("flow", preset)
    (recipe,), metric = recipes_for("flow"), "end-point error, pixels"
    task = opened(recipe, "flow", preset)
    metrics = train(run, recipe, task, preset=preset)
    mean = reduce([task.train[i]["targets"]["flow"] for i in range(200)], "n c h w -> c", "mean")
    held_out = [task.held_out[i]["targets"] for i in range(len(task.held_out))]
    pair = warps.middlebury(scale=0.125)
    with torch.no_grad():
        predicted = kit.load(RESULTS / run)(pair["inputs"]["frames"][None])["flow"][0]
    error = float(flow_error(predicted, pair["targets"]).mean())
    unseen = f"flow of the Middlebury pair at 1/8 (never trained on), `{recipe}`{said}"
    return [
        row(
            f"flow of warped photos, `{recipe}`{said}", metric, metrics["epe"], metrics, flow_baselines(held_out, mean)
        ),
        row(unseen, metric, error, metrics, flow_baselines([pair["targets"]], mean)),
    ]


def flow_error(predicted: Tensor, target: dict[str, Tensor]) -> Tensor:
    return (predicted - target["flow"]).norm(dim=0)[target["valid"]]


def flow_baselines(targets: Iterable[dict[str, Tensor]], mean: Tensor) -> dict[str, float]:
    """Errors of zero flow and of the mean flow of training, over all valid pixels."""
    guesses = {"zero flow": torch.zeros(2, 1, 1), "mean flow of training": rearrange(mean, "c -> c 1 1")}
    return {
        name: float(torch.cat([flow_error(guess, target) for target in targets]).mean())
        for name, guess in guesses.items()
    }


def clip() -> list[Row]:
    (recipe,) = recipes_for("clip")
    task = opened(recipe, "clip")
    metrics = train("clip", recipe, task)
    train_set, held_out = ([part[i]["targets"] for i in range(len(part))] for part in (task.train, task.held_out))
    mean = reduce([target["image"] for target in train_set], "n t c h w -> c h w", "mean")
    images, sound = (torch.stack([target[name] for target in held_out]) for name in ("image", "audio"))
    return [
        row(f"{part}, `{recipe}`", name, metrics[key], metrics, baseline)
        for part, name, key, baseline in (
            ("video windows", "image PSNR", "image_psnr", {"mean frame": psnr(images - mean)}),
            ("their sound", "audio PSNR", "audio_psnr", {"silence": psnr(sound)}),
            ("their part of the clip", "accuracy", "label_accuracy", {"chance": 1 / len(task.classes)}),
        )
    ]


def initialisation() -> list[Row]:
    """Fan-in scaling against a normal of 0.02 for every linear weight, at equal steps."""

    def normal(model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    recipe = next(name for name in recipes_for("mnist") if traits(name).pixels)
    task, rows = opened(recipe, "mnist"), []
    for how, prepare in (("fan-in", lambda model: None), ("normal 0.02", normal)):
        name = f"initialisation_{how.replace(' ', '_')}"
        metrics = train(name, recipe, task, prepare=prepare, steps=400, batch=64, rate=2e-3)
        label = f"initialisation by {how}, MNIST-5k, `{recipe}`"
        rows.append(row(label, "accuracy", metrics["accuracy"], metrics, {"chance": 0.1}))
    return rows


RUNS: dict[str, Callable[[], list[Row]]] = {
    **{f"mnist_{recipe}": functools.partial(mnist, recipe) for recipe in recipes_for("mnist")},
    "masked_bytes": masked_bytes,
    "reviews_pretraining": reviews_pretraining,
    "reviews_scratch": functools.partial(reviews, "from scratch"),
    "reviews_pretrained": functools.partial(reviews, "after masked pre-training"),
    "flow": flow,
    "clip": clip,
    "masked_bytes_quick": functools.partial(masked_bytes, "quick"),
    "reviews_quick": functools.partial(whole_reviews, "quick"),
    "flow_quick": functools.partial(flow, "quick"),
    "initialisation": initialisation,
}


def merged(earlier: list[Row], new: list[Row]) -> list[Row]:
    """All rows in the order of RUNS; the new rows of a run replace all of its earlier ones."""
    rerun = {entry["run"] for entry in new}
    rows = [entry for entry in earlier if entry["run"] in RUNS and entry["run"] not in rerun] + new
    return sorted(rows, key=lambda entry: [*RUNS].index(entry["run"]))


INTRODUCTION = f"""\
# Results

What the presets `tiny` and, where a row says so, `quick` learn from real data in a few minutes on a CPU, measured on
held-out data beside baselines.
`make results` trains them with seed {SEED} and the steps and batches below, and writes this page. Accuracy and PSNR
(dB): higher is better. Nats and pixels: lower is better. Bold: our model. Minutes are wall-clock minutes of training
and evaluation, with the number of threads in brackets, on a machine shared with other work; processor minutes, where
measured, are summed over threads. Byte counts (unigram, bigram, neighbours) see the true bytes beside a hidden one; the
model sees them only where they are not hidden too.

| task | metric | ours | baselines | steps × batch | minutes (threads) | processor minutes |
|---|---|---|---|---|---|---|
"""


def page(rows: list[Row]) -> str:
    """The text of docs/results.md."""
    lines = []
    for entry in rows:
        used = f"{entry['processor_seconds'] / 60:.1f}" if "processor_seconds" in entry else "–"
        baselines = ", ".join(f"{name} {value:.3f}" for name, value in entry["baselines"].items())
        lines.append(
            f"| {entry['task']} | {entry['metric']} | **{entry['ours']:.3f}** | {baselines} "
            f"| {entry['steps']} × {entry['batch']} | {entry['seconds'] / 60:.1f} ({entry['threads']}) | {used} |"
        )
    return INTRODUCTION + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", help=f"some of: {', '.join(RUNS)}")
    parser.add_argument("--page", action="store_true", help="run nothing, only rewrite the page")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        warnings.filterwarnings("ignore")
        torch.manual_seed(SEED)
        rows = RUNS[arguments.only]()
        (RESULTS / f"{arguments.only}.json").write_text(json.dumps(rows, indent=1))
        return
    if unknown := set(arguments.runs) - set(RUNS):
        parser.error(f"no run {', '.join(unknown)}; there are: {', '.join(RUNS)}")
    RESULTS.mkdir(exist_ok=True)
    for name in () if arguments.page else arguments.runs or RUNS:
        if not (RESULTS / f"{name}.json").exists():
            print(f"\n{name}", flush=True)
            subprocess.run([sys.executable, "-m", "benchmarks.results", "--only", name], check=True, cwd=ROOT)
    new = []
    for name in RUNS:
        if (finished := RESULTS / f"{name}.json").exists():
            new += [{"run": name} | entry for entry in json.loads(finished.read_text())]
    rows = merged(json.loads(ROWS.read_text()), new)
    ROWS.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
