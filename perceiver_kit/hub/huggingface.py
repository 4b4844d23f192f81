"""Checkpoints in Hugging Face's Perceiver format, both ways; ``transformers`` itself is not needed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from ..checking import short
from ..declarations import HuggingFace, Recipe, processor_of, resolve
from ..errors import CheckpointError, PerceiverKitError, nearest
from ..registry import find, names
from ..specs import build, spec
from .checkpoint import CONFIG, WEIGHTS, fill, open_weights, shared_tensors
from .files import read_json, write_atomically

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""The hub's id of a repository, owner/name."""
BIN = "pytorch_model.bin"
BESIDE = ("preprocessor_config.json", "tokenizer_config.json")
"""Files that say how a model reads pictures and texts; a repository may lack them."""
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "silu": "silu", "squared_relu": "relu2"}


def convertible() -> dict[str, HuggingFace]:
    """Recipe → its counterpart, for every registered recipe that declares one."""
    entries: dict[str, Recipe] = {name: find("recipes", name) for name in names()}
    return {name: entry.huggingface for name, entry in entries.items() if entry.huggingface is not None}


def load_huggingface(directory: Path, config: Mapping[str, Any]) -> nn.Module:
    """The recipe that a config.json means, with the weights beside it, in evaluation mode.

    Raises CheckpointError for another model's config, for what the recipe has no counterpart of, and as ``load``.
    """
    try:
        name, parameters = read_config(config, str(directory / CONFIG))
    except (TypeError, ValueError, AttributeError, LookupError) as error:  # a value of a kind that no config has
        if isinstance(error, PerceiverKitError):
            raise
        raise CheckpointError(f"{directory / CONFIG} is not a Perceiver's: {error}") from error
    if not (directory / WEIGHTS).exists() and (directory / BIN).exists():
        raise CheckpointError(_refuse_bin(str(directory), config))
    with open_weights(directory / WEIGHTS) as weights:
        try:
            with torch.device("meta"):
                model = build(name, **parameters)
        except (PerceiverKitError, RecursionError) as error:
            raise CheckpointError(f"{directory / CONFIG} does not make a model: {error}") from error
        counterpart = convertible()[name]
        if counterpart.processor is not None:
            model.processor = resolve(counterpart.processor)(directory, parameters)
        return fill(model, weights, str(directory / WEIGHTS), tensor_names(counterpart, model)).eval()


def to_huggingface(model: nn.Module, directory: str | os.PathLike) -> Path:
    """Write a recipe's model as ``transformers`` loads it: config.json, model.safetensors, and how it reads files.

    Into an empty directory, or one of the same model: ``transformers`` reads two files, which no rename can put in
    place together, so a kill between the two leaves one of each. ``save`` has no such moment.

    Raises CheckpointError for a model that no recipe made, that was changed since, or whose parameters Hugging Face
    has no place for (such as another number of Fourier bands).

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as directory:
    ...     written = to_huggingface(build("sequence_classification", preset="tiny"), directory)
    ...     sorted(file.name for file in written.iterdir())
    ['config.json', 'model.safetensors', 'tokenizer_config.json']
    """
    note = getattr(model, "recipe", None)
    known = convertible()
    if not note or note["name"] not in known:
        raise CheckpointError(
            f"to_huggingface takes the model of a recipe ({', '.join(known)}), "
            f"got {note['name'] if note else f'a {type(model).__name__} without a recipe'}"
        )
    name, parameters = note["name"], dict(note["parameters"])
    if "labels" in parameters:
        parameters["labels"] = next(iter(model.labels.values()), None)  # type: ignore[union-attr, operator]
    with torch.device("meta"):
        rebuilt = build(name, **parameters)
    if spec(rebuilt)["model"] != spec(model)["model"]:
        raise CheckpointError(f"to_huggingface: the model is not what {name} makes any more: it was changed")
    config = write_config(name, parameters)
    tensors_there = tensor_names(known[name], model)
    tensors = {tensors_there[ours[0]]: tensor.detach().cpu().contiguous() for ours, tensor in shared_tensors(model)}
    processor = processor_of(model)
    beside = {} if processor is None else processor.huggingface_files()
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(
            {
                directory / WEIGHTS: to_bytes(tensors, metadata={"format": "pt"}),
                directory / CONFIG: json.dumps(config, indent=2, sort_keys=True).encode(),
            }
            | {directory / file: json.dumps(content, indent=2).encode() for file, content in beside.items()}
        )
    except OSError as error:
        raise CheckpointError(f"cannot save to {directory}: {error.strerror or error}") from error
    return directory


