"""Attention over a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor

from ..checking import describe_value
from ..data.bytes import BYTE_OFFSET, SPECIAL
from ..errors import InputError
from .attention import check_weights, largest_weight
from .style import INK, MUTED, PALE, SMALL, WIDTH, bare, check_titles, panels
from .style import title as set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attention_over_text(
    text: str | bytes | Tensor | Sequence[int],
    weights: Tensor,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 64,
) -> Figure:
    """Attention over a text: each byte shaded by its weight, ``columns`` bytes per line, one panel per map.

    ``text`` is a str or bytes without special tokens, or ids (n,) of ``kit.ByteTokenizer``, whose special tokens are
    shown as symbols: ○ padding, ■ mask, « cls, » sep. ``weights`` is (k, n), with n the number of bytes or ids; a
    character of several bytes is drawn at its first byte. Each map is scaled to its own largest weight.

    Raises InputError for shapes that do not match.

    >>> picture = attention_over_text("to be or not to be", torch.rand(2, 18))
    >>> len(picture.axes)
    2
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.textpath import TextPath

    if not isinstance(columns, int) or columns < 1:
        raise InputError(f"columns must be a positive int, the bytes per line, got {columns!r}")
    symbols = _symbols(text)
    weights = check_weights(weights, len(symbols), "the bytes of the text")
    lines = [symbols[start : start + columns] for start in range(0, len(symbols), columns)]
    columns = min(columns, len(symbols))
    font = FontProperties(family="DejaVu Sans Mono")
    size, tall = 1 / 0.602, 2.0  # letters are 0.602 em = one unit wide, lines two units apart
    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#ffd9ae", "#f79a3e"])
    inch = WIDTH / 64
    page, axes = panels(
        len(weights), width=max(2.6, inch * columns + 0.2), height=inch * tall * len(lines) + 0.42, across=1
    )
    for panel, seen, caption in zip(axes, weights, check_titles(titles, len(weights), "map"), strict=True):
        shaded = torch.zeros(len(lines) * columns)
        shaded[: len(symbols)] = seen / seen.max().clamp(min=1e-30)
        extent = (0, columns, tall * len(lines), 0)
        panel.imshow(
            rearrange(shaded, "(lines columns) -> lines columns", columns=columns).numpy(),
            cmap=shades,
            vmin=0,
            vmax=1,
            extent=extent,
            interpolation="nearest",
            aspect="equal",
        )
        for row, line in enumerate(lines):
            characters = "".join(line).rstrip()
            if characters:
                path = TextPath((0, 0), characters.replace("$", r"\$"), size=size, prop=font)
                vertices = path.vertices * [1, -1] + [0, tall * row + 0.72 * tall]
                panel.add_patch(PathPatch(Path(vertices, path.codes), color=INK, linewidth=0))
        bare(panel)
        set_title(panel, caption)
        panel.set_title(largest_weight(seen, len(symbols)), fontsize=SMALL, color=MUTED, loc="right", pad=4)
        panel.plot([0, columns], [tall * len(lines)] * 2, color=PALE, linewidth=0.8, clip_on=False)
    return page


_SYMBOLS = dict(zip(SPECIAL, "○<>■«»", strict=True))


def _symbols(text: str | bytes | Tensor | Sequence[int]) -> list[str]:
    """One symbol per byte or id; after the first byte of a character the others are blank."""
    if isinstance(text, str):
        text = text.encode()
    if isinstance(text, bytes):
        ids = [byte + BYTE_OFFSET for byte in text]
    elif isinstance(text, Tensor):
        if text.ndim != 1 or text.is_floating_point():
            raise InputError(f"text must be a str, bytes, or ids (n,), got {describe_value(text)}")
        ids = text.tolist()
    else:
        ids = [*text]
    if not ids or any(not isinstance(i, int) or not 0 <= i < 256 + BYTE_OFFSET for i in ids):
        raise InputError(f"text must be at least one byte or id from 0 to {255 + BYTE_OFFSET}")
    symbols: list[str] = []
    pending: list[int] = []  # consecutive bytes, decoded together
    for number in [*ids, -1]:
        if number >= BYTE_OFFSET:
            pending.append(number - BYTE_OFFSET)
            continue
        for character in bytes(pending).decode("utf-8", errors="surrogateescape"):
            places = 1 if 0xDC80 <= ord(character) <= 0xDCFF else len(character.encode())
            symbols += [_printable(character), *[" "] * (places - 1)]
        pending = []
        if number >= 0:
            symbols.append(_SYMBOLS[SPECIAL[number]])
    return symbols


def _printable(character: str) -> str:
    """The character if matplotlib's font can draw it; else a box or an arrow."""
    from matplotlib.font_manager import findfont, get_font

    if character in "\n\t":
        return "↵" if character == "\n" else "→"
    font = get_font(findfont("DejaVu Sans Mono"))
    return character if character.isprintable() and font.get_char_index(ord(character)) else "□"
