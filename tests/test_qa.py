"""The reports of qa/, its choice of tests for a mutant, and how it runs tutorials."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from qa.coverage import details, summary
from qa.fuzz import PARTS
from qa.mutations import ROOT, annotations, core_files, matching_tests, passes
from qa.report import PAGE, fill

from . import fresh


def test_missed_lines_and_branches_are_listed() -> None:
    whole = dict(missing_lines=[], missing_branches=[])
    partial = dict(missing_lines=[3, 7], missing_branches=[[2, 3], [8, -1]])
    assert details({"a.py": whole, "b.py": partial})[2:] == ["| `b.py` | 3, 7, 2 → 3, 8 → exit |"]


def test_only_full_coverage_is_100_percent() -> None:
    almost = dict(num_statements=9_999, covered_lines=9_998, num_branches=1, covered_branches=1)
    assert summary(almost) == "99.9 % of 9,999 lines and 1 branches"
    assert summary(almost | dict(covered_lines=9_999)).startswith("100 %")


@pytest.mark.parametrize("row", [*(row for row, _, _ in PARTS.values()), "coverage", "graphs", "mutants"])
def test_the_page_has_a_row_for_each_report(row: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    filled = fill(page, row, "12 of 13")
    assert f"| {row} | " in filled
    assert filled.count("| 12 of 13 |") == 1
    assert len(filled.splitlines()) == len(page.splitlines())


def test_an_unknown_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected one row 'nothing', got 0"):
        fill(PAGE.read_text(encoding="utf-8"), "nothing", "1")


def test_core_files_have_tests() -> None:
    files = core_files()
    assert "perceiver_kit/attention.py" in files
    assert "perceiver_kit/inputs/text.py" in files
    for file in files:
        tests = matching_tests(file)
        assert tests[0] == file
        assert all((ROOT / test).exists() for test in tests)
    assert {"tests/inputs/test_text.py", "tests/test_inputs.py"} < {*matching_tests("perceiver_kit/inputs/text.py")}


def test_annotations_are_not_mutated() -> None:
    text = "def f(a: int | None = 1 | 2) -> int | str:\n    b: int | None = 3 | 4\n"
    skipped = annotations(text)
    operators = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.BinOp)]
    found = [any(1000 * node.lineno + node.col_offset in part for part in skipped) for node in operators]
    assert len(operators) == 5
    assert sum(found) == 3


def test_a_tutorial_fails_with_its_first_failing_cell_and_takes_other_seeds(tmp_path: Path) -> None:
    def notebook(name: str, *cells: str) -> str:
        document = {"cells": [{"cell_type": "code", "source": [cell]} for cell in cells]}
        (tmp_path / f"{name}.ipynb").write_text(json.dumps(document))
        return str(tmp_path / f"{name}.ipynb")

    good = notebook("good", "%matplotlib inline\nimport torch", "assert torch.manual_seed(5).initial_seed() == 6")
    bad = notebook("bad", "print('reached')", "assert 1 == 2", "print('not reached')")
    ended = notebook("ended", "import os; os._exit(0)", "assert 1 == 2")
    code = "import sys; from pathlib import Path; from qa.tutorials import run\n"
    code += "good, bad, ended = map(Path, sys.argv[1:])\n"
    code += "print(run([(good, 1), (good, 0), (bad, 0), (ended, 0)]))"
    status, out, err = fresh.run(code, good, bad, ended)
    assert status == 0, err
    assert sorted(ast.literal_eval(out.splitlines()[-1])) == ["bad", "ended", "good"]
    assert "not reached" not in out and "reached" in out


def test_the_tests_of_a_mutant_run() -> None:
    """Examples in a file, in a process that has imported the package: none of its blocks is registered twice."""
    passed, said = passes(ROOT, ["perceiver_kit/objectives/segmentation.py"], 0, 60)
    assert passed, said
