"""Pictures with boxes: COCO's and VOC's files."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from ..checking import check_image_size, check_positive, short
from ..errors import InputError
from ..flags import checked_flags
from .canvases import padded_objects
from .files import Pictures, hold_out, open_picture
from .images import to_unit
from .sampling import Samples
from .task import Task


class Box(NamedTuple):
    """An object of a picture: the name of its class, and left, top, width, height in pixels."""

    name: str
    left: float
    top: float
    width: float
    height: float


class Annotated(NamedTuple):
    """A picture's file, its (height, width), its objects, and where they are written."""

    path: Path
    size: tuple[int, int]
    boxes: tuple[Box, ...]
    source: Path


class Objects(Samples):
    """Pictures with boxes: ``image`` float32 (3, h, w) in [-1, 1] → ``class`` and ``box`` of each object.

    ``class`` is int64 (most,), ``box`` (most, 4) centre and size as shares of the picture; rows without an object are
    -100 and NaN. Training mirrors a picture with probability 0.5 if ``flip``.

    Args:
        pictures: uint8 (3, h, w) each; may be a lazy sequence.
        classes: int64 (m,) of each picture.
        boxes: (m, 4) of each picture, centre and size in [0, 1].
        most: rows of the targets, at least the objects of a picture.

    Raises InputError for a picture with more objects.

    >>> picture = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    >>> objects = Objects(picture, [torch.tensor([2])], [torch.full((1, 4), 0.5)], most=3)
    >>> objects[0]["targets"]["class"]
    tensor([   2, -100, -100])
    """

    def __init__(
        self,
        pictures: Sequence[Tensor] | Tensor,
        classes: Sequence[Int64[Tensor, "_"]],
        boxes: Sequence[Float[Tensor, "_ 4"]],
        *,
        most: int,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        check_positive("Objects", rows=most)
        if not len(pictures) or not len(pictures) == len(classes) == len(boxes):
            came = f"{len(pictures)}, {len(classes)} and {len(boxes)}"
            raise InputError(f"Objects needs pictures, with classes and boxes for each; got {came}")
        if (largest := max(map(len, classes))) > most:
            raise InputError(f"most: expected at least {largest}, the objects of a picture, got {most}")
        self.pictures, self.classes, self.boxes = pictures, classes, boxes
        self.most, self.flip, self.seed = most, flip, seed

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        image, boxes = to_unit(self.pictures[index]), self.boxes[index]
        if training and self.flip and torch.rand((), generator=random) < 0.5:
            image = image.flip(-1)
            boxes = torch.cat([1 - boxes[:, :1], boxes[:, 1:]], -1)
        return {"inputs": {"image": image}, "targets": padded_objects(self.classes[index], boxes, self.most)}


@checked_flags
def object_folder(
    path: Path,
    *,
    image_size: int | tuple[int, int] = 384,
    most_objects: int = 100,
    seed: int = 0,
    flip: bool = False,
) -> Task:
    """A folder of pictures with boxes in COCO's or VOC's form; a tenth of the pictures is held out.

    COCO: one ``.json`` file anywhere below the folder, whose ``file_name`` entries are found below the folder, too.
    Objects with ``iscrowd`` are left out. VOC: an ``.xml`` file for each picture, whose ``filename`` is found below
    the folder. Pictures are resized to ``image_size`` as a whole. Training mirrors them if ``flip``.

    Raises InputError, naming file and box, for damaged files, missing or repeated pictures, boxes outside their picture
    or without area, and more objects than ``most_objects``.
    """
    size = check_image_size("object_folder", image_size)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder of pictures with boxes")
    files = {suffix: sorted(path.rglob(f"[!.]*{suffix}")) for suffix in (".json", ".xml")}
    if len(files[".json"]) == 1:
        found = read_coco(files[".json"][0], path)
    elif files[".xml"] and not files[".json"]:
        places = _places(path)
        found = [read_voc(file, path, places) for file in files[".xml"]]
    else:
        got = f"{len(files['.json'])} .json and {len(files['.xml'])} .xml files"
        raise InputError(f"{path}: expected one .json file of COCO or .xml files of VOC, got {got}")
    by_path: dict[Path, Annotated] = {}
    for picture in found:
        if (other := by_path.setdefault(picture.path, picture)) is not picture:
            files_ = " and ".join(map(str, sorted({other.source, picture.source})))
            raise InputError(f"{files_}: {picture.path.name} is there twice; join its boxes")
        if len(picture.boxes) > most_objects:
            hint = "build with more num_queries"
            raise InputError(
                f"{picture.source}: {picture.path.name} has {len(picture.boxes)} objects, expected at most "
                f"{most_objects}, the number of queries; {hint}"
            )
    names = sorted({box.name for picture in found for box in picture.boxes})
    if not names:
        raise InputError(f"{path}: expected pictures with objects, got none in {len(found)} pictures")
    train, held_out = hold_out([picture.path for picture in found], path, str(path))

    def objects(paths: list[Path], flip: bool) -> Objects:
        classes, boxes = zip(*(_tensors(by_path[one], names) for one in paths), strict=True)
        return Objects(Pictures(paths, size, crop=False), classes, boxes, most=most_objects, flip=flip, seed=seed)

    overrides = dict(num_labels=len(names), image_size=size)
    return Task(path.name, objects(train, flip), objects(held_out, False), overrides, str(path), tuple(names))


def read_coco(file: Path, folder: Path) -> list[Annotated]:
    """The pictures of a COCO file, with their boxes. Raises InputError, naming file and annotation."""
    try:
        document = json.loads(file.read_text(encoding="utf-8-sig"))
        annotations = document["annotations"]
        names, known = (
            _by_id(document[kind], kind, key, file) for kind, key in (("categories", "name"), ("images", "file_name"))
        )
        crowded = [bool(entry.get("iscrowd")) for entry in annotations]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        expected = "a COCO file with images, annotations and categories"
        raise InputError(f"{file}: expected {expected}, got {type(error).__name__}: {short(str(error))}") from error
    boxes: dict[Any, list[Box]] = defaultdict(list)
    for number, entry in enumerate(annotations):
        where = f"{file}: annotation {entry.get('id', number)}"
        for key, among in (("image_id", known), ("category_id", names)):
            if not isinstance(entry.get(key), int | str) or entry[key] not in among:
                raise InputError(f"{where}: expected a {key} of the file, got {short(entry.get(key))}")
        if not crowded[number]:
            boxes[entry["image_id"]].append(_box(names[entry["category_id"]], entry.get("bbox"), where))
    places = _places(folder)
    return [_annotated(name, boxes[image], file, folder, places) for image, name in known.items()]


def _by_id(entries: list[dict[str, Any]], kind: str, key: str, file: Path) -> dict[Any, str]:
    """A text of each entry by its id. Raises InputError for an id that is there twice, and for another kind of text."""
    found: dict[Any, str] = {}
    for entry in entries:
        if entry["id"] in found:
            raise InputError(f"{file}: {kind} have the id {short(entry['id'])} twice; give each its own")
        if not isinstance(entry[key], str):
            raise InputError(f"{file}: {kind}: expected a text as {key}, got {short(entry[key])}")
        found[entry["id"]] = entry[key]
    return found


def read_voc(file: Path, folder: Path, places: dict[str, list[Path]] | None = None) -> Annotated:
    """The picture of a VOC file, with its boxes, whose pixels count from 1. Raises InputError, naming file and box.

    ``places`` has the files below the folder by name; None: look.
    """
    try:
        text = file.read_bytes()
        if re.search(rb"<!(DOCTYPE|ENTITY)", text.replace(b"\0", b"")):  # of UTF-16, too
            raise InputError(f"{file}: expected a VOC file, got one with a document type, which is refused")
        root = ElementTree.fromstring(text)
        name = root.findtext("filename") or ""
        boxes = []
        for number, entry in enumerate(root.iter("object")):
            low, high = (
                [float(entry.findtext(f"bndbox/{side}", "nan")) for side in sides]
                for sides in (("xmin", "ymin"), ("xmax", "ymax"))
            )
            corners = [low[0] - 1, low[1] - 1, high[0] - low[0] + 1, high[1] - low[1] + 1]
            boxes.append(_box(entry.findtext("name") or "", corners, f"{file}: object {number}"))
    except InputError:
        raise
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:  # LookupError: an unknown encoding
        raise InputError(f"{file}: expected a VOC file, got {type(error).__name__}: {short(str(error))}") from error
    return _annotated(name, boxes, file, folder, _places(folder) if places is None else places)


def _places(folder: Path) -> dict[str, list[Path]]:
    """Files below a folder by name."""
    places: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        places[path.name].append(path)
    return places


def _box(name: object, box: object, where: str) -> Box:
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) for n in box)
    if not str(name).strip() or not numbers or not all(abs(n) < 2**31 for n in box):  # type: ignore[attr-defined]
        raise InputError(f"{where}: expected a class and a box of four finite numbers, got {name!r} and {short(box)}")
    return Box(str(name), *map(float, box))  # type: ignore[arg-type]


