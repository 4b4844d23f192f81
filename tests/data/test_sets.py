"""Sets of entities: padding, molecules, folders."""

from __future__ import annotations

import itertools
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import perceiver_kit as kit
from perceiver_kit.data.sets import ELEMENTS, Sets, in_rings, molecules, read_sdf, set_folder

pytestmark = pytest.mark.usefixtures("checked")

pairs = st.sampled_from([*itertools.combinations(range(6), 2)])


@given(edges=st.lists(pairs, unique=True, max_size=9))
def test_rings_are_what_bridges_leave(edges: list[tuple[int, int]]) -> None:
    graph = networkx.Graph(edges)
    graph.add_nodes_from(range(6))
    bridges = {frozenset(edge) for edge in networkx.bridges(graph)}
    wanted = {node for edge in edges if frozenset(edge) not in bridges for node in edge}
    assert {*in_rings(6, edges).nonzero()[:, 0].tolist()} == wanted


def test_sets_are_padded_as_missing() -> None:
    data = Sets([torch.ones(2, 3)], torch.tensor([1]), size=4, kinds=[torch.tensor([1, 0])], mean=torch.ones(3))
    sample = data[0]
    assert sample["targets"]["entities"].tolist() == [1, 0, -100, -100]
    assert sample["mask"]["entities"].tolist() == [True, True, False, False]
    assert (sample["inputs"]["entities"] == 0).all()
    with pytest.raises(kit.InputError, match="got 2 in set 0"):
        Sets([torch.ones(2, 3)], torch.tensor([1]), size=1)
    with pytest.raises(kit.InputError, match="got 0 in set 0"):
        Sets([torch.ones(0, 3)], torch.tensor([1]), size=1)


def test_a_molecule_is_a_set_of_atoms(tmp_path: Path) -> None:
    atoms = ["C", "C", "N", "Si"]
    lines = ["name", "", "", f"{4:3d}{4:3d}  0"] + [f"{0:10.4f}{0:10.4f}{0:10.4f} {atom:3s} 0" for atom in atoms]
    lines += [f"{a:3d}{b:3d}{order:3d}  0" for a, b, order in [(1, 2, 2), (2, 3, 1), (3, 1, 1), (3, 4, 1)]]
    lines += ["M  END", ">  <SOL>  (1) ", "-2.5", "", ">  <SOL_classification>  (1) ", "(B) medium", "", "$$$$", ""]
    (tmp_path / "a.sdf").write_text("\n".join(lines))
    [molecule] = read_sdf(tmp_path / "a.sdf")
    assert molecule.atoms[:, : len(ELEMENTS)].sum(1).tolist() == [1, 1, 1, 0]
    assert molecule.atoms[:, len(ELEMENTS) :].tolist() == [[2, 3, 4], [2, 3, 4], [3, 3, 4], [1, 1, 4]]
    assert molecule.rings.tolist() == [1, 1, 1, 0]
    assert (molecule.label, molecule.solubility) == (1, -2.5)


def test_molecules_of_the_package() -> None:
    try:
        task = molecules()
    except kit.MissingPackage as error:
        pytest.skip(str(error))
    assert (len(task.train), len(task.held_out)) == (1025, 257)
    assert sorted(task.train.labels.bincount().tolist()) == [206, 402, 417]


def folder(path: Path, columns: int = 3) -> Path:
    for kind in ("a", "b"):
        (path / kind).mkdir()
        for i in range(3):
            np.save(path / kind / f"{i}.npy", np.random.default_rng(i).random((2 + i, columns)) * [1, 10, 0][:columns])
    return path


def test_columns_of_a_folder_are_standardised(tmp_path: Path) -> None:
    task = set_folder(folder(tmp_path), entities=8)
    rows = torch.cat([s["inputs"]["entities"][s["mask"]["entities"]] for s in map(task.train.__getitem__, range(4))])
    torch.testing.assert_close(rows.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[:, :2].std(0, correction=0), torch.ones(2))
    assert task.overrides["features"] == 3


def test_files_of_other_columns_and_sizes_are_named(tmp_path: Path) -> None:
    folder(tmp_path)
    np.save(tmp_path / "a" / "1.npy", np.zeros((2, 4)))
    with pytest.raises(kit.InputError, match=r"\.npy has [34] columns, but .*\.npy has"):
        set_folder(tmp_path)
    np.save(tmp_path / "a" / "1.npy", np.zeros((9, 3)))
    with pytest.raises(kit.InputError, match=r"1\.npy has 9 entities, more than 5"):
        set_folder(tmp_path, entities=5)
