"""Whatever a user can do wrong ends in the family of errors.py, which is small and documented."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import perceiver_kit as kit
from perceiver_kit import errors

PACKAGE = Path(kit.__file__).parent
FAMILY = {
    name
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.PerceiverKitError) and value is not errors.PerceiverKitError
}

# Whatever else is raised, and why that is right.
ALLOWED = {
    ("__init__.py", "AttributeError"): "what Python expects for a name that a module lacks",
    ("cli.py", "argparse.ArgumentTypeError"): "argparse shows its message",
    ("data/sampling.py", "IndexError"): "the protocol of sequences: iteration over a data set ends with it",
    ("data/files.py", "FolderTooLarge"): "an InputError that readable_files does not take for the fault of one file",
    ("training/reporting.py", "KeyboardInterrupt"): "ctrl-c, which Lightning had made a SystemExit",
    ("registry.py", "undefined"): "makes an error of the family",
}
# Errors that are of the kind of another one, which is of the family.
SAME_KIND = {"prediction.py", "processors/base.py", "training/samples.py", "training/reporting.py"}


def raised(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of whatever is raised; "" where an error that was caught is raised again."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            what = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            yield node.lineno, "" if what is None else ast.unparse(what)


def test_only_the_family_is_raised() -> None:
    allowed = dict.fromkeys(ALLOWED, 0)
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        for line, name in raised(ast.parse(path.read_text(encoding="utf-8"))):
            made = name.endswith(".refuse")  # of a reader: an InputError
            if name in FAMILY or not name or made or (name == "type(error)" and where in SAME_KIND):
                continue
            key = ("registry.py", name) if name == "undefined" else (where, name)
            assert key in ALLOWED, f"{where}:{line} raises {name}: take one of {', '.join(sorted(FAMILY))}"
            allowed[key] += 1
    assert all(allowed.values()), f"no longer needed in ALLOWED: {allowed}"


def test_the_walk_sees_what_is_raised() -> None:
    tree = ast.parse(
        "raise\nraise ValueError\nraise ValueError('x') from None\nraise errors.InputError(1)\nraise type(error)()"
    )
    assert [name for _, name in raised(tree)] == ["", "ValueError", "ValueError", "errors.InputError", "type(error)"]


def test_the_family_is_small_public_and_documented() -> None:
    assert {
        "AssemblyError",
        "CheckpointError",
        "InputError",
        "MissingPackage",
        "TrainingError",
        "UnknownName",
    } == FAMILY
    page = (PACKAGE.parent / "docs" / "errors.md").read_text(encoding="utf-8")
    for name in (*FAMILY, "PerceiverKitError"):
        assert f"`{name}`" in page
        assert getattr(kit, name) is getattr(errors, name)
        assert issubclass(getattr(kit, name), ValueError)
