"""python -m qa.references FOLDER: the largest difference of every file of reference numbers in a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from . import hip, resampler

FAMILIES = {"hip": hip, "resampler": resampler, "gated": resampler}
BOUND = 1e-5


def main(folder: str) -> int:
    """Print the largest difference of each file; 1 if one is above the bound."""
    worst = 0.0
    for file in sorted(Path(folder).glob("*.npz")):
        family = next((name for name in FAMILIES if file.name.startswith(f"{name}_")), None)
        if family is not None:
            differences = FAMILIES[family].run(file)
            name = max(differences, key=differences.__getitem__)
            worst = max(worst, differences[name])
            print(f"{file.stem:32} {differences[name]:.1e}  {name}")
    return int(worst > BOUND)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
