"""Specs, config.json files and weights that are edited, truncated or invented."""

from __future__ import annotations

import copy
import functools
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import nn

import perceiver_kit as kit
from perceiver_kit.hub.huggingface import convertible

from ..strategies import RECIPES
from .harness import damaged, edited, fuzzed, json_of_any_kind, result_or_documented_error, written

FORMS = ["ours", "theirs"]


@functools.cache
def _saved(recipe: str, form: str) -> tuple[bytes, bytes]:
    """config.json and model.safetensors of a small model, in the kit's or Hugging Face's format."""
    if recipe not in convertible():
        return _bytes(kit.build(recipe, preset="tiny"), kit.save)
    sizes = dict(num_latents=4, latent_dim=32, layers=1)
    if recipe in ("masked_lm", "sequence_classification"):
        sizes |= dict(max_length=16, channels=16, qk_channels=16, v_channels=32)
    if recipe in ("image_classification_learned", "optical_flow", "multimodal_autoencoding"):
        sizes |= dict(image_size=32)
    return _bytes(kit.build(recipe, **sizes), kit.save if form == "ours" else kit.to_huggingface)


def _bytes(model: nn.Module, save: Callable[[Any, str], Any]) -> tuple[bytes, bytes]:
    with tempfile.TemporaryDirectory() as directory:
        save(model, directory)
        return (Path(directory) / "config.json").read_bytes(), (Path(directory) / "model.safetensors").read_bytes()


def _load(config: bytes, weights: bytes) -> None:
    with written(config, "config.json") as path, result_or_documented_error():
        path.with_name("model.safetensors").write_bytes(weights)
        kit.load(path.parent)


def _header(weights: bytes) -> tuple[dict, bytes]:
    length = struct.unpack("<Q", weights[:8])[0]
    return json.loads(weights[8 : 8 + length]), weights[8 + length :]


def _with_header(header: Any, rest: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + rest


@fuzzed(share=3)
def test_edited_specs(rng: Random) -> None:
    header, _ = _header(_saved(rng.choice(RECIPES), "ours")[1])
    with torch.device("meta"), result_or_documented_error():
        kit.build(edited(rng, json.loads(header["__metadata__"]["perceiver_kit"])))


@fuzzed(share=3)
def test_anything_as_a_spec(rng: Random) -> None:
    with torch.device("meta"), result_or_documented_error():
        kit.build(json_of_any_kind(rng))


@fuzzed()
def test_edited_specs_in_the_weights(rng: Random) -> None:
    config, weights = _saved(rng.choice(RECIPES), "ours")
    header, rest = _header(weights)
    spec = edited(rng, json.loads(header["__metadata__"]["perceiver_kit"]))
    header["__metadata__"]["perceiver_kit"] = json.dumps(spec)
    _load(config, _with_header(header, rest))


@fuzzed()
def test_edited_configs_of_hugging_face(rng: Random) -> None:
    config, weights = _saved(rng.choice([*convertible()]), "theirs")
    _load(json.dumps(edited(rng, json.loads(config))).encode("utf-8", "surrogatepass"), weights)


@fuzzed()
def test_damaged_configs(rng: Random) -> None:
    form = rng.choice(FORMS)
    config, weights = _saved(rng.choice([*convertible()]), form)
    header, rest = _header(weights)
    if form == "ours":
        del header["__metadata__"]["perceiver_kit"]  # otherwise config.json is not read
    _load(damaged(rng, config), _with_header(header, rest))


@fuzzed()
def test_damaged_weights(rng: Random) -> None:
    config, weights = _saved(rng.choice([*convertible()]), rng.choice(FORMS))
    _load(config, damaged(rng, weights))


@fuzzed()
def test_edited_headers_of_weights(rng: Random) -> None:
    """Dtypes, shapes and offsets that the file does not have, also huge ones."""
    config, weights = _saved(rng.choice([*convertible()]), rng.choice(FORMS))
    header, rest = _header(weights)
    header = copy.deepcopy(header)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(sorted(set(header) - {"__metadata__"}) or ["__metadata__"])
        entry = header[name]
        match rng.choice(["dtype", "shape", "offsets", "drop", "rename", "junk"]):
            case "dtype" if "dtype" in entry:
                entry["dtype"] = rng.choice(
                    ["F16", "BF16", "F64", "I64", "I32", "U32", "BOOL", "U8", "F8_E4M3", "C64", "X"]
                )
            case "shape" if "shape" in entry:
                entry["shape"] = rng.choices([0, 1, 2, 16, 2**40, -1], k=rng.randint(0, 3))
            case "offsets" if "data_offsets" in entry:
                entry["data_offsets"] = rng.choices([0, 4, len(rest), 2**62], k=rng.randint(0, 3))
            case "drop":
                del header[name]
            case "rename":
                header[rng.choice(["", "x", "\ud800", "encoder.latents"])] = header.pop(name)
            case "junk":
                header[name] = json_of_any_kind(rng)
        if not header:
            break
    _load(config, _with_header(header, rest))
