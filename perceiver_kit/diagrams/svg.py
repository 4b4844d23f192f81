"""Boxes, lines and arrows as SVG text, in a monospaced font, so that text is measured by counting letters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

# Fill and edge of each kind of box. Light fills with dark text are legible on white and black pages; edges are Okabe
# and Ito's colours, and each box also names its kind.
COLOURS = {
    "model": ("#334155", "#334155"),
    "input": ("#dcecf7", "#0072b2"),
    "rows": ("#e8eaee", "#5b6470"),
    "encoder": ("#fdebdc", "#d55e00"),
    "latents": ("#fdebdc", "#d55e00"),
    "query": ("#d9f1e8", "#009e73"),
    "decoder": ("#f8e6ef", "#b0628c"),
    "output": ("#fdf3d8", "#b88400"),
}
INK, MUTED, LINE = "#1f2933", "#4b5563", "#8a929e"
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"
LETTER = 0.602  # letter width / font size of DejaVu Sans Mono, the widest of these fonts
SMALL, LARGE, LINE_HEIGHT, PADDING = 12, 14, 17, 10


@dataclass(frozen=True)
class Box:
    """A box with its kind, name, lines of detail and number of parameters."""

    kind: str
    name: str
    lines: tuple[str, ...]
    parameters: int
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


def place(kind: str, name: str, details: Sequence[str], parameters: int, x: float, y: float, width: float) -> Box:
    """A box of this width, as high as its text."""
    room = int((width - 2 * PADDING) / (SMALL * LETTER))
    lines = tuple(part for detail in details for part in wrapped(detail, room))
    strip = 2 * LINE_HEIGHT if kind == "latents" else 0
    height = LINE_HEIGHT * (1 + len(title(name, width)) + len(lines)) + 1.4 * PADDING + strip
    return Box(kind, name, lines, parameters, x, y, width, height)


def title(name: str, width: float) -> list[str]:
    """Lines of the name in the large font; none if it is empty."""
    return wrapped(readable(name), int((width - 2 * PADDING) / (LARGE * LETTER))) if name else []


def readable(text: str) -> str:
    """The text with unprintable characters, which XML may refuse, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def wide(text: str) -> int:
    """Width of a text in letters: two for a wide East Asian letter, none for a combining accent."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in readable(text)
    )


def wrapped(text: str, room: int) -> list[str]:
    """Lines of at most ``room`` letters, broken between words, or within a word longer than a line.

    >>> wrapped("50,176 rows × 243", 12)
    ['50,176 rows', '× 243']
    """
    lines = [""]
    for word in readable(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines[-1] else word
        if wide(joined) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if wide(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    return lines


def written(number: int) -> str:
    """A number of parameters in at most five letters.

    >>> [written(n) for n in (0, 999, 1536, 19_858_855)]
    ['0', '999', '1.5k', '19.9M']
    """
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size * 0.9995:
            value = number / size
            return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.1f}{unit}"
    return str(number)


def box_svg(box: Box, strip: int = 0) -> Iterable[str]:
    """A box as SVG; ``strip`` is the number of squares drawn for latents."""
    fill, edge = COLOURS[box.kind]
    ink, muted = ("#ffffff", "#e2e8f0") if box.kind == "model" else (INK, MUTED)
    tip = f"{box.kind} {readable(box.name)}".strip() + f": {box.parameters:,} parameters"
    yield f"<g><title>{escape(tip)}</title>"
    yield (
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="7" '
        f'fill="{fill}" stroke="{edge}" stroke-width="1.4"/>'
    )
    x, y = box.x + PADDING, box.y + PADDING + 9
    yield _text(x, y, box.kind, size=SMALL - 1, colour=edge if box.kind != "model" else muted, bold=True)
    if box.parameters:
        count = f"{written(box.parameters)} params"
        yield _text(box.x + box.width - PADDING, y, count, size=SMALL - 1, colour=muted, anchor="end")
    for line in title(box.name, box.width):
        y += LINE_HEIGHT
        yield _text(x, y, line, size=LARGE, colour=ink, bold=True)
    for line in box.lines:
        y += LINE_HEIGHT
        yield _text(x, y, line, size=SMALL, colour=muted)
    if box.kind == "latents":
        step = min(16.5, (box.width - 2 * PADDING) / strip)
        side = min(step - 2, 1.4 * LINE_HEIGHT)
        for i in range(strip):
            yield (
                f'<rect x="{x + i * step:.1f}" y="{y + 9:g}" width="{side:.1f}" height="{1.4 * LINE_HEIGHT:g}" rx="2" '
                f'fill="{edge}" fill-opacity="0.55"/>'
            )
    yield "</g>"


def _text(x: float, y: float, text: str, *, size: int, colour: str, bold: bool = False, anchor: str = "") -> str:
    styles = (' font-weight="700"' if bold else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{styles}>{escape(text)}</text>'


def line_svg(points: Sequence[tuple[float, float]], *, arrow: bool = True, dashed: bool = False) -> Iterable[str]:
    """A polyline with an arrowhead at its end."""
    if arrow:
        (x0, y0), (x1, y1) = points[-2:]
        length = max(abs(x1 - x0), abs(y1 - y0), 1e-9)
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        base = x1 - 7 * dx, y1 - 7 * dy
        tips = [(x1, y1), (base[0] - 4.5 * dy, base[1] + 4.5 * dx), (base[0] + 4.5 * dy, base[1] - 4.5 * dx)]
        yield f'<polygon points="{_points(tips)}" fill="{LINE}"/>'
        points = [*points[:-1], base]
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    yield f'<polyline points="{_points(points)}" fill="none" stroke="{LINE}" stroke-width="1.8"{dashes}/>'


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def page_svg(parts: Iterable[str], *, width: float, height: float, label: str) -> str:
    """The whole drawing, at most its own width and never wider than the page."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'style="max-width: 100%; height: auto" role="img" aria-label={quoteattr(readable(label))} '
            f'font-family="{FONT}">',
            *parts,
            "</svg>",
            "",
        ]
    )
