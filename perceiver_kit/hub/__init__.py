"""Models on disk: the kit's own directories."""

from .checkpoint import load, save

__all__ = ["load", "save"]
