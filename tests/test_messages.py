"""Errors name the argument, the expected and the actual value, and a hint: a sample of public calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import perceiver_kit as kit
from perceiver_kit import inputs, objectives, outputs, positions, queries
from perceiver_kit.data import images, sampling, texts, video, warps
from perceiver_kit.data.tasks import open_task


def lm() -> Any:
    return kit.build("masked_lm", preset="tiny")


def tracks() -> Any:
    return kit.inputs.Inputs(image=inputs.Patches((2, 2), channels=3), points=inputs.Features(2))


NAN = torch.tensor([0.0, float("nan")])
# A call and parts of its error: argument, expected, got, hint.
MESSAGES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "build": (lambda: kit.build("masked_ml"), ["no recipe 'masked_ml'", "did you mean 'masked_lm'", "There are: "]),
    "build, preset": (lambda: kit.build("masked_lm", preset="tinny"), ["preset 'tinny'", "'tiny'", "base, quick,"]),
    "build, keyword": (
        lambda: kit.build("masked_lm", latents=3),
        ["no parameter 'latents'", "There are: ", "num_latents"],
    ),
    "build, type": (lambda: kit.build(3), ["a recipe's name or a spec (a dict)", "got an int"]),
    "build, spec": (lambda: kit.build({"model": 3}), ['{"perceiver_kit": 1, "model": …}', "got keys ['model']"]),
    "describe": (
        lambda: kit.describe("inputs.Patch"),
        ["no input block 'Patch'", "did you mean 'Patches'", "There are: "],
    ),
    "list": (lambda: kit.list("input"), ["no kind 'input'", "did you mean 'inputs'", "There are: "]),
    "Encoder": (lambda: kit.Encoder(8, num_latents=0, latent_dim=8, layers=1), ["num_latents", "at least 1", "got 0"]),
    "Encoder, heads": (lambda: kit.Encoder(8, num_latents=2, latent_dim=9, layers=1), ["heads", "9"]),
    "unknown argument": (lambda: inputs.Features(3, axess=2), ["Features", "'axess'", "did you mean 'axes'"]),
    "Inputs": (lambda: kit.Inputs(image=3), ["Inputs: 'image'", "a block for inputs (Input)", "got int"]),
    "Fourier": (lambda: positions.Fourier(bands=-1, max_resolution=(2,)), ["Fourier: bands", "at least", "got -1"]),
    "Patches": (
        lambda: inputs.Patches((2, 2))(torch.zeros(1, 2, 4, 4), "image"),
        ["image", "(b, 3, h, w)", "(1, 2, 4, 4)"],
    ),
    "Patches, size": (
        lambda: inputs.Patches((2, 2))(torch.zeros(1, 3, 5, 4), "image"),
        ["image", "(1, 3, 5, 4)", "crop or pad"],
    ),
    "AudioPatches": (
        lambda: inputs.AudioPatches(4)(torch.zeros(1, 2, 8), "audio"),
        ["audio", "(b, samples)", "(1, 2, 8)", "mono"],
    ),
    "AudioPatches, dtype": (
        lambda: inputs.AudioPatches(4)(torch.zeros(1, 8).short(), "audio"),
        ["audio", "float", "int16 (1, 8)"],
    ),
    "AudioPatches, length": (
        lambda: inputs.AudioPatches(4)(torch.zeros(1, 9), "audio"),
        ["audio", "(1, 9)", "divisible by 4", "crop or pad"],
    ),
    "AudioPatches, empty": (
        lambda: inputs.AudioPatches(4)(torch.zeros(1, 0), "audio"),
        ["audio", "no elements along samples", "(1, 0)"],
    ),
    "TextTokens": (lambda: lm()(torch.zeros(1, 3)), ["text", "int64 (b, n)", "float32 (1, 3)", "ByteTokenizer"]),
    "TextTokens, ids": (lambda: lm()(torch.full((1, 3), 262)), ["text", "0 to 261", "262 to 262"]),
    "model, name": (lambda: lm()({"txt": torch.zeros(1, 3).long()}), ["inputs", "'txt'", "did you mean 'text'"]),
    "model, missing": (lambda: tracks()({"image": torch.zeros(1, 3, 4, 4)}), ["inputs lacks 'points'", "mask token"]),
    "model, batches": (
        lambda: tracks()({"image": torch.zeros(1, 3, 4, 4), "points": torch.zeros(2, 5, 2)}),
        ["one batch size", "'image': 1", "'points': 2"],
    ),
    "model, mask": (
        lambda: lm()(torch.zeros(1, 3).long(), mask={"text": torch.ones(1, 3)}),
        ["mask of 'text'", "bool (1, 3)", "True = may be", "float32 (1, 3)"],
    ),
    "model, at": (lambda: lm()(torch.zeros(1, 3).long(), at={"txt": None}), ["at names 'txt'", "did you mean 'text'"]),
    "model, at range": (lambda: lm()(torch.zeros(1, 3).long(), at={"text": torch.tensor([99])}), ["'text'", "99"]),
    "model, chunk": (
        lambda: lm()(torch.zeros(1, 3).long(), chunk=0),
        ["chunk", "a positive number of query rows", "got 0"],
    ),
    "objective": (
        lambda: objectives.Classification()({"label": torch.zeros(2, 4)}, {"label": torch.tensor([1, 4])}),
        ["target 'label'", "0 to 3", "got 1 to 4"],
    ),
    "objective, dtype": (
        lambda: objectives.Classification()({"label": torch.zeros(2, 4)}, {"label": NAN}),
        ["target 'label'", "int64 (2,)", "float32 (2,)"],
    ),
    "objective, name": (
        lambda: objectives.Classification()({"lable": torch.zeros(2, 4)}, {}),
        ["outputs has no 'label'", "'lable'"],
    ),
    "load": (lambda: kit.load("nowhere"), ["'nowhere'", "neither a directory nor the id"]),
    "load, type": (lambda: kit.load(3), ["a directory or the id of a hub repository", "got an int"]),
    "save": (lambda: kit.save(lm(), "/dev/null/x"), ["cannot save to /dev/null/x", "Not a directory"]),
    "save, type": (lambda: kit.save(torch.nn.Linear(2, 2), "x"), ["a model made of blocks", "got a Linear"]),
    "to_huggingface": (
        lambda: kit.to_huggingface(torch.nn.Linear(2, 2), "x"),
        ["the model of a recipe", "got a Linear"],
    ),
    "ByteTokenizer": (lambda: kit.ByteTokenizer()(b"bytes"), ["texts", "a str or a list of str", "got a bytes"]),
    "ByteTokenizer, length": (lambda: kit.ByteTokenizer()("word", max_length=1), ["max_length", "at least 2", "got 1"]),
    "ByteTokenizer, surrogates": (lambda: kit.ByteTokenizer()("\ud800"), ["texts[0]", "surrogate", "repair it"]),
    "decode": (lambda: kit.ByteTokenizer().decode([300]), ["ids[0]", "0 to 261", "got 300"]),
    "ImageProcessor": (
        lambda: kit.ImageProcessor()(np.zeros((5, 6, 5), np.uint8)),
        ["images", "1, 3 or 4 channels", "uint8 (5, 6, 5)"],
    ),
    "ImageProcessor, NaN": (lambda: kit.ImageProcessor()(np.full((4, 4), np.nan)), ["images", "NaN", "replace them"]),
    "ImageProcessor, size": (lambda: kit.ImageProcessor(0), ["size", "at least 1", "got 0"]),
    "Clip": (
        lambda: video.Clip(torch.zeros(2, 3, 1, 1), NAN, fps=1, rate=1, source="a.mp4"),
        ["audio of a.mp4", "finite", "1 NaN", "at (1,)"],
    ),
    "load_clip": (lambda: video.load_clip("nowhere.mp4"), ["no such file", "nowhere.mp4"]),
    "load_clip, fps": (lambda: video.load_clip(fps=0), ["fps", "above 0", "fps=0"]),
    "open_task": (lambda: open_task("minst", recipe="image_classification_conv"), ["'minst'", "did you mean 'mnist'"]),
    "open_task, recipe": (
        lambda: open_task("bible", recipe="optical_flow"),
        ["'bible'", "masked_lm", "not for optical_flow"],
    ),
    "Images": (
        lambda: images.Images(torch.zeros(0, 1, 2, 2), torch.zeros(0)),
        ["Images needs", "0 images and 0 labels"],
    ),
    "Texts": (lambda: texts.Texts(["a"], [], length=9), ["a label for each text", "1 texts and 0 labels"]),
    "MaskedBytes": (lambda: texts.MaskedBytes(b"abc", length=9), ["9 bytes", "only 3"]),
    "Warps": (lambda: warps.Warps([], size=(4, 4)), ["Warps needs at least one photo"]),
    "Steps": (lambda: sampling.Steps(3, 3, steps=1, world=2), ["batch", "3", "divisible by world 2"]),
    "queries": (lambda: kit.Queries(label=inputs.Features(3)), ["'label'", "(Query)", "got Features"]),
    "outputs": (lambda: outputs.Classify(0, in_channels=4), ["Classify", "at least 1", "got 0"]),
    "queries, rows": (lambda: queries.LearnedQuery(0, 3), ["LearnedQuery", "at least 1", "got 0"]),
    "draw": (lambda: kit.draw(torch.nn.Linear(2, 2)), ["a PerceiverIO", "got a Linear", "model inside"]),
    "losses": (lambda: kit.plots.losses({}), ["series", "at least one"]),
    "register": (lambda: kit.register("inputs")(object), ["'inputs'", "object", "derived from kit.Block"]),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_have_argument_expected_got_and_hint(name: str) -> None:
    call, parts = MESSAGES[name]
    with pytest.raises(kit.PerceiverKitError) as caught:
        call()
    message = str(caught.value)
    assert all(part in message for part in parts), (
        f"{[part for part in parts if part not in message]} not in: {message}"
    )
    assert not re.search(r"<\S+ object at 0x", message)
    assert "\n" not in message
    assert len(message) < 800