def _annotated(name: str, boxes: Iterable[Box], file: Path, folder: Path, places: dict[str, list[Path]]) -> Annotated:
    """A picture whose boxes lie inside it; a pixel of tolerance is cut."""
    exact, parts = folder / name, Path(name).parts
    below = exact.is_relative_to(folder) and ".." not in parts
    there = bool(name) and below and os.path.isfile(exact)  # False for a name longer than any
    paths = [exact] if there else [path for path in places.get(Path(name).name, ()) if path.is_file()]
    if len(paths) != 1:
        raise InputError(f"{file}: expected one picture {name!r} below {folder}, got {len(paths)}")
    width, height = open_picture(paths[0]).size
    inside = []
    for number, box in enumerate(boxes):
        left, top = max(box.left, 0.0), max(box.top, 0.0)
        right, bottom = min(box.left + box.width, width), min(box.top + box.height, height)
        far = max(left - box.left, top - box.top, box.left + box.width - right, box.top + box.height - bottom)
        shown = f"{box.name!r} at {box[1:]}"
        if box.width <= 0 or box.height <= 0:
            raise InputError(f"{file}: box {number} of {name}: expected a box with area, got {shown}")
        if far > 1:
            expected = f"a box inside {width} × {height} pixels"
            raise InputError(f"{file}: box {number} of {name}: expected {expected}, got {shown}")
        if right <= left or bottom <= top:
            raise InputError(f"{file}: box {number} of {name}: expected a box inside the picture, got {shown}")
        inside.append(Box(box.name, left, top, right - left, bottom - top))
    return Annotated(paths[0], (height, width), tuple(inside), file)


def _tensors(picture: Annotated, names: list[str]) -> tuple[Tensor, Tensor]:
    """Classes (m,) and boxes (m, 4), centre and size as shares of the picture."""
    height, width = picture.size
    classes = torch.tensor([names.index(box.name) for box in picture.boxes], dtype=torch.int64)
    rows = [(box.left + box.width / 2, box.top + box.height / 2, box.width, box.height) for box in picture.boxes]
    boxes = torch.tensor(rows) if rows else torch.zeros(0, 4)
    return classes, boxes / torch.tensor([width, height, width, height])
