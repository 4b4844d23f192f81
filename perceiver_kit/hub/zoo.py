"""The zoo: trained models in the package, each a checkpoint with 16-bit weights and ``card.json``.

A card lists the model's training data and their licence, the command that made it, its held-out figures beside those of
baselines, and its limits. ``make zoo`` trains and packs the models.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..registry import ZOO, find
from .files import read_json

PREFIX, CARD = "zoo:", "card.json"


def in_zoo(source: str | os.PathLike) -> bool:
    """Whether a source is ``"zoo:NAME"``."""
    return str(source).startswith(PREFIX)


def place(source: str | os.PathLike) -> Path:
    """The directory of ``"zoo:NAME"``, or the path itself; UnknownName for a name that the zoo lacks."""
    return find(ZOO, str(source).removeprefix(PREFIX)) if in_zoo(source) else Path(source)


def card(source: str) -> dict[str, Any]:
    """The card of ``"zoo:NAME"``.

    >>> card("zoo:clip")["recipe"]
    'multimodal_autoencoding'
    """
    return read_json(place(source) / CARD)


def card_text(card: dict[str, Any]) -> str:
    """A card as Markdown."""
    figures = "".join(f"\n- {figure_text(figure)}" for figure in card["figures"])
    return (
        f"**{card['name']}**: {card['title']}. `{card['recipe']}`, preset `{card['preset']}`, {card['parameters']:,} "
        f"parameters.\n\nReads: {card['reads']}\nTry: `{card['example']}`\n\nHeld out:\n{figures}\n\n"
        f"Made by `{card['command']}`: {card['steps']} steps of "
        f"{card['batch']} samples, seed {card['seed']}.\nData: {card['source']}.\n{card['licence']}\n\n"
        f"Limits: {card['limits']}"
    )


def figure_text(figure: dict[str, Any]) -> str:
    """A held-out figure beside its baselines.

    >>> figure_text(dict(task="digits", metric="accuracy", ours=0.95, baselines={"chance": 0.1}))
    'digits: accuracy 0.950 (chance 0.100)'
    """
    baselines = ", ".join(f"{name} {value:.3f}" for name, value in figure["baselines"].items())
    return f"{figure['task']}: {figure['metric']} {figure['ours']:.3f} ({baselines})"
