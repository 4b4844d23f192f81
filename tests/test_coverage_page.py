"""The page of coverage says what was counted: by folder, and module by module what was not run."""

from __future__ import annotations

from typing import Any

from benchmarks.coverage_page import page, share


def file(lines: int, branches: int, missing_lines: list[int], missing_branches: list[list[int]]) -> dict[str, Any]:
    """A module as coverage reports it."""
    summary = dict(num_statements=lines, covered_lines=lines - len(missing_lines))
    summary |= dict(num_branches=branches, covered_branches=branches - len(missing_branches))
    return dict(summary=summary, missing_lines=missing_lines, missing_branches=missing_branches)


def report(**files: dict[str, Any]) -> dict[str, Any]:
    files = {f"perceiver_kit/{path.replace('_in_', '/')}.py": counted for path, counted in files.items()}
    counts = next(iter(files.values()))["summary"]
    totals = {count: sum(counted["summary"][count] for counted in files.values()) for count in counts}
    return dict(files=files, totals=totals)


def test_counts_are_summed_by_folder_and_what_was_not_run_is_named() -> None:
    measured = report(
        hub_in_a=file(10, 4, [3, 7], [[2, 3], [8, -1]]), model=file(90, 10, [], []), hub_in_b=file(30, 6, [], [])
    )
    text = page(measured, minutes=12.4, date="2030-01-02")
    assert "run 97.3 % of the package's lines" in text  # 146 of 150
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:4] == [
        "| `perceiver_kit/` | 90 of 90 | 10 of 10 | 100 % |",
        "| `perceiver_kit/hub/` | 38 of 40 | 8 of 10 | 92 % |",
        "| **all** | 128 of 130 | 18 of 20 | 97.3 % |",
    ]
    assert rows[5:] == ["| `perceiver_kit/hub/a.py` | 71.4 % | 3, 7, 2 → 3, 8 → exit |"]
    assert "(12 minutes on 2030-01-02;" in text
    assert "Every module is run whole." in page(report(model=file(3, 2, [], [])), minutes=1, date="")


def test_only_all_of_it_is_a_hundred_percent() -> None:
    almost = dict(num_statements=9_999, covered_lines=9_998, num_branches=1, covered_branches=1)
    assert share(almost) == "99.9 %"
    assert share(almost | dict(covered_lines=9_999)) == "100 %"
