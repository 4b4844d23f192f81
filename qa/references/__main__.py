"""``python -m qa.references FILE…``: files of numbers from the original implementations, reproduced with the kit.

Prints the largest relative difference of each output and gradient; the exit status is 1 if one is above the bound.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import numpy as np

# The beginning of a file's name → the module of its family.
FAMILIES = {
    "io": "io",
    "ar": "ar",
    "hip": "hip",
    "resampler": "resampler",
    "gated": "resampler",
    "perceiver_pytorch": "perceiver_pytorch",
}
BOUND = 1e-5


def family(file: Path) -> str:
    """The module for a file: by its name, or by its parameters where the name says nothing."""
    for beginning, module in FAMILIES.items():
        if file.name.startswith(f"{beginning}_"):
            return module
    with np.load(file) as arrays:
        config = json.loads(str(arrays["config"]))
    if "z_index_dim" in config:
        return "ar"
    if "variant" in config:
        return "hip"
    model = str(config.get("model"))
    for beginning, module in (("perceiver-pytorch", "perceiver_pytorch"), ("open_flamingo", "resampler")):
        if model.startswith(beginning):
            return module
    if "PerceiverResampler" in model:
        return "resampler"
    if str(config.get("model")) in ("masked_lm", "optical_flow", "multimodal_autoencoding") or "preprocessor" in config:
        return "io"
    raise SystemExit(f"{file}: no family has this configuration; begin its name with {', '.join(FAMILIES)}")


def main(arguments: list[str]) -> int:
    """Compare each file; 1 if a difference is above the bound, else 0."""
    parser = argparse.ArgumentParser(prog="python -m qa.references", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, help=".npz files")
    parser.add_argument("--short", action="store_true", help="one line a file")
    options = parser.parse_args(arguments)
    failed = False
    for file in options.files:
        differences = importlib.import_module(f"qa.references.{family(file)}").run(file)
        worst = max(differences, key=differences.__getitem__, default=None)
        largest = 0.0 if worst is None else differences[worst]
        failed |= not largest <= BOUND
        print(f"{file.stem}: {largest:.1e} ({worst})")
        for name, value in () if options.short else differences.items():
            print(f"  {value:.1e}  {name}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
