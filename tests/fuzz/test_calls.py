"""Wrong tensors, arguments and command lines."""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.cli import main

from ..strategies import RECIPES, raws, tiny
from .harness import fuzzed, json_of_any_kind, result_or_documented_error

DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool, torch.uint8]


def changed(rng: Random, value: Tensor) -> Any:
    """A tensor with another dtype, shape or content, or another object."""
    match rng.choice(["dtype", "shape", "rank", "content", "other", "same", "same"]):
        case "dtype":
            return value.to(rng.choice(DTYPES))
        case "shape":
            axis = rng.randrange(value.ndim)
            return value.narrow(axis, 0, rng.randrange(value.shape[axis] + 1))
        case "rank":
            return rng.choice([value[None], value.flatten(), value[..., None], value.reshape(-1)[0]])
        case "content" if value.is_floating_point():
            return value.clone().fill_(rng.choice([float("nan"), float("inf"), 1e38, -1e38, 0.0]))
        case "content":
            return value + rng.choice([-(2**40), 10**6, 1])
        case "other":
            return rng.choice([None, 3, "x", value.tolist() if value.numel() < 99 else [], value.numpy(), {}])
    return value


@fuzzed(share=2)
def test_wrong_inputs(rng: Random) -> None:
    model = tiny(rng.choice(RECIPES))
    given: dict = {name: changed(rng, value) for name, value in raws(model, rng.randint(1, 2)).items()}
    if rng.random() < 0.2:
        given[rng.choice(["image", "text", "", "typo"])] = torch.zeros(1, 3)
    if rng.random() < 0.2:
        given.pop(rng.choice([*given]))
    mask: Any = None
    if rng.random() < 0.5:
        mask = {name: rng.choice([torch.ones(1, 4), torch.zeros(1, 4).bool(), None, [True]]) for name in given}
    with result_or_documented_error(), torch.no_grad():
        for value in model(given, mask=mask).values():
            assert isinstance(value, Tensor)


@fuzzed(share=2)
def test_wrong_at_chunk_and_size(rng: Random) -> None:
    model = tiny(rng.choice(RECIPES))
    given = raws(model, 1)
    indices: list[Any] = [None, [0], 0, "x"]
    indices += [torch.tensor(index) for index in ([0], [-1], [[0, 10**9]], [0.5], [[0]], [True])]
    at = {rng.choice([*model.outputs.blocks, "typo"]): rng.choice(indices) for _ in range(rng.randint(0, 2))}
    chunk = rng.choice([None, None, 1 if rng.random() < 0.1 else 7, 0, -1, 1.5, "8", 10**12])
    size = rng.choice([None, None, {}, {"image": (1, 2)}, {"label": (3,)}, {"image": (0, 1, 1)}, [1], {"flow": "x"}])
    with result_or_documented_error(), torch.no_grad():
        model(given, at=rng.choice([at, at, None, 3]), chunk=chunk, size=size)


@fuzzed(share=2)
def test_parameters_of_recipes(rng: Random) -> None:
    name = rng.choice(RECIPES)
    parameters = kit.registry.find("recipes", name).parameters("tiny", {})
    overrides = {rng.choice([*parameters, "typo"]): json_of_any_kind(rng, 1) for _ in range(rng.randint(1, 2))}
    with result_or_documented_error(), torch.device("meta"):
        kit.build(name, preset=rng.choice(["tiny", "tiny", "base", "huge"]), **overrides)


WORDS = [
    "list", "describe", "train", "convert", "demo", "draw", "--help", "--preset", "--data", "--steps", "--out",
    "--seed", "--rate", "--batch", "--resume", "--clip", "--seconds", "inputs", "positions", "tiny", "base",
    "masked_lm", "mnist", "optical_flow", "inputs.Patches", "inputs.", ".x", "-1", "0", "1e9", "nan", "ünï", "--", "-x",
    "nowhere/at/all", "", "\0",
]  # fmt: skip


def run(words: list[str]) -> tuple[Any, str, str]:
    """The exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = main(words)
        except SystemExit as stop:  # argparse's, with its usage on stderr
            code = stop.code
    return code, out.getvalue(), err.getvalue()


@fuzzed(share=2)
def test_command_lines(rng: Random) -> None:
    """Training and the demo get one wrong option, so that they do not start."""
    words = [rng.choice(WORDS) for _ in range(rng.randint(0, 5))]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if words[:1] in (["train"], ["demo"]):
            words += ["--seconds", "-1"] if words[0] == "demo" else ["--steps", "0"]
        code, out, err = run(words)
        assert code in (0, 2)
        assert (out if code == 0 else err).strip()
        assert not [*Path(folder).rglob("*.ckpt")]


SOURCES = ["", ".", "..", "/", "\0", "a" * 300, "a/" + "b" * 300, "a/b\0", "/dev/null", "/dev/zero", "~", "\ud800"]
SOURCES += ["a\nb/c"]


@fuzzed()
def test_sources_of_models(rng: Random) -> None:
    """None of them is a model; no network is used and no device is read."""
    source: Any = rng.choice([*SOURCES, None, 3, b"bytes", Path("nowhere"), Path("/dev/zero"), ["a"]])
    if isinstance(source, str) and rng.random() < 0.3:
        source = rng.choice(SOURCES) + source
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), result_or_documented_error():
        kit.load(source, device=rng.choice(["cpu", "cpu", "meta"]))


NUMBERS = ["0", "1", "-1", "1e9", "nan", "inf", "-inf", "0.5", "9" * 400, "", "x", str(2**63), str(2**31)]
OPTIONS = ["--rate", "--batch", "--seed", "--accumulate", "--ema", "--save-every", "--validate-every", "--precision"]
WRONG = {
    "--optimizer": ["sgd", ""],
    "--schedule": ["cosine", "x"],
    "--precision": ["16-mixed", "64-true", "8", "bf16", ""],
}


@fuzzed(share=0.1)
def test_training_options(rng: Random) -> None:
    """One step on valid texts: it succeeds, or the error is one line."""
    preset, workers = rng.choice(["tiny", "tiny", "x"]), rng.choice(["0", "0", "-1", "x"])
    options = ["--steps", "1", "--preset", preset, "--workers", workers]
    for option in rng.sample([*OPTIONS, *WRONG], rng.randint(1, 3)):
        options += [option, rng.choice(WRONG.get(option, NUMBERS))]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number in range(4):
            Path(f"{number}.txt").write_text("In the beginning was the word. " * 20)
        code, _, err = run(["train", "masked_lm", "--data", ".", "--out", "run", *options])
        assert code in (0, 2)
        assert code == 0 or "perceiver-kit: " in err or "error: argument" in err
