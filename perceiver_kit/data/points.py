"""Point clouds: analytic shapes, meshes, files of one's own; normalised and augmented as for ModelNet40."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from ..checking import check_choice, check_number, check_positive
from ..errors import InputError, MissingPackage
from .files import split_by_class
from .sampling import Sample, Samples, generator
from .tables import checked_rows, read_rows
from .task import Task

MESHES = (".ply", ".obj", ".off")
CLOUDS = (".npy", ".csv", *MESHES)
SURFACE = 4096
"""Points sampled from the surface of a mesh; an item takes some of them."""
MAX_BYTES = 2**28
Axis = Literal["x", "y", "z", "none"]


def normalised(points: Float[Tensor, "n c"], axes: int = 3) -> Float[Tensor, "n c"]:
    """Points with mean 0 whose largest coordinate is 1 or -1; further features stay.

    >>> normalised(torch.tensor([[0.0, 0.0], [4.0, 2.0]]), axes=2)
    tensor([[-1.0000, -0.5000],
            [ 1.0000,  0.5000]])
    """
    places, features = points.tensor_split([axes], -1)
    places = places - places.mean(0)
    return torch.cat([(places / places.abs().max().clamp(min=1e-12)).clamp(-1, 1), features], -1)


class Clouds(Samples):
    """Labelled point clouds; an item has ``count`` points, drawn anew in training, and is normalised.

    Clouds of fewer points are padded, with a mask. In training each axis is scaled by a factor in 1 ± ``scale`` and
    each point by one in 1 ± 0.01, and the cloud is turned about the axis ``rotate``.

    Args:
        clouds: each (n, axes + features); a sequence may make or read them when asked.
        labels: int64 (len(clouds),).
        padded: whether some cloud has fewer than ``count`` points; None: look.

    >>> sample = Clouds([torch.rand(50, 3)], torch.tensor([0]), count=20)[0]
    >>> sample["inputs"]["points"].shape
    torch.Size([20, 3])
    """

    def __init__(
        self,
        clouds: Sequence[Tensor],
        labels: Tensor,
        *,
        count: int = 2048,
        axes: int = 3,
        scale: float = 0.2,
        rotate: Axis = "y",
        padded: bool | None = None,
        seed: int = 0,
    ) -> None:
        check_positive("Clouds", count=count, axes=axes)
        check_number("Clouds", scale=scale)
        check_choice("Clouds", "rotate", rotate, ("x", "y", "z", "none"))
        self.clouds, self.labels, self.count, self.axes = clouds, labels, count, axes
        self.scale, self.rotate, self.seed = scale, rotate, seed
        self.padded = min(map(len, clouds)) < count if padded is None else padded

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, index: int, random: Generator, training: bool) -> Sample:
        points = self.clouds[index]
        points = points[torch.randperm(len(points), generator=random)[: self.count]]
        if training:
            points = self._augmented(points, random)
        points = normalised(points, self.axes)
        item: Sample = {"inputs": {"points": points}, "targets": {"label": self.labels[index]}}
        if self.padded:
            filled = points.new_zeros(self.count, points.shape[-1])
            filled[: len(points)] = points
            item["inputs"]["points"] = filled
            item["mask"] = {"points": torch.arange(self.count) < len(points)}
        return item

    def _augmented(self, points: Tensor, random: Generator) -> Tensor:
        places, features = points.tensor_split([self.axes], -1)
        places = places * (1 + self.scale * (2 * torch.rand(self.axes, generator=random) - 1))
        if self.rotate != "none" and self.axes == 3:
            places = turned(places, "xyz".index(self.rotate), float(torch.rand((), generator=random)) * 2 * math.pi)
        places = places * (0.99 + 0.02 * torch.rand(len(places), 1, generator=random))
        return torch.cat([places, features], -1)


def turned(points: Float[Tensor, "n 3"], axis: int, angle: float) -> Float[Tensor, "n 3"]:
    """Points turned about an axis.

    >>> turned(torch.tensor([[1.0, 0.0, 0.0]]), 1, math.pi / 2).round()
    tensor([[0., 0., 1.]])
    """
    first, second = (other for other in range(3) if other != axis)
    a, b = points[:, first], points[:, second]
    result = points.clone()
    result[:, first], result[:, second] = (
        a * math.cos(angle) - b * math.sin(angle),
        a * math.sin(angle) + b * math.cos(angle),
    )
    return result


# ---- analytic shapes: an outline (radius, height) carried around a cross-section

_ROUND = torch.linspace(-math.pi / 2, math.pi / 2, 65)
_RING = torch.linspace(0, 2 * math.pi, 65)
_COLUMN = torch.tensor([[0.0, -1.0], [1.0, -1.0], [1.0, 1.0], [0.0, 1.0]])
_TIP = torch.tensor([[0.0, -1.0], [1.0, -1.0], [0.0, 1.0]])
OUTLINES: dict[str, tuple[Tensor, int]] = {  # and the corners of the cross-section; 0: it is round
    "box": (_COLUMN, 4),
    "cone": (_TIP, 0),
    "cylinder": (_COLUMN, 0),
    "double cone": (torch.tensor([[0.0, -1.0], [1.0, 0.0], [0.0, 1.0]]), 0),
    "ellipsoid": (torch.stack([_ROUND.cos(), _ROUND.sin()], 1), 0),
    "prism": (_COLUMN, 3),
    "pyramid": (_TIP, 4),
    "torus": (torch.stack([1 + 0.4 * _RING.cos(), 0.4 * _RING.sin()], 1), 0),
}


class Shapes(Sequence[Tensor]):
    """Endless variety of analytic shapes as clouds (points, 3), each made from its own seed; kinds take turns.

    Proportions differ by up to a factor of two, and points by a deviation of 0.02.
    """

    def __init__(self, items: int, *, points: int = 512, seed: int = 0) -> None:
        self.items, self.points, self.seed = items, points, seed

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        random = generator(self.seed, index)
        outline, corners = OUTLINES[[*OUTLINES][index % len(OUTLINES)]]
        ends = rearrange(torch.stack([outline[:-1], outline[1:]]), "two segments xy -> segments two xy")
        length = (ends[:, 1] - ends[:, 0]).norm(dim=-1)
        along = (torch.arange(64) + 0.5) / 64
        places = torch.lerp(ends[:, :1], ends[:, 1:], rearrange(along, "k -> 1 k 1"))
        weights = places[..., 0] * rearrange(length, "segments -> segments 1")  # the area that a piece sweeps
        chosen = rearrange(weights, "segments k -> (segments k)").multinomial(
            self.points, replacement=True, generator=random
        )
        radius, height = rearrange(places, "segments k xy -> (segments k) xy")[chosen].unbind(-1)
        angle = torch.rand(self.points, generator=random) * 2 * math.pi
        if corners:  # a regular polygon
            step = 2 * math.pi / corners
            radius = radius * math.cos(step / 2) / (angle % step - step / 2).cos()
        cloud = torch.stack([radius * angle.cos(), height, radius * angle.sin()], 1)
        cloud = cloud * (1 + torch.rand(3, generator=random))
        return cloud + 0.02 * torch.randn(cloud.shape, generator=random)


def shapes(*, points: int = 2048, seed: int = 0, items: int = 4000, rotate: Axis = "y") -> Task:
    """Eight kinds of analytic shapes; 400 others are held out."""
    kinds = tuple(OUTLINES)

    def part(items: int, seed: int) -> Clouds:
        labels = torch.arange(items) % len(kinds)
        clouds = Shapes(items, points=points, seed=seed)
        return Clouds(clouds, labels, count=points, rotate=rotate, padded=False, seed=seed)

    overrides = dict(num_labels=len(kinds), points=points)
    return Task("shapes", part(items, 2 * seed), part(400, 2 * seed + 1), overrides, "computed", kinds)


# ---- files


def read_cloud(path: Path, *, columns: int | None = 3, surface: int = SURFACE) -> Float[Tensor, "n c"]:
    """The points of a .npy or .csv file, or of a .ply, .obj or .off file: its vertices, or points on its faces.

    Points on faces are drawn with equal probability for equal areas, always the same ones.

    Raises InputError, naming the file and the row, for an unreadable or empty file, NaN, and a number of columns other
    than ``columns``; MissingPackage for a mesh without trimesh.
    """
    if path.suffix.lower() not in MESHES:
        points = read_rows(path)
    else:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise InputError(f"{path} has {path.stat().st_size} bytes; at most {MAX_BYTES} are read")
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror})") from error
        points = sampled(content, path.suffix.lower()[1:], str(path), surface)
    if columns is not None and points.shape[-1] != columns:
        raise InputError(f"{path} must have {columns} columns, got {points.shape[-1]}")
    return points


def sampled(content: bytes, kind: str, name: str, surface: int = SURFACE) -> Float[Tensor, "n 3"]:
    """Points of a mesh, or of a cloud, in the content of a .ply, .obj or .off file."""
    try:
        import trimesh
    except ImportError:
        raise MissingPackage("reading meshes needs trimesh: pip install trimesh") from None
    try:  # from memory: a file that names others reads none of them
        options: dict[str, Any] = dict(skip_materials=True) if kind == "obj" else {}
        loaded: Any = trimesh.load(io.BytesIO(content), file_type=kind, process=False, **options)
        loaded = loaded.to_geometry() if isinstance(loaded, trimesh.Scene) else loaded
        vertices, faces = loaded.vertices, getattr(loaded, "faces", ())
        if len(faces) and loaded.area > 0:
            vertices = trimesh.sample.sample_surface(loaded, surface, seed=0)[0]
        points = torch.tensor(vertices, dtype=torch.float32)
    except Exception as error:  # each of trimesh's readers raises its own types
        raise InputError(f"{name} cannot be read as a .{kind} file ({error or type(error).__name__})") from error
    return checked_rows(rearrange(points, "... c -> (...) c"), name)


def cloud_folder(
    path: Path, *, points: int = 2048, axes: int = 3, features: int = 0, seed: int = 0, rotate: Axis = "y"
) -> Task:
    """Point clouds or meshes, one subfolder per class; .npy and .csv files have ``axes`` + ``features`` columns."""
    read = partial(read_cloud, columns=axes + features)
    files = split_by_class(path, CLOUDS, read)

    def part(paths: list[Path], labels: list[int]) -> Clouds:
        options: dict[str, Any] = dict(count=points, axes=axes, rotate=rotate, seed=seed)
        return Clouds([read(file) for file in paths], torch.tensor(labels), **options)

    train, held_out = part(files.train, files.train_labels), part(files.held_out, files.held_out_labels)
    train.padded = held_out.padded = train.padded or held_out.padded
    overrides = dict(num_labels=len(files.classes), points=points)
    return Task(path.name, train, held_out, overrides, str(path), files.classes)


FURNITURE = Path("/usr/share/sweethome3d/furniture")
FURNITURE_SOURCE = "furniture of the Debian package sweethome3d-furniture (CC-BY 3.0, CC-0), by its authors"
KINDS: dict[str, tuple[str, ...]] = {  # words in the English name of a mesh
    "bed": ("bed",),
    "chair": ("chair", "stool"),
    "door": ("door",),
    "lamp": ("lamp", "light"),
    "person": ("man", "woman", "boy", "girl", "child"),
    "plant": ("plant", "tree", "flower", "cactus"),
    "sofa": ("sofa", "couch", "armchair"),
    "table": ("table", "desk"),
    "window": ("window",),
}


def furniture(
    *, points: int = 2048, seed: int = 0, rotate: Axis = "y", folder: Path = FURNITURE, kinds: int = len(KINDS)
) -> Task:
    """Meshes of furniture, of the ``kinds`` most frequent kinds; a fifth of each kind is held out."""
    archives = sorted(folder.glob("*.sh3f"))
    if not archives:
        raise MissingPackage(
            "meshes of furniture ship in a Debian package: apt install sweethome3d-furniture; 'shapes' needs none"
        )
    found: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for archive in archives:
        for kind, content, name in _meshes(archive):
            found[kind].append(sampled(content, "obj", name))
    chosen = sorted(sorted(found, key=lambda kind: -len(found[kind]))[:kinds])
    parts: tuple[list[tuple[Tensor, int]], ...] = ([], [])
    for label, kind in enumerate(chosen):
        order = torch.randperm(len(found[kind]), generator=generator(seed, label)).tolist()
        for place, index in enumerate(order):
            parts[place % 5 == 0].append((found[kind][index], label))
    train, held_out = (
        Clouds(
            [cloud for cloud, _ in part],
            torch.tensor([label for _, label in part]),
            count=points,
            rotate=rotate,
            seed=seed,
        )
        for part in parts
    )
    overrides = dict(num_labels=len(chosen), points=points)
    return Task("furniture", train, held_out, overrides, FURNITURE_SOURCE, tuple(chosen))


def _meshes(archive: Path) -> list[tuple[str, bytes, str]]:
    """The kind, the content and the name of each mesh of an archive whose name says its kind."""
    with zipfile.ZipFile(archive) as file:
        catalogue = next(name for name in file.namelist() if name.endswith("PluginFurnitureCatalog.properties"))
        lines = file.read(catalogue).decode("latin-1").splitlines()
        entries = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        meshes = []
        for key, name in entries.items():
            model = entries.get(key.replace("name#", "model#"), "").lstrip("/")
            words = name.lower().replace("-", " ").split()
            kinds = [kind for kind, chosen in KINDS.items() if {*words} & {*chosen}]
            if key.startswith("name#") and kinds and model.endswith(".obj"):
                meshes.append((kinds[-1], file.read(model), f"{archive}:{model}"))
    return meshes
