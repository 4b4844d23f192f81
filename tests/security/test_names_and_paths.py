"""Untrusted files: names resolve through the registry only, paths stay inside, sizes are checked first."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.cli import main
from perceiver_kit.data.files import read_picture
from perceiver_kit.hub.files import MOST_JSON

NAMES = [
    "os.system", "builtins.eval", "torch.load", "torch.nn.Linear", "inputs.__class__", "inputs.Patches.__init__",
    "inputs.Patches.embed", "__class__", "inputs", "inputs.", ".Patches", "inputs..Patches", "inputs.Patches.",
    "perceiver_kit.inputs.Patches", "inputs/Patches", "inputs.patches", "recipes.masked_lm", "", "\0",
    "models.PerceiverIO.__globals__",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_spec_resolve_through_the_registry_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(importlib, "import_module", lambda module, *_: imported.append(module))
    monkeypatch.setattr(os, "system", imported.append)
    document = {"perceiver_kit": 1, "model": {"block": name, "arguments": {"command": "true"}}}
    with pytest.raises(kit.AssemblyError, match=r"^spec: model"):
        kit.build(document)
    if "." in name:  # a bare word is a recipe's name
        with pytest.raises(kit.PerceiverKitError):
            kit.describe(name if not name.startswith("recipes.") else "recipes.os.system")
    with pytest.raises(kit.PerceiverKitError):
        kit.build(name)
    assert not imported


def test_strings_in_a_spec_stay_strings_and_unknown_arguments_are_refused() -> None:
    block = {"block": "inputs.OneHot", "arguments": {"classes": "os.system"}}
    with pytest.raises(kit.AssemblyError, match=r"classes must be an int of at least 1, got 'os\.system'"):
        kit.build({"perceiver_kit": 1, "model": block})
    for name in ("__class__", "self", "recorded", "forward"):
        with pytest.raises(kit.AssemblyError, match="argument"):
            kit.build({"perceiver_kit": 1, "model": {"block": "inputs.OneHot", "arguments": {"classes": 1, name: 1}}})


ESCAPES = [
    "../x", "a/../../b", "/etc/passwd", "a/b/../c", "..", ".", "a\\..\\b", "a/b\0c", "a/b\n", "a/", "/a", "a//b",
    "a/b/c", "~/model", "file:///etc/passwd", "https://a/b", "a/..", "../..", "a/.b", "-/../b", "a%2F../b", "con/../b",
    "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("source", ESCAPES, ids=range(len(ESCAPES)))
def test_invalid_ids_are_never_requested_from_the_hub(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    requested: list[Any] = []
    monkeypatch.setattr("perceiver_kit.hub.loading.from_hub", requested.append)
    with pytest.raises(kit.CheckpointError):
        kit.load(source)
    assert not requested
    assert main(["convert", "--", source, str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_valid_ids_stay_within_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("network access")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for repository in ("a/b", "a-/b.c_d", "a/b..c", "a--b/c", "名/前", "a/b-.", "a_/_", "a/" + "b" * 300):
        with contextlib.suppress(LocalEntryNotFoundError, HFValidationError):
            hf_hub_download(repository, "config.json", cache_dir=tmp_path, local_files_only=True)
        outside = [path for path in tmp_path.rglob("*") if not path.resolve().is_relative_to(tmp_path)]
        assert not outside
        with pytest.raises(kit.CheckpointError):
            kit.load(repository)


def test_devices_pipes_and_oversized_files_are_not_read(tmp_path: Path) -> None:
    """Reading a device or a pipe would never end."""
    config = tmp_path / "config.json"
    config.symlink_to("/dev/zero")
    with pytest.raises(kit.CheckpointError, match=r"config\.json must be a file"):
        kit.load(tmp_path)
    config.unlink()
    os.mkfifo(config)
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(kit.CheckpointError, match=r"config\.json must be a file"):
        kit.load(tmp_path)
    config.unlink()
    with open(config, "wb") as file:
        file.truncate(MOST_JSON + 1)
    with pytest.raises(kit.CheckpointError, match=r"config\.json has 16,777,217 bytes; at most 16,777,216 are read"):
        kit.load(tmp_path)


def test_only_listed_picture_formats_are_opened(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for this file, whatever its name."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
    )
    with pytest.raises(kit.InputError, match=r"a\.png cannot be read as a picture \(cannot identify"):
        read_picture(tmp_path / "a.png", (8, 8))


def test_sizes_are_checked_before_memory_is_allocated(tmp_path: Path) -> None:
    """A short header that describes a model of 4 TiB, and one that claims to be 1 TiB long itself."""
    spec = kit.spec(kit.build("masked_lm", preset="tiny"))
    text = json.dumps(spec).replace('"num_latents": 32', '"num_latents": 2000000000')
    header = json.dumps({"__metadata__": {"perceiver_kit": text}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(kit.CheckpointError, match=r"model\.safetensors lacks"):
        kit.load(tmp_path)
    path.write_bytes(struct.pack("<Q", 2**40) + header)
    with pytest.raises(kit.CheckpointError, match="damaged or not a safetensors file"):
        kit.load(tmp_path)


def test_archive_members_are_never_extracted(tmp_path: Path) -> None:
    """A training checkpoint is a zip whose members are read in memory only."""
    pytest.importorskip("pytorch_lightning")
    from perceiver_kit.training import Training
    from perceiver_kit.training.saving import step_of

    path = tmp_path / "inside" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"global_step": 1}, path)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../escaped", "/tmp/escaped", "archive/../../escaped", "a\\..\\escaped"):
            archive.writestr(name, "x")
    training = Training(kit.build("masked_lm", preset="tiny"), kit.objectives.MaskedTokens(), steps=1)
    with pytest.raises(kit.CheckpointError, match=r"last\.ckpt is damaged or not a checkpoint"):
        step_of(path, training)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["inside", "last.ckpt"]