def tensor_names(counterpart: HuggingFace, model: nn.Module) -> dict[str, str]:
    """Every saved tensor's name here → its name there; a bijection, which a test holds."""
    layers = len(model.encoder.transformer)  # type: ignore[union-attr, arg-type]
    table = {
        ours.replace("{i}", str(i)): theirs.replace("{i}", str(i))
        for ours, theirs in counterpart.names.items()
        for i in range(layers if "{i}" in ours else 1)
    }
    renamed = {}
    for (name, *_), _ in shared_tensors(model):
        prefix, _, leaf = name.rpartition(".")
        renamed[name] = table[name] if name in table else f"{table[prefix]}.{leaf}"
    return renamed


def read_config(config: Mapping[str, Any], source: str) -> tuple[str, dict[str, Any]]:
    """The recipe's name and parameters that a config.json means."""
    if config.get("model_type") != "perceiver":
        raise CheckpointError(f"{source} is of model_type {config.get('model_type')!r}, not 'perceiver'")
    architecture = (config.get("architectures") or [None])[0]
    by_class = {counterpart.architecture: name for name, counterpart in convertible().items()}
    if architecture not in by_class:
        raise CheckpointError(f"{source} is of architecture {architecture!r}; {nearest(architecture, by_class)}")
    name = by_class[architecture]
    counterpart = convertible()[name]
    activations = {"gelu_new": "gelu_tanh"} | {theirs: ours for ours, theirs in ACTIVATIONS.items()}
    if (act := config.get("hidden_act", "gelu")) not in activations:
        raise CheckpointError(f"{source}: hidden_act {act!r} has no counterpart; {nearest(act, activations)}")
    if (side := config.get("cross_attention_shape_for_attention", "kv")) != "kv":
        raise CheckpointError(f"{source}: cross_attention_shape_for_attention {side!r} is not supported, only 'kv'")
    parameters = {ours: config.get(theirs, default) for ours, (theirs, default) in counterpart.sizes.items()}
    parameters |= {**counterpart.fixed, "activation": activations[act]}
    if counterpart.labels is not None:
        # config.json omits id2label when there are two labels.
        labels = config.get("id2label")
        parameters["num_labels"] = config.get("num_labels", 2) if labels is None else len(labels)
        if "labels" in find("recipes", name).signature.parameters:
            parameters["labels"] = None if labels is None else _class_names(labels, source)
    try:
        return name, parameters | counterpart.read(config)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{source}: {error}") from None


def _class_names(id2label: Mapping[str, str], source: str) -> tuple[str, ...] | None:
    """Class names by index; None for transformers' placeholders. A repeated name gets its index, as in "crane 517"."""
    by_id = {int(i): name for i, name in id2label.items()}
    if sorted(by_id) != [*range(len(by_id))] or not all(isinstance(name, str) and name for name in by_id.values()):
        raise CheckpointError(f"{source}: id2label must have a name for each class from 0, got {short(id2label)}")
    names: list[str] = []
    for i in range(len(by_id)):
        names.append(f"{by_id[i]} {i}" if by_id[i] in names else by_id[i])
    return None if names == [f"LABEL_{i}" for i in range(len(names))] else tuple(names)


