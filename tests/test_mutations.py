"""The list of mistakes fits the package: every text is there, every file of the core has some, the page is theirs."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from benchmarks import mutations

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "perceiver_kit"
# Pictures, words to the user, and what only names others: a mistake there is seen, or is one of words.
WITHOUT = {"errors.py", "cli.py", "demo.py", "draw.py", "svg.py", "data/packages.py", "data/task.py"}


def test_every_mistake_is_one_change_of_what_the_code_does() -> None:
    every = mutations.mutants()
    assert len(every) >= 100
    assert len({str(mutant) for mutant in every}) == len({mutant[:4] for mutant in every}) == len(every)
    right = {mutant.file: ast.dump(ast.parse((PACKAGE / mutant.file).read_text())) for mutant in every}
    for mutant in every:
        assert ast.dump(ast.parse(mutations.mutated(mutant))) != right[mutant.file], mutant
        assert all((ROOT / test).exists() for test in mutant.tests), mutant
        assert mutant.what.endswith(".") and mutant.tests


def test_every_file_of_the_core_has_mistakes() -> None:
    files = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    core = {file for file in files - WITHOUT if not file.startswith("plots/")}
    assert {mutant.file for mutant in mutations.mutants()} == core


def test_a_text_that_is_not_there_just_once_is_an_error_of_the_list() -> None:
    for old in ("no such text", "return", ""):
        with pytest.raises(SystemExit, match="times, not once"):
            mutations.mutated(mutations.Mutant("tokens.py", "A mistake.", old, "", (), ""))


def test_the_list_is_read_as_it_is_written() -> None:
    text = "#\n\n= a.py: tests/a.py tests/b.py\n\nThe sum\nis lost.\n- x + y\n-     z\n+\n\nB.\n- 1\n+ 2\n@ c.py\n! D"
    first, second = mutations.parsed(text)
    assert first == ("a.py", "The sum is lost.", "x + y\n    z", "", ("tests/a.py", "tests/b.py"), "")
    assert second == ("a.py", "B.", "1", "2", ("c.py",), "D")


@pytest.mark.parametrize("name", ["a.py::test_a", "a.py::test_a[0-x]", "a.py::test_a[one size, got [2] of b]"])
def test_the_first_failure_is_found_whatever_its_case_is_called(name: str) -> None:
    for how in ("", "assert [1] == [2]", "ValueError: a - b"):
        output = f"...F\nFAILED {name}{' - ' if how else ''}{how}\nERROR b.py::test_b - other\n1 failed\n"
        assert mutations.first_failure(output) == (name, how)
    assert mutations.first_failure("3 passed") == ("", "3 passed")
