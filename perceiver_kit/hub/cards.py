"""Model cards: the README.md of a checkpoint, with a YAML header for the hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..checking import describe_value
from ..errors import CheckpointError, UnknownName, nearest
from ..specs import describe

CARD = "README.md"
# Header entries that a user may set. library_name is fixed.
ENTRIES = ["base_model", "datasets", "language", "license", "license_link", "license_name", "metrics", "model-index"]
ENTRIES += ["pipeline_tag", "tags"]


def model_card(model: nn.Module, name: str, card: Mapping[str, Any]) -> bytes:
    """The card of a model that ``kit.load(name)`` loads: YAML header, ``card["text"]``, how to load it, its stages.

    ``card`` has the text and entries of the header, such as the licence. Raises UnknownName for an entry that the hub
    does not know, CheckpointError for a value that YAML cannot hold.

    >>> model = SelfAttentionLayer(8, heads=2)
    >>> card = model_card(model, "me/reviews", {"license": "cc-by-4.0", "text": "Is a review good?"}).decode()
    >>> print(card.partition("A Perceiver")[0].rstrip())
    ---
    library_name: "perceiver-kit"
    tags: ["perceiver"]
    license: "cc-by-4.0"
    ---
    <BLANKLINE>
    # reviews
    <BLANKLINE>
    Is a review good?
    """
    if not isinstance(card, Mapping):
        raise CheckpointError(f"card must be a dict such as {{'text': …, 'license': …}}, got {describe_value(card)}")
    entries = dict(card)
    text, tags = entries.pop("text", ""), entries.pop("tags", [])
    if not isinstance(text, str):
        raise CheckpointError(f"card: text must be a str, got {describe_value(text)}")
    if not isinstance(tags, list | tuple):
        raise CheckpointError(f"card: tags must be a list of str, got {describe_value(tags)}")
    for unknown in entries.keys() - ENTRIES:
        raise UnknownName(f"card has no entry {unknown!r}; {nearest(unknown, ['text', *ENTRIES])}")
    note = getattr(model, "recipe", None)
    known = ["perceiver", *([note["name"]] if note else [])]
    header = {"library_name": "perceiver-kit", "tags": [*known, *(tag for tag in tags if tag not in known)], **entries}
    made = f"`{note['name']}`, preset `{note['preset']}`" if note else "assembled from blocks"
    page = "\n".join(
        [
            "---",
            *(f"{key}: {_yaml(key, value)}" for key, value in header.items()),
            "---",
            f"\n# {name.rpartition('/')[2]}\n",
            *([text.strip(), ""] if text.strip() else []),
            f"A Perceiver ({made}) of `perceiver-kit`:\n",
            "```python\nimport perceiver_kit as kit\n",
            f"model = kit.load({json.dumps(name, ensure_ascii=False)})\n```\n",
            f"```text\n{describe(model)}\n```\n",
        ]
    )
    try:
        return page.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"card: it has half of a surrogate pair, which UTF-8 cannot write: {error}") from None


def _yaml(key: str, value: Any) -> str:
    """A value in one line: JSON is YAML."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"card: {key} must be text, numbers, lists and dicts of these: {error}") from None