def write_config(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json that means a recipe with these parameters."""
    counterpart = convertible()[name]
    for key, value in counterpart.fixed.items():
        ours = tuple(parameters[key]) if isinstance(parameters[key], list) else parameters[key]
        if ours != value:
            raise CheckpointError(f"to_huggingface: {key} is {value!r} in Hugging Face's {name}, got {ours!r}")
    config = {theirs: parameters[ours] for ours, (theirs, _) in counterpart.sizes.items()}
    config |= {
        "model_type": "perceiver",
        "architectures": [counterpart.architecture],
        "hidden_act": ACTIVATIONS[parameters["activation"]],
    }
    try:
        _check_widths(parameters)
        config |= counterpart.write(parameters)
    except ValueError as error:
        raise CheckpointError(f"to_huggingface: {error}") from None
    if counterpart.labels is not None:
        labels = parameters.get("labels") or [f"LABEL_{i}" for i in range(parameters["num_labels"])]
        config["id2label"] = {str(i): name for i, name in enumerate(labels)}
        config["label2id"] = {name: i for i, name in enumerate(labels)}
    _check_round_trip(name, parameters, config)
    return config


def _check_round_trip(name: str, parameters: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuse parameters that the config.json loses, such as repeated cross-attention."""
    _, read = read_config(config, "to_huggingface")
    read |= {key: parameters[key] for key in convertible()[name].unwritten}
    with torch.device("meta"):
        if spec(build(name, **read))["model"] == spec(build(name, **parameters))["model"]:
            return
    entry: Recipe = find("recipes", name)
    lost = [key for key, value in entry.parameters("base", read).items() if parameters[key] != value]
    raise CheckpointError(f"to_huggingface: Hugging Face's {name} has no place for {', '.join(lost)}")


def _check_widths(parameters: Mapping[str, Any]) -> None:
    """Refuse widths that only the kit can have: there, self-attention's output is as wide as its values."""
    width = parameters["latent_dim"]
    values = parameters["v_channels"] or parameters["qk_channels"] or width
    if values != width:
        raise CheckpointError(f"v_channels (by default qk_channels) must be latent_dim, {width}, got {values}")
    for heads in ("cross_heads", "self_heads"):
        if width % parameters[heads]:
            raise CheckpointError(f"latent_dim {width} must be divisible by {heads}, got {parameters[heads]}")


def from_hub(repository: str) -> Path:
    """The local directory of a hub repository's config.json, model.safetensors and, where they are, ``BESIDE``.

    Raises CheckpointError when it is not in the cache and cannot be reached, or does not exist.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def fetch(file: str) -> Path:
        try:
            return Path(hf_hub_download(repository, file, local_files_only=True))
        except LocalEntryNotFoundError:
            # Probe first: a failing download would retry five times.
            get_hf_file_metadata(hf_hub_url(repository, file), timeout=5)
            return Path(hf_hub_download(repository, file))

    try:
        cached = isinstance(try_to_load_from_cache(repository, CONFIG), str)
        config = fetch(CONFIG)
        for file in () if cached else BESIDE:
            with suppress(EntryNotFoundError):
                fetch(file)
        try:
            fetch(WEIGHTS)
        except EntryNotFoundError:
            raise CheckpointError(_refuse_bin(repository, read_json(config))) from None
    except CheckpointError:
        raise
    except HfHubHTTPError as error:
        raise CheckpointError(f"the hub refuses {repository!r}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # of whichever HTTP client the installed huggingface_hub has
        raise CheckpointError(
            f"{repository!r} is neither a directory nor in the local cache, and the hub cannot be reached: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return config.parent


def _refuse_bin(source: str, config: Mapping[str, Any]) -> str:
    architecture = (config.get("architectures") or ["PerceiverModel"])[0]
    return (
        f"{source} has only {BIN}, which runs code when it is opened. Where you trust it, convert it with: python -c "
        f"\"from transformers import {architecture} as M; M.from_pretrained('{source}').save_pretrained('converted')\""
    )
