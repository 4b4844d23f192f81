"""`make results`: train on real data for about five minutes a run, beside a baseline, and write docs/results.md.

Each run is a process of its own with a fixed seed and number of steps. What has finished in `results/` is not run
again and what was interrupted goes on, so the command can be stopped at any time. `RUNS="mnist_conv flow"` picks some.
The rows of all runs, of now and of earlier, are in docs/results.json, of which the page is made; `RUNS=--page` makes
it without running anything.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import perceiver_kit as kit
from benchmarks.tasks import traits
from perceiver_kit.data import corpora, texts, warps
from perceiver_kit.data.tasks import Task, open_task
from perceiver_kit.objectives import Classification
from perceiver_kit.recipe import objective_for
from perceiver_kit.registry import find
from perceiver_kit.training import Data, Training, fit
from perceiver_kit.training.recipe import large_outputs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PAGE, ROWS = ROOT / "docs" / "results.md", ROOT / "docs" / "results.json"
SEED = 0

Row = dict[str, Any]


def train(name: str, model: nn.Module, task: Task, objective: Any, *, steps: int, batch: int, **options: Any) -> Row:
    """One run: the held-out metrics of the last step, and what it took."""
    training = Training(
        model,  # type: ignore[arg-type]
        objective,
        steps=steps,
        warmup=steps // 20,
        seed=SEED,
        queries=large_outputs(model),  # type: ignore[arg-type]
        **options,
    )
    data = Data(task.train, task.held_out, batch=batch, steps=steps, seed=SEED, held_out_batch=50)
    resume = (RESULTS / name / "checkpoints" / "last.ckpt").exists()
    start, used = time.time(), time.process_time()
    metrics = fit(training, data, RESULTS / name, save_every=100, resume=resume)
    return metrics | {
        "seconds": time.time() - start,
        "processor_seconds": time.process_time() - used,
        "steps": steps,
        "batch": batch,
        "threads": torch.get_num_threads(),
    }


def run(name: str, recipe: str, source: str, *, steps: int, batch: int, objective: Any = None, **options: Any) -> Row:
    """A tiny recipe on data by name."""
    parameters = options.pop("parameters", {})
    task = open_task(source, recipe=recipe, preset="tiny", seed=SEED, **options.pop("data", {}))
    torch.manual_seed(SEED)
    model = kit.build(recipe, preset="tiny", **(dict(task.overrides) | parameters))
    return train(name, model, task, objective or objective_for(recipe), steps=steps, batch=batch, **options)


def recipes_for(data: str) -> list[str]:
    """Recipes that declare this sample data."""
    return [name for name in kit.list() if data in find("recipes", name).data]


def settings(recipe: str) -> dict[str, Any]:
    """What the recipe declares to work for its tiny preset."""
    return dict(find("recipes", recipe).training)


def row(task: str, metric: str, ours: float, metrics: Row, baselines: dict[str, float]) -> Row:
    took = {key: metrics[key] for key in ("seconds", "processor_seconds", "steps", "batch", "threads")}
    return {"task": task, "metric": metric, "ours": ours, "baselines": baselines} | took


def mnist(recipe: str) -> list[Row]:
    smooth = Classification(label_smoothing=0.1)
    metrics = run(f"mnist_{recipe}", recipe, "mnist", objective=smooth, **settings(recipe))
    return [row(f"MNIST-5k, `{recipe}`", "accuracy", metrics["accuracy"], metrics, {"logistic regression": _pixels()})]


def _pixels() -> float:
    from sklearn.linear_model import LogisticRegression

    task = open_task("mnist", recipe=recipes_for("mnist")[0], preset="tiny")
    train_set, held_out = task.train, task.held_out
    pixels = [part.pixels.flatten(1).numpy() / 255 for part in (train_set, held_out)]  # type: ignore[attr-defined]
    model = LogisticRegression(max_iter=200).fit(pixels[0], train_set.labels.numpy())  # type: ignore[attr-defined]
    return float(model.score(pixels[1], held_out.labels.numpy()))  # type: ignore[attr-defined]


BYTES = dict(max_length=64)


def masked_bytes() -> list[Row]:
    (recipe,) = recipes_for("bible")
    metrics = run("masked_bytes", recipe, "bible", data=BYTES, **settings(recipe))
    train_text, held_out_text = corpora.bible_text()
    held_out = texts.MaskedBytes(held_out_text, length=BYTES["max_length"], seed=SEED)
    return [row(f"masked bytes of the Bible, `{recipe}`", *_hidden("masked_bytes", train_text, held_out, metrics))]


def _hidden(name: str, train_text: bytes, held_out: texts.MaskedBytes, metrics: Row) -> tuple[str, float, Row, Row]:
    """The loss where [MASK] stands, without the bytes that are asked for but in sight: those can be copied."""
    model, total, count = kit.load(RESULTS / name), 0.0, 0
    for batch in DataLoader(held_out, batch_size=100):
        ids, targets = batch["inputs"]["text"], batch["targets"]["text"]
        targets[ids != kit.ByteTokenizer.mask_id] = texts.IGNORED
        with torch.no_grad():
            logits = model(ids)["text"]
        total += F.cross_entropy(logits.transpose(1, 2), targets, reduction="sum").item()
        count += int((targets != texts.IGNORED).sum())
    return "nats a hidden byte", total / count, metrics, texts.byte_baselines(train_text, held_out)


REVIEW = dict(max_length=128)


def reviews_pretraining() -> list[Row]:
    parts = ["\n".join(part.texts).encode() for part in corpora.review_texts()]
    train_set, held_out = (
        texts.MaskedBytes(part, length=REVIEW["max_length"], seed=SEED, visible_target_prob=1.0) for part in parts
    )
    (recipe,) = recipes_for("bible")
    task = Task("reviews", train_set, held_out, REVIEW, corpora.REVIEWS_SOURCE)
    model = kit.build(recipe, preset="tiny", **REVIEW)
    metrics = train("reviews_pretraining", model, task, objective_for(recipe), **settings(recipe))
    label = f"masked bytes of reviews, `{recipe}`"
    return [row(label, *_hidden("reviews_pretraining", parts[0], held_out, metrics))]


def reviews(pretrained: bool) -> list[Row]:
    (recipe,) = recipes_for("reviews")
    task = open_task("reviews", recipe=recipe, preset="tiny", seed=SEED, **REVIEW)
    model = kit.build(recipe, preset="tiny", dropout=0.1, **REVIEW)
    if pretrained:
        source = kit.load(RESULTS / "reviews_pretraining").state_dict()
        kept = {name: tensor for name, tensor in source.items() if name.startswith(("inputs.", "encoder."))}
        if model.load_state_dict(kept, strict=False).unexpected_keys:
            raise SystemExit("the pre-trained model is not this model's encoder")
    name = "reviews_pretrained" if pretrained else "reviews_scratch"
    metrics = train(name, model, task, Classification(), **settings(recipe))
    how = "after masked pre-training" if pretrained else "from scratch"
    label = f"review sentiment {how}, `{recipe}`"
    return [row(label, "accuracy", metrics["accuracy"], metrics, _words(REVIEW["max_length"]))]


def _words(length: int) -> dict[str, float]:
    """TF-IDF + logistic regression of whole reviews, and of what our model has of them."""
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


def flow() -> list[Row]:
    (recipe,) = recipes_for("flow")
    metrics = run("flow", recipe, "flow", **settings(recipe))
    task = open_task("flow", recipe=recipe, preset="tiny", seed=SEED)
    mean = torch.stack([task.train[i]["targets"]["flow"] for i in range(200)]).mean(0).mean((1, 2))
    warped = _flow_errors([task.held_out[i]["targets"] for i in range(len(task.held_out))], mean)  # type: ignore[arg-type]
    rows = [row(f"flow of warped photos, `{recipe}`", "end-point error, pixels", metrics["epe"], metrics, warped)]
    pair = warps.middlebury(scale=0.125)
    with torch.no_grad():
        predicted = kit.load(RESULTS / "flow")(pair["inputs"]["frames"][None])["flow"][0]
    error = _end_point(predicted, pair["targets"]["flow"], pair["targets"]["valid"])
    label = f"flow of the Middlebury pair at 1/8 (never trained on), `{recipe}`"
    return [*rows, row(label, "end-point error, pixels", error, metrics, _flow_errors([pair["targets"]], mean))]


def _end_point(predicted: Tensor, target: Tensor, valid: Tensor) -> float:
    return float((predicted - target).norm(dim=0)[valid].mean())


def _flow_errors(targets: Iterable[dict[str, Tensor]], mean: Tensor) -> dict[str, float]:
    """Zero flow, and the mean flow of training, over all valid pixels."""
    errors: dict[str, list[Tensor]] = {"zero flow": [], "mean flow of training": []}
    for target in targets:
        for name, guess in zip(errors, (torch.zeros(2), mean), strict=True):
            errors[name].append((guess[:, None, None] - target["flow"]).norm(dim=0)[target["valid"]])
    return {name: float(torch.cat(parts).mean()) for name, parts in errors.items()}


def clip() -> list[Row]:
    (recipe,) = recipes_for("clip")
    metrics = run("clip", recipe, "clip", **settings(recipe))
    task = open_task("clip", recipe=recipe, preset="tiny", seed=SEED)
    train_set, held_out = ([part[i]["targets"] for i in range(len(part))] for part in (task.train, task.held_out))  # type: ignore[arg-type]
    mean = torch.stack([target["image"] for target in train_set]).mean((0, 1))
    images, sound = (torch.stack([target[name] for target in held_out]) for name in ("image", "audio"))
    chance = 1 / len(task.classes)
    name = f"`{recipe}`"
    return [
        row(
            f"video windows, {name}",
            "image PSNR",
            metrics["image_psnr"],
            metrics,
            {"mean frame": _psnr(images - mean)},
        ),
        row(f"their sound, {name}", "audio PSNR", metrics["audio_psnr"], metrics, {"silence": _psnr(sound)}),
        row(f"their part of the clip, {name}", "accuracy", metrics["label_accuracy"], metrics, {"chance": chance}),
    ]


def _psnr(error: Tensor) -> float:
    return 10 * math.log10(4 / float(error.square().mean()))


def initialisation() -> list[Row]:
    """Fan-in scaling against a normal of 0.02 for every weight, at equal steps."""
    rows = []
    steps = 400
    recipe = next(name for name in recipes_for("mnist") if traits(name).pixels)
    task = open_task("mnist", recipe=recipe, preset="tiny", seed=SEED)
    for how in ("fan-in", "normal 0.02"):
        torch.manual_seed(SEED)
        model = kit.build(recipe, preset="tiny", num_labels=10)
        for module in model.modules():
            if how == "normal 0.02" and isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
        name = f"initialisation_{how.replace(' ', '_')}"
        metrics = train(name, model, task, Classification(), steps=steps, batch=64, rate=2e-3)
        label = f"initialisation by {how}, MNIST-5k, `{recipe}`"
        rows.append(row(label, "accuracy", metrics["accuracy"], metrics, {"chance": 0.1}))
    return rows


RUNS: dict[str, Callable[[], list[Row]]] = {
    **{f"mnist_{recipe}": functools.partial(mnist, recipe) for recipe in recipes_for("mnist")},
    "masked_bytes": masked_bytes,
    "reviews_pretraining": reviews_pretraining,
    "reviews_scratch": lambda: reviews(pretrained=False),
    "reviews_pretrained": lambda: reviews(pretrained=True),
    "flow": flow,
    "clip": clip,
    "initialisation": initialisation,
}


def merged(earlier: list[Row], new: list[Row]) -> list[Row]:
    """All rows in the order of RUNS; those of a run that was made again replace all of its earlier ones."""
    again = {entry["run"] for entry in new}
    rows = [entry for entry in earlier if entry["run"] in RUNS and entry["run"] not in again] + new
    return sorted(rows, key=lambda entry: [*RUNS].index(entry["run"]))


def page(rows: list[Row]) -> str:
    """The page docs/results.md."""
    lines = [
        "# Results",
        "",
        "What the tiny presets learn from real data in a few minutes on a processor, measured on held-out data beside",
        f"baselines. `make results` trains them again, with seed {SEED} and the steps and batches below, and writes",
        "this page. Accuracy and PSNR (dB): higher is better. Nats and pixels: lower is better. Minutes are those of",
        "training with its evaluation, on as many threads as stand in brackets. The machine was busy with other work:",
        "processor minutes, where they were measured, are what a run has used of it, on all threads together. Bold is",
        "what our model reaches, better or worse than a baseline. Counts of bytes (unigram, bigram, neighbours) see",
        "the true bytes beside a hidden one, which the model sees only where they are not hidden too.",
        "",
        "| task | metric | ours | baselines | steps × batch | minutes (threads) | processor minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in rows:
        used = f"{entry['processor_seconds'] / 60:.1f}" if "processor_seconds" in entry else "–"
        baselines = ", ".join(f"{name} {value:.3f}" for name, value in entry["baselines"].items())
        lines.append(
            f"| {entry['task']} | {entry['metric']} | **{entry['ours']:.3f}** | {baselines} "
            f"| {entry['steps']} × {entry['batch']} | {entry['seconds'] / 60:.1f} ({entry['threads']}) | {used} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", help=f"some of: {', '.join(RUNS)}")
    parser.add_argument("--page", action="store_true", help="run nothing, only make the page again")
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
            subprocess.run([sys.executable, __file__, "--only", name], check=True, env=os.environ)
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
