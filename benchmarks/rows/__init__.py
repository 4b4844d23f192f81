"""The rows of docs/results.md: one module for each family of tasks, with ``RUNS``: name → ``Run``."""

from importlib import import_module
from pkgutil import iter_modules

from ..training import Run

RUNS: dict[str, Run] = {}
for _name in [module.name for module in iter_modules(__path__)]:
    RUNS |= import_module(f"{__name__}.{_name}").RUNS
