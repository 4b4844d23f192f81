"""``perceiver-kit``: list, describe, draw, demo, train, evaluate, predict, generate, convert."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .errors import InputError, PerceiverKitError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. An error of the kit is one line on stderr, with exit code 2.

    ``predict`` gives 1 where some sources could not be read.

    >>> main(["list", "positions"])
    Fourier
    Learned
    Projected
    Sinusoidal
    0
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options) or 0
    except BrokenPipeError:  # the reader of the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that Python can flush at exit
        return 0
    except (PerceiverKitError, OSError) as error:  # OSError: a path that cannot be read or written
        print(f"perceiver-kit: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("perceiver-kit: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="perceiver-kit", description="A composable Perceiver IO research kit.")
    parser.add_argument("--version", action="version", version=f"perceiver-kit {version('perceiver-kit')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    source = "a trained model: zoo:NAME, a directory of the kit or of Hugging Face, or the hub's id of a Perceiver"
    added = command("list", _list, "name the recipes, the trained models (zoo), or the blocks of a kind")
    help_ = "recipes (the default), a pattern of them such as '*image*', or zoo, inputs, positions, outputs, …"
    added.add_argument("kind", nargs="?", default="recipes", help=help_)

    preset = "base (published size, the default), tiny (the same, small), or quick (changed to learn fast)"
    added = command("describe", _describe, "show a recipe stage by stage, with the source of each number")
    added.add_argument(
        "name", help="a recipe, a block such as inputs.Patches, a trained model such as zoo:digits, or a directory"
    )
    added.add_argument("--preset", help=preset)

    added = command("draw", _draw, "draw the data flow of a recipe, with its shapes, as SVG")
    added.add_argument("name", help="a recipe")
    added.add_argument("--preset", help=preset)
    added.add_argument("--out", type=Path, help="the file (NAME.svg)")

    added = command("demo", _demo, "train a small model on a clip of video and sound, and show what it learned")
    added.add_argument("recipe", nargs="?", help="which recipe's demo (the first that has one)")
    added.add_argument("--seconds", type=float, default=60.0, help="processor seconds of training (60)")
    added.add_argument("--out", type=Path, default=Path("demo"), help="where the picture goes (./demo)")
    added.add_argument("--clip", type=Path, help="a video of your own instead of the sample clip")
    added.add_argument("--seed", type=int, default=0)

    added = command("train", _train, "train a recipe, or the model of a spec, on real data")
    added.add_argument("recipe", help="a recipe, or a spec.json")
    text = "sample data that the recipe declares, or a path (unknown names are answered with the known ones)"
    added.add_argument("--data", required=True, metavar="NAME|PATH", help=text)
    added.add_argument("--preset", default="tiny", help="tiny (the default), quick or base")
    added.add_argument("--out", type=Path, help="directory of the run (./runs/RECIPE)")
    help_ = "take the weights of this saved model where they fit; a warning names the new ones"
    added.add_argument("--from", dest="start", type=Path, metavar="PATH", help=help_)
    added.add_argument("--num-labels", type=int, help="number of classes (that of the data)")
    help_ = "parameters of the recipe, such as image_size=64 or image_size=[48,64]"
    added.add_argument("--set", nargs="+", action="extend", type=_parameter, metavar="NAME=VALUE", help=help_)
    added.add_argument(
        "--freeze", nargs="+", action="extend", metavar="STAGE", help="stages that are not trained: inputs, encoder, …"
    )
    help_ = "factors of the rate by stage, such as encoder=0.1"
    added.add_argument("--rates", nargs="+", action="extend", type=_factor, metavar="STAGE=FACTOR", help=help_)
    added.add_argument("--objective", help="of a spec with one output (chosen from the output)")
    help_ = "change training pictures at random, as published: crop, flip, randaugment, mixup, cutmix, or all"
    added.add_argument("--augment", nargs="+", action="extend", metavar="NAME", help=help_)
    added.add_argument("--steps", type=int, help="steps of training (the recipe's own)")
    added.add_argument("--batch", type=int, help="samples of a step, over all processes (the recipe's own)")
    added.add_argument("--rate", type=float, help="highest learning rate (the recipe's own)")
    added.add_argument("--optimizer", choices=("adamw", "lamb", "muon"))
    added.add_argument("--muon-rate", type=float, help="highest rate of Muon's matrices (0.02)")
    added.add_argument("--schedule", choices=("cosine", "constant_then_cosine"))
    added.add_argument("--seed", type=int, default=0)
    added.add_argument("--workers", type=int, default=0, help="processes that read data")
    added.add_argument("--precision", default="32-true", help="Lightning's: 32-true, bf16-mixed, bf16-true")
    added.add_argument("--accumulate", type=int, default=1, help="batches whose gradients are added up")
    added.add_argument("--ema", type=float, help="keep an average of the weights with this decay")
    added.add_argument("--save-every", type=int, default=200, help="steps between checkpoints")
    added.add_argument("--validate-every", type=int, help="steps between looks at held-out data (only at the end)")
    added.add_argument("--checkpoint-activations", action="store_true", help="less memory, more time")
    added.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")

    added = command("evaluate", _evaluate, "measure a trained model on held-out data, or on a benchmark's files")
    added.add_argument("model", help=f"{source}; or a recipe trained into ./runs")
    text = "as for train, or a benchmark's folder, such as sintel:PATH and kitti:PATH"
    added.add_argument("--data", required=True, metavar="NAME|PATH", help=text)
    added.add_argument("--batch", type=int, default=1, help="samples that the model reads at once (1)")
    added.add_argument("--seed", type=int, default=0)
    added.add_argument("--device", default="cpu", help="cpu (the default), cuda, …")

    added = command("predict", _predict, "answer for files, folders or texts, with names for the classes")
    added.add_argument("model", help=source)
    text = "files and folders, or texts for a model on text; two an answer for flow (pictures) and questions (contexts)"
    added.add_argument("source", nargs="+", help=text)
    text = "write answers.jsonl, pictures of flow, and decoded videos and sounds there; nothing is replaced"
    added.add_argument("--out", type=Path, metavar="DIR", help=text)
    added.add_argument("--json", action="store_true", help="print an object a line instead of text")
    added.add_argument("--batch", type=int, help="sources that the model reads at once (the model's own)")
    added.add_argument("--device", default="cpu", help="cpu (the default), cuda, …")

    added = command("generate", _generate, "continue a text with a causal model")
    added.add_argument("model", help=source)
    added.add_argument("prompt", help="the text to continue")
    added.add_argument("--length", type=int, default=200, help="new tokens (200)")
    added.add_argument("--temperature", type=float, default=1.0, help="0: the likeliest token (1)")
    added.add_argument("--top-k", type=int, help="sample from so many of the likeliest")
    added.add_argument("--top-p", type=float, help="sample from the likeliest with this probability together")
    added.add_argument("--repetition-penalty", type=float, default=1.0)
    added.add_argument("--stop", type=int, nargs="*", default=(), help="ids that end the text")
    added.add_argument("--seed", type=int)
    added.add_argument(
        "--policy", default="refill", help="when the cache is full: recompute, refill (the default), roll"
    )
    added.add_argument("--free", type=int, help="latents that refill leaves free (half)")

    added = command("convert", _convert, "turn a checkpoint into the other format: Hugging Face's or the kit's")
    added.add_argument("source", help=source)
    added.add_argument("destination", type=Path, help="a directory")
    return parser


def _list(options: argparse.Namespace) -> None:
    from .registry import names

    print("\n".join(names(options.kind)))


def _describe(options: argparse.Namespace) -> None:
    from .hub import load
    from .hub.zoo import card, card_text, in_zoo
    from .specs import describe

    if in_zoo(options.name):
        print(card_text(card(options.name)), describe(load(options.name)), sep="\n\n")
    elif os.path.isdir(options.name):
        print(describe(load(options.name)))
    else:
        print(describe(options.name, preset=options.preset))


def _draw(options: argparse.Namespace) -> None:
    from torch import device

    from .diagrams import draw
    from .specs import build

    with device("meta"):  # nothing is allocated, whatever the size
        model = build(options.name, preset=options.preset)
    path = options.out or Path(f"{options.name}.svg")
    draw(model, path)
    print(path)


def _demo(options: argparse.Namespace) -> None:
    import torch

    from .declarations import resolve
    from .errors import UnknownName, nearest
    from .registry import find, names

    demos = {name: find("recipes", name).demo for name in names() if find("recipes", name).demo is not None}
    recipe = options.recipe or next(iter(demos))
    if recipe not in demos:
        raise UnknownName(f"no demo of {recipe!r}; {nearest(recipe, demos)}")
    # The model is small: on a busy machine, threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    resolve(demos[recipe])(
        recipe=recipe, clip=options.clip, directory=options.out, seconds=options.seconds, seed=options.seed
    )


def _train(options: argparse.Namespace) -> None:
    from .data.augmentation import Augmentation
    from .training import train_recipe

    directory = options.out or Path("runs") / Path(options.recipe).stem
    others = ("run", "recipe", "data", "out", "num_labels", "set")
    # None: the recipe's own setting, or the default.
    settings = {name: value for name, value in vars(options).items() if name not in others and value is not None}
    if options.recipe.endswith(".json") and (options.set or options.num_labels is not None):
        raise InputError("train: a spec has all parameters of its model; --set and --num-labels are for a recipe")
    settings["parameters"] = dict(options.set or ())
    if options.num_labels is not None:
        settings["parameters"]["num_labels"] = options.num_labels
    if options.augment is not None:
        settings["augment"] = Augmentation.named(*options.augment)
    if options.rates is not None:
        settings["rates"] = dict(options.rates)
    metrics = train_recipe(options.recipe, options.data, directory, **settings)
    print("\nheld out")
    _print_metrics(metrics)
    print(f"model, metrics.csv and curves.png are in {directory}; kit.load({str(directory)!r}) opens the model")


def _print_metrics(metrics: dict[str, float]) -> None:
    width = max(len(name) for name in metrics)
    for name, value in metrics.items():
        print(f"  {name:<{width}}  {value:.4f}")


def _evaluate(options: argparse.Namespace) -> None:
    from .evaluation import evaluate
    from .hub import load
    from .registry import names

    trained = Path("runs") / options.model  # where train leaves a recipe's model
    model = load(trained if options.model in names() else options.model, device=_device(options.device))
    metrics = evaluate(model, options.data, batch=options.batch, seed=options.seed, progress=sys.stderr.isatty())
    print(options.data)
    _print_metrics(metrics)


def _device(name: str) -> Any:
    import torch

    try:
        return torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device: {str(error).splitlines()[0]}") from None


def _factor(text: str) -> tuple[str, float]:
    """``"encoder=0.1"`` as a pair; argparse says what is wrong with another text."""
    stage, _, factor = text.partition("=")
    return stage, float(factor)


def _parameter(text: str) -> tuple[str, Any]:
    """``"image_size=[48,64]"`` as a name and a value. The value is JSON or, failing that, text."""
    import json

    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    return name, tuple(parsed) if isinstance(parsed, list) else parsed


def _predict(options: argparse.Namespace) -> int:
    import json
    import warnings

    from .checking import writing
    from .hub import load
    from .prediction import named_sources, predict
    from .processors.base import stem_of

    model = load(options.model, device=_device(options.device))
    skipped = done = 0

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        nonlocal skipped
        skipped += str(message).startswith("skipped ")
        print(f"perceiver-kit: {message}", file=sys.stderr)

    if options.out is not None:
        with writing("predict", options.out):
            options.out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        sources = named_sources(model, options.source)
        answers = predict(
            model, sources, batch=options.batch, on_error="skip", stream=True, progress=sys.stderr.isatty()
        )
        for answer in answers:
            done += 1
            line = answer.json()
            if options.out is not None:
                line["files"] = [str(path) for path in answer.write(options.out / stem_of(answer.source))]
                log = options.out / "answers.jsonl"
                with writing("predict", log), open(log, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
            print(json.dumps(line, ensure_ascii=False) if options.json else answer, flush=True)
    return 0 if not skipped else 1 if done else 2


def _generate(options: argparse.Namespace) -> None:
    from .generation import generate
    from .hub import load

    settings = {name: value for name, value in vars(options).items() if name not in ("run", "model", "prompt")}
    pieces = generate(load(options.model), options.prompt, stream=True, **settings)
    print(options.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _convert(options: argparse.Namespace) -> None:
    from .hub import load, save, to_huggingface
    from .hub.loading import is_ours
    from .hub.zoo import place

    if options.destination.exists() and (options.destination.is_file() or any(options.destination.iterdir())):
        raise InputError(f"{options.destination} is not an empty directory: choose another destination")
    model = load(options.source)
    directory = place(options.source)
    ours = directory.is_dir() and is_ours(directory)
    written = (to_huggingface if ours else save)(model, options.destination)
    print(f"{written} is in {'Hugging Face' if ours else 'the kit'}'s format")
