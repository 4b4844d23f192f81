"""Where the counts go: one row each in docs/quality.md, details in results/."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "quality.md"


def fill(page: str, row: str, counts: str) -> str:
    """The page with the last cell of one row of its table replaced."""
    filled, found = re.subn(rf"^(\| {re.escape(row)} \|.*\|)[^|]*\|$", rf"\g<1> {counts} |", page, flags=re.MULTILINE)
    if found != 1:
        raise ValueError(f"page: expected one row '{row}', got {found}")
    return filled


def write(row: str, counts: str, details: list[str]) -> None:
    """Fill in the row and write the details to results/, named after the row."""
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), row, counts), encoding="utf-8")
    path = ROOT / "results" / f"{row.replace(' ', '_')}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([f"# {row.capitalize()}", "", counts, "", *details, ""]), encoding="utf-8")
    print(f"{row}: {counts} (details: {path.relative_to(ROOT)})")
