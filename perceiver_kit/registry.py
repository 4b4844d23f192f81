"""Names of blocks, recipes and trained models.

Other packages add theirs through the entry-point group ``perceiver_kit``, each a module that registers on import:

```toml
[project.entry-points.perceiver_kit]
my_blocks = "my_package.blocks"
```

They are imported when a name is first looked up, so that importing the kit stays quick.
"""

from __future__ import annotations

import fnmatch
import inspect
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from .block import Block
from .errors import AssemblyError, UnknownName, nearest

KINDS = (
    "recipes",
    "inputs",
    "positions",
    "variants",
    "layers",
    "encoders",
    "queries",
    "decoders",
    "outputs",
    "models",
    "objectives",
    "processors",
)
ZOO = "zoo"
"""The kind of trained models, whose entries are directories; ``hub.zoo`` reads them."""

_entries: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
_entries[ZOO] = {card.parent.name: card.parent for card in Path(__file__).parent.glob("zoo/*/card.json")}
_plugins: dict[str, str | None] | None = None  # what went wrong with each, None for nothing; None: not looked for yet
_loading = threading.RLock()
# Of kinds in errors.
_SINGULAR = {kind: kind.removesuffix("s") for kind in KINDS} | {"inputs": "input block", "outputs": "output block"}
_SINGULAR |= {"queries": "query", ZOO: "model of the zoo"}


def register(kind: str, name: str | None = None) -> Callable[[Any], Any]:
    """Decorator that gives a block, or a dataclass of plain values, a name of its kind (its own without ``name``).

    Recipes are registered with ``kit.recipe``.

    Raises AssemblyError for a taken name (a cell of ``__main__`` may be run again) and a class that is neither;
    UnknownName for a kind that does not exist.

    >>> @register("inputs", "Doctest")
    ... class Doctest(Block):
    ...     pass
    >>> "Doctest" in names("inputs")
    True
    >>> del _entries["inputs"]["Doctest"]
    """
    _of_kind(kind)
    if kind == "recipes":
        raise AssemblyError("register takes blocks: register a recipe with @kit.recipe(presets=…, sources=…, …)")
    if kind == ZOO:
        raise AssemblyError("register takes blocks: save a trained model with kit.save")

    def decorate(thing: Any) -> Any:
        label = name or thing.__name__
        if not (inspect.isclass(thing) and (issubclass(thing, Block) or is_dataclass(thing))):
            raise AssemblyError(f"register({kind!r}): {label} must be a class derived from kit.Block, or a dataclass")
        add(kind, label, thing)
        return thing

    return decorate


def add(kind: str, name: str, entry: Any) -> None:
    """Enter a thing under a name; AssemblyError for a taken one, unless a cell of ``__main__`` is run again."""
    entries = _of_kind(kind)
    if _home(entry)[0].partition(".")[0] != __package__:
        import_module(".public", __package__)  # first come the kit's own names
    taken = entries.get(name)
    if taken is not None and not (_home(taken) == _home(entry) and _home(entry)[0] == "__main__"):
        raise AssemblyError(f"{kind} {name!r} is taken by {'.'.join(_home(taken))}; register under another name")
    entries[name] = entry


def _home(entry: Any) -> tuple[str, str]:
    thing = getattr(entry, "function", entry)  # of a recipe
    return thing.__module__, thing.__qualname__


def _of_kind(kind: str) -> dict[str, Any]:
    if kind not in _entries:
        raise UnknownName(f"no kind {kind!r}; {nearest(kind, _entries)}")
    return _entries[kind]


def load_plugins() -> Mapping[str, str | None]:
    """Import the kit's own blocks and what other packages offer, once; by entry point, what went wrong, or None.

    A plugin that raises, or takes a name that is taken, is warned about and leaves nothing behind; the others work.
    """
    global _plugins
    import_module(".public", __package__)  # by name: this module stands below all that registers here
    with _loading:
        if _plugins is None:
            _plugins = {}  # now: a plugin that looks names up comes here again
            for entry in sorted(entry_points(group="perceiver_kit"), key=lambda entry: entry.name):
                before = {kind: dict(entries) for kind, entries in _entries.items()}
                label = f"{entry.name} ({entry.value})"
                try:
                    entry.load()
                    _plugins[label] = None
                except Exception as error:
                    for kind, entries in _entries.items():
                        entries.clear()
                        entries.update(before[kind])
                    _plugins[label] = f"{type(error).__name__}: {error}"
                    warnings.warn(f"perceiver_kit's plugin {label} is left out: {_plugins[label]}", stacklevel=2)
        return _plugins


def names(kind: str = "recipes") -> list[str]:
    """The registered names of a kind in alphabetical order, or the recipes that match a pattern with ``*``.

    >>> "multimodal_autoencoding" in names()
    True
    >>> names("*_autoencoding")
    ['hierarchical_autoencoding', 'multimodal_autoencoding']
    >>> "clip" in names("zoo")
    True
    >>> names("positions")
    ['Fourier', 'Learned', 'Projected', 'Sinusoidal']
    """
    load_plugins()
    if set(kind) & set("*?["):
        return fnmatch.filter(sorted(_entries["recipes"]), kind)
    return sorted(_of_kind(kind))


def find(kind: str, name: str) -> Any:
    """The registered thing of that name, or UnknownName with the nearest one."""
    plugins = load_plugins()
    entries = _of_kind(kind)
    if name not in entries:
        if kind == "recipes" and str(name).startswith(f"{ZOO}:"):
            raise UnknownName(f"{name!r} is a trained model, not a recipe: kit.load({name!r}) opens it")
        broken = [f"{label} failed: {error}" for label, error in plugins.items() if error]
        hint = f". Plugin {'; '.join(broken)}" if broken else ""
        raise UnknownName(f"no {_SINGULAR.get(kind, kind)} {name!r}; {nearest(name, entries)}{hint}")
    return entries[name]


def name_of(block: type) -> str:
    """``"kind.Name"`` of a registered class; AssemblyError for one that is not registered."""
    for kind, entries in _entries.items():
        for name, entry in entries.items():
            if entry is block:
                return f"{kind}.{name}"
    raise AssemblyError(f'{block.__name__} is not registered: put @kit.register("inputs") or another kind above it')
