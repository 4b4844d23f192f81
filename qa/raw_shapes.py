"""Counts calls that move, merge or split axes without einops, by file, each with the reason beside it.

A reason is a comment ``# raw: …`` on a line of the call or just above it. Exits with 1 when a call has none.

    python qa/raw_shapes.py [package directory]
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

CALLS = {"view", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim"}
MARK = "# raw: "


def raw_shapes(source: str) -> Iterator[tuple[ast.Call | ast.Subscript, str]]:
    """Raw-shape calls of a file in order, as (node, name): methods, torch functions, two or more None in an index."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS:
            found.append((node, f".{node.func.attr}"))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            axes = [axis for axis in node.slice.elts if isinstance(axis, ast.Constant) and axis.value is None]
            if len(axes) > 1 and isinstance(node.ctx, ast.Load):
                found.append((node, "[None, None]"))
    yield from sorted(found, key=lambda pair: (pair[0].end_lineno, pair[0].end_col_offset))


def reason(lines: list[str], node: ast.Call | ast.Subscript) -> str:
    """The reason on the lines of a call or in the comment above it; empty if there is none."""
    start, end = node.lineno, node.end_lineno or node.lineno
    above = start - 1
    while above and lines[above - 1].lstrip().startswith("#"):
        above -= 1
    for line in lines[above:end]:
        if MARK in line:
            return line.partition(MARK)[2].strip()
    return ""


def main(package: Path) -> int:
    """Print the table; 1 if a call has no reason."""
    total = unexplained = 0
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        for node, name in raw_shapes(source):
            why = reason(source.splitlines(), node)
            print(f"{path}:{node.end_lineno:<5} {name:<14} {why or 'NO REASON'}")
            total, unexplained = total + 1, unexplained + (not why)
    print(f"{total} raw-shape calls, {unexplained} without a reason")
    return int(unexplained > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "perceiver_kit")))
