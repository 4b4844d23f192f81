"""Untrusted files are data: loading a model, a training or a picture never unpickles or runs anything."""

from __future__ import annotations

import ast
import io
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch

import perceiver_kit as kit

from .evil import Evil

PACKAGE = Path(kit.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# ---- forbidden calls in the package

FORBIDDEN_MODULES = {
    "cloudpickle", "code", "codeop", "ctypes", "dill", "joblib", "marshal", "runpy", "shelve", "subprocess", "tarfile",
    "pickle", "urllib", "xmlrpc", "yaml", "zipfile",
}  # fmt: skip
BUILTINS = {"__import__", "breakpoint", "compile", "eval", "exec"}  # only as functions: methods may have these names
METHODS = {"import_module", "system", "popen", "unpack_archive", "extractall", "from_pretrained"}
# Exceptions and why they are safe.
ALLOWED = {
    ("training/fit.py", "load"): "reads shards of tensors after training/shards.py has checked their list",
    ("training/shards.py", "pickle"): "unpickles with an allow-list, tested by test_shards.py",
    ("data/points.py", "zipfile"): "reads the meshes of an installed package, and writes no file",
    ("data/chorales.py", "zipfile"): "reads the scores of an installed package, and writes no file",
    ("data/points.py", "load"): "trimesh reads the points of a mesh, of bytes in four known forms, without materials",
    ("declarations.py", "import_module"): "imports what a registered recipe refers to, not names from a file",
    ("__init__.py", "import_module"): "imports public.py",
    ("recipes/__init__.py", "import_module"): "imports the modules beside it",
    ("registry.py", "import_module"): "imports public.py",
    ("registry.py", "entry_points"): "imports installed plugins, not names from a file",
}


def forbidden(source: str) -> list[str]:
    """Imports and calls that could run the content of a file, by their names in ``ALLOWED``."""
    tree, bad, modules = ast.parse(source), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            bad += sorted({alias.name.split(".")[0] for alias in node.names} & FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            bad += sorted({(node.module or "").split(".")[0]} & FORBIDDEN_MODULES)
            bad += [alias.name for alias in node.names if alias.name in ("load", "loads", "entry_points")]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        bad += [given.arg for given in node.keywords if given.arg in ("converters", "trust_remote_code")]
        if isinstance(node.func, ast.Name):
            bad += [node.func.id] if node.func.id in BUILTINS | METHODS else []
        elif isinstance(node.func, ast.Attribute):
            name, of = node.func.attr, ast.unparse(node.func.value)
            constants = {
                given.arg: given.value.value for given in node.keywords if isinstance(given.value, ast.Constant)
            }
            if of == "torch" and name == "load":
                bad += [] if constants.get("weights_only") is True else ["torch.load"]
            elif of == "np" and name == "load":
                pickled = any(given.arg == "allow_pickle" for given in node.keywords)
                bad += ["np.load"] if pickled and constants.get("allow_pickle") is not False else []
            elif name in METHODS or (name in ("load", "loads") and of.split(".")[0] in modules - {"json"}):
                bad.append(name)
    return bad


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_code_unpickles_or_runs_files(path: Path) -> None:
    where = path.relative_to(PACKAGE).as_posix()
    bad = [name for name in forbidden(path.read_text(encoding="utf-8")) if (where, name) not in ALLOWED]
    assert not bad, f"{where} has {bad}: read files as data, or give the reason in ALLOWED"


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "eval(text)",
        "__import__(name)",
        "importlib.import_module(name)",
        "from importlib import import_module\nimport_module(name)",
        "os.system(line)",
        "import yaml",
        "import shelve",
        "import joblib as j\nj.load(x)",
        "import torch\ntorch.jit.load(x)",
        "from torch.jit import load",
        "np.loadtxt(x, converters=f)",
        "import zipfile",
        "model.from_pretrained(name)",
    ],
)
def test_the_scan_finds(code: str) -> None:
    assert forbidden(code)


def test_every_exception_to_the_scan_is_still_needed() -> None:
    for where, name in ALLOWED:
        assert name in forbidden((PACKAGE / where).read_text(encoding="utf-8")), (where, name)


# ---- loading with audit hooks: no unpickler, no process, no connection

WATCHED = """
    import pickle, sys, json
    from pathlib import Path

    import torch
    import perceiver_kit as kit
    from perceiver_kit.cli import main

    directory = Path(sys.argv[1])
    ours, theirs, back = (directory / name for name in ("ours", "theirs", "back"))
    kit.save(kit.build("masked_lm", preset="tiny", decoder_qk_channels=256), ours)
    kit.to_huggingface(kit.load(ours), theirs)
    kit.list()  # imports plugins, once

    events = []
    WATCH = ("pickle.find_class", "exec", "subprocess.Popen", "os.system", "socket.connect", "shutil.unpack_archive")

    def hook(name, arguments):
        if name in WATCH:
            # Importing a module from a file is an exec event too.
            if name == "exec" and arguments[0].co_filename.startswith(("/", "<frozen")):
                return
            events.append((name, str(arguments)[:200]))

    sys.addaudithook(hook)

    def refused(*arguments, **options):
        events.append(("pickle", "an unpickler was made"))
        raise AssertionError("unpickler created")

    pickle.Unpickler = pickle._Unpickler = pickle.load = pickle.loads = refused
    loads = {"the kit's": lambda: kit.load(ours), "Hugging Face's": lambda: kit.load(theirs)}
    loads["by command"] = lambda: main(["convert", str(theirs), str(back)])
    loads["a spec"] = lambda: kit.build(json.loads((ours / "config.json").read_text()))
    for load in loads.values():
        load()
    sys.stderr.write("\\n".join(map(str, events)))
"""


def test_loading_creates_no_unpickler_and_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", dedent(WATCHED), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    assert (tmp_path / "back" / "model.safetensors").exists()


def evil_zip(mark: Path) -> bytes:
    """A pickle as torch.save writes it."""
    file = io.BytesIO()
    torch.save({"global_step": 1, "perceiver_kit": Evil(mark), "state_dict": Evil(mark)}, file)
    return file.getvalue()


@pytest.mark.parametrize("form", [lambda mark: pickle.dumps(Evil(mark)), evil_zip], ids=["pickle", "torch.save"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "pytorch_model.bin", "last.ckpt", "meta.pt"])
def test_pickles_are_refused_under_every_file_name(name: str, form: Any, tmp_path: Path) -> None:
    mark, directory = tmp_path / "mark", tmp_path / "model"
    kit.save(kit.build("masked_lm", preset="tiny", decoder_qk_channels=256), directory)
    if name == "pytorch_model.bin":
        kit.to_huggingface(kit.load(directory), directory)
        (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(form(mark))
    if name in ("last.ckpt", "meta.pt"):
        pytest.importorskip("pytorch_lightning")
        from perceiver_kit.training import Training, load_sharded
        from perceiver_kit.training.saving import step_of

        training = Training(kit.load(directory), kit.objectives.MaskedTokens(), steps=1)
        read = load_sharded if name == "meta.pt" else lambda folder: step_of(folder / name, training)
    else:
        read = kit.load
    if name == "config.json":
        kit.load(directory)  # the spec in the weights suffices
        (directory / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(kit.PerceiverKitError, match=name.replace(".", r"\.")):
        read(directory)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))  # unpickling does leave the mark
    assert mark.exists()
