"""Where attention looks: over an image, a waveform, a text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..checks import check_tensor, describe_value
from ..data.bytes import BYTE_OFFSET, SPECIAL
from ..errors import InputError
from ..tokens import Grid
from .style import (
    COLOURS,
    INK,
    MUTED,
    PALE,
    SMALL,
    WIDTH,
    bare,
    check_titles,
    from_minus_one,
    open_frame,
    panels,
    plain,
)
from .style import pixels as as_pixels
from .style import title as set_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def attention_over_image(
    image: Tensor, weights: Tensor, *, grid: Grid, frame: int = 0, titles: Sequence[str] | None = None
) -> Figure:
    """Attention over the rows of an image or of one frame of a video: the picture, then one panel for each map.

    ``image`` is (3, h, w) or (t, 3, h, w), in [0, 1], or in [-1, 1] if any value is negative. ``weights`` is (k, n),
    with n the rows of that modality on its ``grid``, (h', w') or (t', h', w'). Each map has its own scale, from
    nothing to its largest weight, which stands below it as a multiple of the mean weight 1/n.

    Raises InputError for shapes that do not fit each other.

    >>> picture = attention_over_image(torch.rand(3, 32, 32), torch.rand(2, 64).softmax(-1), grid=(8, 8))
    >>> len(picture.axes)
    3
    """
    if not isinstance(image, Tensor) or image.ndim not in (3, 4) or image.shape[-3] not in (1, 3):
        raise InputError(f"image must be (3, h, w) or (t, 3, h, w), got {describe_value(image)}")
    grid = _check_grid(grid)
    weights = _check_weights(weights, math.prod(grid), f"the grid {grid}")
    frames = image.shape[0] if image.ndim == 4 else grid[0] if len(grid) == 3 else 1
    if not isinstance(frame, int) or not 0 <= frame < frames:
        raise InputError(f"frame must be 0 to {frames - 1}, got {frame!r}")
    if len(grid) == 3 and frames % grid[0]:
        raise InputError(f"image has {frames} frames, which the {grid[0]} of the grid {grid} do not divide")
    maps = weights.unflatten(1, grid)
    if len(grid) == 3:
        maps = maps[:, frame * grid[0] // frames]
    shown = as_pixels(image[frame] if image.ndim == 4 else image, from_minus_one(image))
    height, width = shown.shape[:2]
    page, axes = panels(len(maps) + 1, width=WIDTH / 3, height=0.55 + min(2.6, WIDTH / 3 * height / width), across=3)
    axes[0].imshow(shown, interpolation="nearest")
    set_title(axes[0], "picture")
    grey = shown.mean(-1)
    for panel, seen, text in zip(axes[1:], maps, check_titles(titles, len(maps), "map"), strict=True):
        panel.imshow(0.25 + 0.6 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        strength = (seen / seen.max().clamp(min=1e-30)).numpy()
        panel.imshow(
            strength,
            cmap="plasma",
            vmin=0,
            vmax=1,
            alpha=0.15 + 0.75 * strength,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="nearest",
        )
        set_title(panel, text)
        panel.set_xlabel(_largest(seen, weights.shape[1]), fontsize=SMALL, color=MUTED)
    for panel in axes:
        bare(panel)
    return page


def attention_over_waveform(
    waveform: Tensor, weights: Tensor, *, rate: float | int | None = None, titles: Sequence[str] | None = None
) -> Figure:
    """Attention over the patches of a waveform (samples,): the sound, with the weight of each patch behind it.

    ``weights`` is (k, n) over the n patches, which must divide the samples; a panel for each of the k maps, each to
    its own scale. The axis is in seconds where ``rate``, in samples a second, is given.

    Raises InputError for shapes that do not fit each other.

    >>> picture = attention_over_waveform(torch.randn(480), torch.rand(2, 30), rate=8000)
    >>> [axes.get_xlabel() for axes in picture.axes]
    ['', 'seconds']
    """
    check_tensor(waveform, "waveform", "samples")
    samples = waveform.shape[0]
    weights = _check_weights(weights, None, "the patches of the waveform")
    count, patches = weights.shape
    if samples % patches:
        raise InputError(f"weights have {patches} patches, which do not divide the {samples} samples of the waveform")
    sound = plain(waveform)
    sound = sound / sound.abs().max().clamp(min=1e-12)
    # Between its lowest and highest sample in each of some hundred bins, a long sound is drawn as fast as a short one.
    bins = min(600, samples)
    parts = sound.tensor_split(bins)
    low, high = (torch.stack([getattr(part, end)() for part in parts]).numpy() for end in ("min", "max"))
    step = 1 if rate is None else 1 / rate
    at = (torch.arange(bins) + 0.5) * (samples / bins) * step
    edges = torch.arange(patches + 1) * (samples / patches) * step
    page, axes = panels(count, width=WIDTH, height=1.25 + 0.3 / count, across=1)
    for panel, seen, text in zip(axes, weights, check_titles(titles, count, "map"), strict=True):
        strength = seen / seen.max().clamp(min=1e-30)
        panel.stairs(2.1 * strength.numpy() - 1.05, edges.numpy(), baseline=-1.05, fill=True, color="#f3b27a")
        panel.fill_between(at.numpy(), low, high, color=COLOURS[0], linewidth=0.5, alpha=0.9)
        panel.set_ylim(-1.05, 1.1)
        panel.set_xlim(0, samples * step)
        open_frame(panel)
        panel.set_yticks([])
        panel.spines["left"].set_visible(False)
        set_title(panel, text)
        panel.set_title(_largest(seen, patches), fontsize=SMALL, color=MUTED, loc="right", pad=4)
        if panel is not axes[-1]:
            panel.set_xticklabels([])
    axes[-1].set_xlabel("samples" if rate is None else "seconds", fontsize=SMALL, color=INK)
    return page


def attention_over_text(
    text: str | bytes | Tensor | Sequence[int],
    weights: Tensor,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 64,
) -> Figure:
    """Attention over a text: every byte shaded by its weight, ``columns`` of them a line, one panel for each map.

    ``text`` is a str or bytes without special tokens, or ids (n,) of ``kit.ByteTokenizer``, whose special tokens are
    then shown as signs: ○ padding, ■ mask, « cls, » sep. ``weights`` is (k, n), with n the number of bytes or ids;
    a character of several bytes stands in the place of its first. Each map is shaded to its own largest weight.

    Raises InputError for shapes that do not fit each other.

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
        raise InputError(f"columns must be a positive number of characters a line, got {columns!r}")
    signs = _signs(text)
    weights = _check_weights(weights, len(signs), "the bytes of the text")
    lines = [signs[start : start + columns] for start in range(0, len(signs), columns)]
    columns = min(columns, len(signs))
    font = FontProperties(family="DejaVu Sans Mono")
    size, tall = 1 / 0.602, 2.0  # a letter of this font is 0.602 em wide: one unit, and lines are two units apart
    shades = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#ffd9ae", "#f79a3e"])
    inch = WIDTH / 64
    page, axes = panels(
        len(weights), width=max(2.6, inch * columns + 0.2), height=inch * tall * len(lines) + 0.42, across=1
    )
    for panel, seen, caption in zip(axes, weights, check_titles(titles, len(weights), "map"), strict=True):
        shaded = torch.zeros(len(lines) * columns)
        shaded[: len(signs)] = seen / seen.max().clamp(min=1e-30)
        extent = (0, columns, tall * len(lines), 0)
        panel.imshow(
            shaded.view(len(lines), -1).numpy(),
            cmap=shades,
            vmin=0,
            vmax=1,
            extent=extent,
            interpolation="nearest",
            aspect="equal",
        )
        for row, line in enumerate(lines):
            written = "".join(line).rstrip()
            if written:
                path = TextPath((0, 0), written.replace("$", r"\$"), size=size, prop=font)
                vertices = path.vertices * [1, -1] + [0, tall * row + 0.72 * tall]
                panel.add_patch(PathPatch(Path(vertices, path.codes), color=INK, linewidth=0))
        bare(panel)
        set_title(panel, caption)
        panel.set_title(_largest(seen, len(signs)), fontsize=SMALL, color=MUTED, loc="right", pad=4)
        panel.plot([0, columns], [tall * len(lines)] * 2, color=PALE, linewidth=0.8, clip_on=False)
    return page


_SIGNS = dict(zip(SPECIAL, "○<>■«»", strict=True))


def _signs(text: str | bytes | Tensor | Sequence[int]) -> list[str]:
    """One sign for each byte or id: of a character of several bytes the first place has it, the others are blank."""
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
        raise InputError(f"text must have at least one byte, and its ids must be 0 to {255 + BYTE_OFFSET}")
    signs: list[str] = []
    waiting: list[int] = []  # bytes in a row, which only together are characters
    for number in [*ids, -1]:
        if number >= BYTE_OFFSET:
            waiting.append(number - BYTE_OFFSET)
            continue
        for character in bytes(waiting).decode("utf-8", errors="surrogateescape"):
            places = 1 if 0xDC80 <= ord(character) <= 0xDCFF else len(character.encode())
            signs += [_printable(character), *[" "] * (places - 1)]
        waiting = []
        if number >= 0:
            signs.append(_SIGNS[SPECIAL[number]])
    return signs


def _printable(character: str) -> str:
    """The character where the font that matplotlib ships has it and it can be seen; a box or a sign otherwise."""
    from matplotlib.font_manager import findfont, get_font

    if character in "\n\t":
        return "↵" if character == "\n" else "→"
    font = get_font(findfont("DejaVu Sans Mono"))
    return character if character.isprintable() and font.get_char_index(ord(character)) else "□"


def _check_grid(grid: object) -> Grid:
    if not isinstance(grid, tuple | list) or len(grid) not in (2, 3) or any(not isinstance(n, int) for n in grid):
        raise InputError(f"grid must be (h, w) or (t, h, w), the rows of that modality, got {grid!r}")
    return tuple(grid)


def _check_weights(weights: object, rows: int | None, of: str) -> Tensor:
    """Weights (k, n) off the graph; a map alone (n,) is refused, as the mean over heads is easily forgotten."""
    if (
        not isinstance(weights, Tensor)
        or weights.ndim != 2
        or 0 in weights.shape
        or not weights.is_floating_point()
        or (rows is not None and weights.shape[1] != rows)
    ):
        raise InputError(
            f"weights must be float (k, {'n' if rows is None else rows}), a map over {of} in each row (of one "
            f"sample, one head or their mean), got {describe_value(weights)}"
        )
    if not (weights >= 0).all():
        raise InputError("weights must not be negative or NaN: give attention maps, not scores")
    return plain(weights)


def _largest(seen: Tensor, rows: int) -> str:
    times = float(seen.max()) * rows
    return f"largest {times:.1f} × mean" if times < 100 else f"largest {times:,.0f} × mean"
