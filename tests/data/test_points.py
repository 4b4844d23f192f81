"""Point clouds: normalised and augmented, shapes, files."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import perceiver_kit as kit
from perceiver_kit.data.points import Clouds, Shapes, cloud_folder, furniture, normalised, read_cloud, shapes, turned

pytestmark = pytest.mark.usefixtures("checked")

CUBE = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]
FACES = [(0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1), (2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4)]
FACES += [(1, 5, 7), (1, 7, 3)]


def mesh(path: Path, *, faces: bool = True) -> Path:
    """A cube as .off, .obj, or .ply."""
    chosen = FACES if faces else []
    points = [" ".join(map(str, point)) for point in CUBE]
    match path.suffix:
        case ".off":
            lines = ["OFF", f"8 {len(chosen)} 0", *points, *(f"3 {a} {b} {c}" for a, b, c in chosen)]
        case ".obj":
            lines = [*(f"v {point}" for point in points), *(f"f {a + 1} {b + 1} {c + 1}" for a, b, c in chosen)]
        case _:
            lines = ["ply", "format ascii 1.0", "element vertex 8", *(f"property float {axis}" for axis in "xyz")]
            lines += [f"element face {len(chosen)}", "property list uchar int vertex_indices"] if chosen else []
            lines += ["end_header", *points, *(f"3 {a} {b} {c}" for a, b, c in chosen)]
    path.write_text("\n".join(lines) + "\n")
    return path


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 100), shift=st.floats(-50, 50))
def test_normalised_clouds_do_not_depend_on_place_and_scale(seed: int, scale: float, shift: float) -> None:
    points = torch.randn(20, 4, generator=torch.Generator().manual_seed(seed)).double()
    moved = torch.cat([points[:, :3] * scale + shift, points[:, 3:]], 1)
    found = normalised(points)
    torch.testing.assert_close(normalised(moved), found, atol=1e-5, rtol=0)
    assert found[:, :3].abs().max() == 1
    torch.testing.assert_close(found[:, 3:], points[:, 3:])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turned_as_scipy_turns(axis: int) -> None:
    points = torch.randn(10, 3)
    angle = -0.7 if axis == 1 else 0.7
    wanted = Rotation.from_euler("xyz"[axis], angle).apply(points.numpy())
    np.testing.assert_allclose(turned(points, axis, 0.7).numpy(), wanted, atol=1e-6)


def test_items_are_deterministic_and_smaller_clouds_masked() -> None:
    clouds = [torch.rand(9, 3), torch.rand(4, 3)]
    data = Clouds(clouds, torch.tensor([0, 1]), count=6)
    assert all(torch.equal(data[1, 3]["inputs"]["points"], data[1, 3]["inputs"]["points"]) for _ in range(2))
    assert not torch.equal(data[0, 3]["inputs"]["points"], data[0, 4]["inputs"]["points"])
    assert data[1]["mask"]["points"].tolist() == [True] * 4 + [False] * 2
    assert data[0]["mask"]["points"].all()
    assert (data[1]["inputs"]["points"][4:] == 0).all()


def test_shapes_lie_on_their_surfaces() -> None:
    kinds = shapes(points=256).classes
    for seed in range(3):
        at = {kind: Shapes(8, points=256, seed=seed)[i] for i, kind in enumerate(kinds)}
        cone = at["cone"][at["cone"][:, 1].argsort()]
        assert cone[-64:, 0].abs().mean() < 0.75 * cone[:64, 0].abs().mean()  # it has a tip above
        ball = at["ellipsoid"] / at["ellipsoid"].abs().amax(0)
        assert (ball.norm(dim=-1) - 1).abs().quantile(0.9) < 0.15
        ring = at["torus"][:, [0, 2]] / at["torus"][:, [0, 2]].abs().amax(0)
        assert ring.norm(dim=-1).min() > 0.3  # it has a hole


@pytest.mark.parametrize("suffix", [".off", ".obj", ".ply"])
def test_points_of_a_mesh_are_on_its_faces(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("trimesh", reason="trimesh reads meshes")
    points = read_cloud(mesh(tmp_path / f"cube{suffix}"), surface=300)
    on_face = torch.minimum(points.abs(), (points - 1).abs()).amin(-1)
    assert points.shape == (300, 3)
    assert on_face.max() < 1e-5
    assert points.min() >= 0
    assert points.max() <= 1
    assert torch.equal(points, read_cloud(tmp_path / f"cube{suffix}", surface=300))


@pytest.mark.parametrize("suffix", [".off", ".ply"])
def test_vertices_of_a_cloud_without_faces(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("trimesh", reason="trimesh reads meshes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trimesh, about no faces
        points = read_cloud(mesh(tmp_path / f"cube{suffix}", faces=False))
    assert sorted(points.tolist()) == sorted(map(list, CUBE))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.npy", b"", "cannot be read"),
        ("empty.csv", b"", "no rows"),
        ("nan.csv", b"0,0,0\n1,nan,0\n", "line 2, column 2"),
        ("two.csv", b"0,0\n1,1\n", "must have 3 columns, got 2"),
        ("bad.obj", b"\x00\xff", "bad.obj"),
        ("bad.ply", b"ply\nformat", "cannot be read as a .ply file"),
        ("bad.off", b"what", "cannot be read as a .off file"),
        ("nan.off", b"OFF\n3 1 0\n0 0 0\n1 nan 0\n0 1 0\n3 0 1 2\n", "nan.off"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of trimesh
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if name.endswith((".obj", ".ply", ".off")):
        pytest.importorskip("trimesh", reason="trimesh reads meshes")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(kit.InputError, match=message):
        read_cloud(tmp_path / name)
    with pytest.raises(kit.InputError, match=r"gone\.npy"):
        read_cloud(tmp_path / "gone.npy")


def test_a_binary_ply_file(tmp_path: Path) -> None:
    pytest.importorskip("trimesh", reason="trimesh reads meshes")
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 8\n"
    header += "property float x\nproperty float y\nproperty float z\nend_header\n"
    (tmp_path / "a.ply").write_bytes(header.encode() + b"".join(struct.pack("<3f", *point) for point in CUBE))
    assert sorted(read_cloud(tmp_path / "a.ply").tolist()) == sorted(map(list, CUBE))


def test_a_folder_has_a_class_for_each_subfolder(tmp_path: Path) -> None:
    for kind in ("flat", "round"):
        (tmp_path / kind).mkdir()
        for i in range(4):
            np.save(tmp_path / kind / f"{i}.npy", np.random.default_rng(i).random((5 + i, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = cloud_folder(tmp_path, points=6)
    assert task.classes == ("flat", "round")
    assert dict(task.overrides) == dict(num_labels=2, points=6)
    assert len(task.train) + len(task.held_out) == 8
    assert {"mask", "inputs"} <= {*task.train[0]} & {*task.held_out[0]}
    np.save(tmp_path / "flat" / "bad.npy", np.full((3, 3), np.nan))
    with pytest.warns(UserWarning, match=r"bad\.npy: row 0 has NaN"):
        cloud_folder(tmp_path, points=6)


def test_furniture_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(kit.MissingPackage, match="sweethome3d-furniture"):
        furniture(folder=tmp_path)


def test_which_points_of_a_large_cloud_are_read_does_not_depend_on_their_order() -> None:
    cloud, reader = torch.randn(300, 3), kit.processors.Cloud(points=100)
    found = reader.read(cloud)
    assert torch.equal(reader.read(cloud[torch.randperm(300)]), found) and found.shape == (100, 3)
    assert torch.equal(reader.read(cloud.double().requires_grad_()), found)
