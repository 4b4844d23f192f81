"""What a name means: blocks that remember their arguments, recipes, and the names of both.

Other packages add theirs through the entry-point group ``perceiver_kit``, each a module that registers on import:

```toml
[project.entry-points.perceiver_kit]
my_blocks = "my_package.blocks"
```

They are imported when a name is first looked up, so that importing the kit stays quick.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from torch import nn

from .block import Block
from .errors import AssemblyError, UnknownName, nearest

KINDS = ("recipes", "inputs", "positions", "encoders", "queries", "decoders", "outputs", "models", "objectives")

_entries: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
_plugins: dict[str, str | None] | None = None  # what went wrong with each, None for nothing; None: not looked for yet
_loading = threading.RLock()


@dataclass(frozen=True)
class Recipe:
    """A function that assembles a model, its named presets, and where each of its numbers comes from."""

    function: Callable[..., nn.Module]
    presets: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, str]

    def parameters(self, preset: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters by name: the defaults, then the preset, then the overrides."""
        owner = self.function.__name__
        if preset not in self.presets:
            raise UnknownName(f"{owner} has no preset {preset!r}; {nearest(preset, self.presets)}")
        defaults = {name: p.default for name, p in inspect.signature(self.function).parameters.items()}
        for name in overrides:
            if name not in defaults:
                raise UnknownName(f"{owner} has no parameter {name!r}; {nearest(name, defaults)}")
        return defaults | dict(self.presets[preset]) | dict(overrides)


def register(
    kind: str,
    name: str | None = None,
    *,
    sources: Mapping[str, str] | None = None,
    **presets: Mapping[str, Any],
) -> Callable[[Any], Any]:
    """Decorator that gives a block class or a recipe function a name of its kind (its own unless ``name`` is given).

    A recipe takes keyword parameters only, each with a default: the defaults are the preset ``"base"``, every
    further keyword here is a preset of its own (``tiny=dict(...)``), and ``sources`` says where numbers come from.

    Raises AssemblyError for a taken name (a cell of ``__main__`` may be run again), a recipe with positional or
    required parameters, a class that is not a Block; UnknownName for a kind that does not exist.

    >>> @register("inputs", "Doctest")
    ... class Doctest(Block):
    ...     pass
    >>> "Doctest" in names("inputs")
    True
    >>> del _entries["inputs"]["Doctest"]
    """
    entries = _of_kind(kind)
    if kind != "recipes" and (sources or presets):
        raise AssemblyError(f"register({kind!r}): presets and sources are for recipes, got {[*presets]}")

    def add(thing: Any) -> Any:
        label = name or thing.__name__
        if kind == "recipes":
            entry: Any = _recipe(thing, {"base": {}} | presets, sources or {})
        elif (inspect.isclass(thing) and issubclass(thing, Block)) or kind == "objectives":
            entry = thing
        else:
            raise AssemblyError(f"register({kind!r}): {label} must be a class derived from kit.Block")
        taken = entries.get(label)
        if taken is not None and not (_home(taken) == _home(entry) and _home(entry)[0] == "__main__"):
            raise AssemblyError(f"{kind} {label!r} is taken by {'.'.join(_home(taken))}; register under another name")
        entries[label] = entry
        return thing

    return add


def _recipe(function: Callable, presets: Mapping[str, Mapping], sources: Mapping[str, str]) -> Recipe:
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise AssemblyError(
                f"recipe {function.__name__}: parameter {parameter.name!r} must be keyword-only with a default"
            )
    for label, values in [*presets.items(), ("sources", sources)]:
        for key in values:
            if key not in signature.parameters:
                raise AssemblyError(
                    f"recipe {function.__name__}: {label} names {key!r}; {nearest(key, signature.parameters)}"
                )
    return Recipe(function, presets, sources)


def _home(entry: Any) -> tuple[str, str]:
    thing = entry.function if isinstance(entry, Recipe) else entry
    return thing.__module__, thing.__qualname__


def _of_kind(kind: str) -> dict[str, Any]:
    if kind not in _entries:
        raise UnknownName(f"no kind {kind!r}; {nearest(kind, KINDS)}")
    return _entries[kind]


def load_plugins() -> Mapping[str, str | None]:
    """Import what other packages offer, once; by entry point, what went wrong with it, or None.

    A plugin that raises, or takes a name that is taken, is warned about and leaves nothing behind; the others work.
    """
    global _plugins
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
    """The registered names of a kind, in alphabetical order.

    >>> "multimodal_autoencoding" in names()
    True
    """
    load_plugins()
    return sorted(_of_kind(kind))


def find(kind: str, name: str) -> Any:
    """The registered thing of that name, or UnknownName with the nearest one."""
    plugins = load_plugins()
    entries = _of_kind(kind)
    if name not in entries:
        broken = [f"{label} failed: {error}" for label, error in plugins.items() if error]
        hint = f". Plugin {'; '.join(broken)}" if broken else ""
        raise UnknownName(f"no {kind} {name!r}; {nearest(name, entries)}{hint}")
    return entries[name]


def name_of(block: type) -> str:
    """``"kind.Name"`` of a registered class; AssemblyError for one that is not registered."""
    for kind, entries in _entries.items():
        for name, entry in entries.items():
            if entry is block:
                return f"{kind}.{name}"
    raise AssemblyError(f'{block.__name__} is not registered: put @kit.register("inputs") or another kind above it')
