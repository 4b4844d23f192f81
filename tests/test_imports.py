"""Imports go one way, importing is quiet and light, and what is public is there and documented."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import types
from pathlib import Path

import pytest

import perceiver_kit as kit
from perceiver_kit import registry

PACKAGE = Path(kit.__file__).parent
# From what knows nothing to what knows all: a module imports what stands before it in this list, never after.
ORDER = [
    "errors",
    "checks",
    "block",
    "registry",
    "spec",
    "tokens",
    "initialisation",
    "positions",
    "attention_backends",
    "attention",
    "capture",
    "modalities",
    "padding",
    "inputs",
    "queries",
    "outputs",
    "encoders",
    "decoders",
    "folding",
    "model",
    "tiling",
    "objectives",
    "recipe",
    "recipes",
    "hub",
    "data",
    "plots",
    "draw",
    "training",  # reads data, saves models and draws what they do: the only user of all three
    "demo",
    "cli",
]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> set[str]:
    """Modules of the package, by their first name, that a file imports anywhere in it."""
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
    assert own in ORDER, f"tests/test_imports.py: say in ORDER where {own} stands"
    before = ORDER[: ORDER.index(own) + 1]
    wrong = imported(path) - set(before)
    assert not wrong, f"{own} imports {wrong}, which stands after it"


def test_the_order_is_seen_to_be_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way of writing an import is read."""
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
        path = tmp_path / "inputs" / "some.py"
        path.write_text(line)
        assert imported(path) == {wanted}


HEAVY = (
    "pytorch_lightning lightning torchmetrics matplotlib av transformers PIL huggingface_hub soundfile skimage sklearn"
)


def test_importing_is_light_and_quiet() -> None:
    code = f"import sys, perceiver_kit; print(sorted(set(sys.modules) & set('{HEAVY}'.split())), end='')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]", "")


# ---- public names

CONTRACT = [
    "build",
    "describe",
    "spec",
    "list",
    "register",
    "save",
    "load",
    "to_huggingface",
    "capture_attention",
    "capture_hidden",
    "ByteTokenizer",
    "ImageProcessor",
    "Block",
    "PerceiverIO",
    "Encoder",
    "Inputs",
    "Queries",
    "Outputs",
    "Decoder",
    "MeanPool",
    "Tokens",
    "Layout",
    "Encoded",
    "PerceiverKitError",
    "InputError",
    "AssemblyError",
    "UnknownName",
    "CheckpointError",
    "MissingPackage",
    "inputs",
    "positions",
    "queries",
    "encoders",
    "decoders",
    "outputs",
    "recipes",
]


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_is_there(name: str) -> None:
    assert hasattr(kit, name)
    assert name in kit.__all__


def test_nothing_but_the_contract_is_offered_twice_or_missing() -> None:
    assert sorted(set(kit.__all__)) == sorted(kit.__all__)
    for name in kit.__all__:
        assert hasattr(kit, name), name


def documented() -> dict[str, object]:
    """Everything public: of the package, its blocks, and their public methods."""
    things = {name: getattr(kit, name) for name in kit.__all__}
    things |= {
        f"{kind}.{name}": getattr(entry, "function", entry)
        for kind, entries in registry._entries.items()
        for name, entry in entries.items()
    }
    for module in [thing for thing in things.values() if isinstance(thing, types.ModuleType)]:
        for name in getattr(module, "__all__", []):
            things[f"{module.__name__}.{name}"] = getattr(module, name)
    return things


@pytest.mark.parametrize("name", documented())
def test_what_is_public_is_documented(name: str) -> None:
    thing = documented()[name]
    own = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert own, f"{name} has no docstring of its own"
    assert own.strip()[0].isupper() or own.strip()[0] in "`0123456789" or own.lstrip().startswith("("), own


@pytest.mark.parametrize("error", ["InputError", "AssemblyError", "UnknownName", "CheckpointError", "MissingPackage"])
def test_every_error_is_of_the_family(error: str) -> None:
    assert issubclass(getattr(kit, error), kit.PerceiverKitError)
    assert issubclass(kit.PerceiverKitError, ValueError)
    assert issubclass(kit.MissingPackage, ImportError)
