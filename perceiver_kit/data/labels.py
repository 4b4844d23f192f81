"""Files with labels: a subfolder for each class, or a table of several labels for each file."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .files import Reader, hold_out, readable_files, split_by_class

TABLE = "labels.csv"
"""A table with the columns ``file`` and ``labels``: names between commas or semicolons, as in AudioSet's tables."""


class Labelled(NamedTuple):
    """Training and held-out files with their labels: int64 (n,), or float32 (n, classes) of zeros and ones."""

    train: list[Path]
    held_out: list[Path]
    train_labels: Tensor
    held_out_labels: Tensor
    classes: tuple[str, ...]

    @property
    def overrides(self) -> dict[str, Any]:
        """Parameters of a classifier for these labels."""
        several = dict(problem_type="multi_label_classification") if self.train_labels.ndim == 2 else {}
        return dict(num_labels=len(self.classes)) | several


def labelled_files(folder: str | Path, suffixes: Sequence[str], reader: Reader) -> Labelled:
    """Files of a folder with one subfolder for each class, or with a table ``labels.csv`` of several labels.

    The table names files below the folder, in a column ``file``, and their labels in a column ``labels``::

        file, labels
        a / rain.wav, "Rain,Outside"
        dog.mp4, Dog

    A tenth is held out, as ``files.split_files`` does. Files that cannot be read are skipped with a warning.

    Raises InputError as ``files.split_by_class`` does, or naming the table and its line.
    """
    root = Path(folder)
    table = root / TABLE
    if not table.is_file():
        split = split_by_class(root, suffixes, reader)
        labels = (torch.tensor(part) for part in (split.train_labels, split.held_out_labels))
        return Labelled(split.train, split.held_out, *labels, split.classes)  # type: ignore[arg-type]
    named = read_table(table, suffixes)
    classes = tuple(sorted({label for labels in named.values() for label in labels}))
    files = readable_files(sorted(named), reader, root)
    parts = hold_out(files, root, str(table))
    ones = [[[float(name in named[path]) for name in classes] for path in part] for part in parts]
    return Labelled(*parts, *map(torch.tensor, ones), classes)  # type: ignore[arg-type]


def read_table(table: Path, suffixes: Sequence[str]) -> dict[Path, tuple[str, ...]]:
    """The labels of each file of a table; InputError names the line of a bad row."""
    found: dict[Path, tuple[str, ...]] = {}
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            if missing := {"file", "labels"} - {*(rows.fieldnames or ())}:
                raise InputError(f"{table}: expected the columns file and labels, lacks {', '.join(sorted(missing))}")
            for row in rows:
                where = f"{table}, line {rows.line_num}"
                path = table.parent / (row["file"] or "")
                below = path.is_relative_to(table.parent) and ".." not in Path(row["file"] or "").parts
                if path.suffix.lower() not in suffixes or not below or not path.is_file():
                    kinds, hint = ", ".join(suffixes), "" if below else "; give its path below the table's folder"
                    raise InputError(f"{where}: expected a file that ends in {kinds}, got {row['file']!r}{hint}")
                labels = tuple(filter(None, (name.strip() for name in re.split("[,;]", row["labels"] or ""))))
                if path in found or not labels or None in row:
                    reason = "the file a second time" if path in found else f"labels {row['labels']!r}"
                    hint = "; quote labels that have commas between them" if None in row else ""
                    raise InputError(f"{where}: expected a new file and its labels, got {reason}{hint}")
                found[path] = labels
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as a table ({error})") from error
    if not found:
        raise InputError(f"{table} has no rows")
    return found
