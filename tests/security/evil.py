"""An object whose unpickling leaves a trace."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Evil:
    """Makes a directory when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)
