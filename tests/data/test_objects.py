"""Pictures with boxes and with masks, in the forms that people have; what is wrong with them is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import perceiver_kit as kit
from perceiver_kit.data import objects
from perceiver_kit.data.canvases import INK, DigitScenes
from perceiver_kit.data.segments import mask_folder
from perceiver_kit.data.tasks import open_task
from perceiver_kit.errors import InputError

from .making import picture

pytestmark = pytest.mark.usefixtures("checked")

# left, top, width, height in pictures of 40 rows and 30 columns.
BOXES = {"0.png": [("cat", [3, 4, 10, 20])], "1.png": [("dog", [0, 0, 30, 40]), ("cat", [5.5, 1, 2, 3])], "2.png": []}


def coco(root: Path, **changes: Any) -> Path:
    """COCO's files of ``BOXES``."""
    names = ["cat", "dog"]
    rows = [(image, name, box) for image, (_, found) in enumerate(BOXES.items()) for name, box in found]
    document = {
        "images": [{"id": i, "file_name": picture(root / "pictures" / name, i).name} for i, name in enumerate(BOXES)],
        "categories": [{"id": 7 + i, "name": name} for i, name in enumerate(names)],
        "annotations": [
            {"id": 100 + i, "image_id": image, "category_id": 7 + names.index(name), "bbox": box, "iscrowd": 0}
            for i, (image, name, box) in enumerate(rows)
        ],
    }
    (root / "annotations.json").write_text(json.dumps(document | changes))
    return root


def voc(root: Path, **changes: str) -> Path:
    """VOC's files of ``BOXES``: pixels count from 1."""
    for number, (name, found) in enumerate(BOXES.items()):
        picture(root / "JPEGImages" / name, number)
        objects = ""
        for kind, (left, top, width, height) in found:
            low, high = (left + 1, top + 1), (left + width, top + height)
            sides = f"<xmin>{low[0]}</xmin><ymin>{low[1]}</ymin><xmax>{high[0]}</xmax><ymax>{high[1]}</ymax>"
            objects += f"<object><name>{kind}</name><bndbox>{sides}</bndbox></object>"
        text = f"<annotation><filename>{name}</filename>{objects}</annotation>"
        for old, new in changes.items():
            text = text.replace(old, new)
        path = root / "Annotations" / name.replace("png", "xml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


def opened(root: Path, **options: Any) -> Any:
    return open_task(root, recipe="object_detection", preset="tiny", **options)


@pytest.mark.parametrize("write", [coco, voc])
def test_boxes_are_read_as_they_were_written(tmp_path: Path, write: Any) -> None:
    task = opened(write(tmp_path))
    assert task.classes == ("cat", "dog") and task.overrides["num_labels"] == 2
    found = {}
    for part in (task.train, task.held_out):
        for i, path in enumerate(part.pictures.paths):
            found[path.name] = part[i]
    assert {*found} == {*BOXES} and len(task.held_out) == 1
    for name, boxes in BOXES.items():
        sample = found[name]
        assert sample["inputs"]["image"].shape == (3, 32, 32)
        classes, rows = sample["targets"]["class"], sample["targets"]["box"]
        assert classes.tolist() == [task.classes.index(kind) for kind, _ in boxes] + [-100] * (8 - len(boxes))
        for row, (_, (left, top, width, height)) in zip(rows, boxes, strict=False):
            wanted = [(left + width / 2) / 30, (top + height / 2) / 40, width / 30, height / 40]
            np.testing.assert_allclose(row, wanted, rtol=1e-5)
    model = kit.build("object_detection", preset="tiny", **task.overrides)
    sample = task.train[0]
    targets = {name: value[None] for name, value in sample["targets"].items()}
    loss, _ = kit.objectives.Detection()(model(sample["inputs"]["image"][None]), targets)
    assert loss.isfinite()


def test_mirrored_pictures_have_mirrored_boxes(tmp_path: Path) -> None:
    task = opened(coco(tmp_path), flip=True)
    plain, steps = task.train[0], [task.train[0, step] for step in range(12)]
    mirrored = [step for step in steps if not torch.equal(step["inputs"]["image"], plain["inputs"]["image"])]
    assert 0 < len(mirrored) < 12
    for step in mirrored:
        torch.testing.assert_close(step["inputs"]["image"].flip(-1), plain["inputs"]["image"])
        flipped = step["targets"]["box"]
        torch.testing.assert_close(1 - flipped[:, 0], plain["targets"]["box"][:, 0], equal_nan=True)
        torch.testing.assert_close(flipped[:, 1:], plain["targets"]["box"][:, 1:], equal_nan=True)


def annotation(**changes: Any) -> dict[str, Any]:
    return {"annotations": [{"id": 5, "image_id": 0, "category_id": 7, "bbox": [3, 4, 10, 20]} | changes]}


def only(*names: Any) -> dict[str, Any]:
    return {"images": [{"id": i, "file_name": name} for i, name in enumerate(names)]} | annotation()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (annotation(bbox=[3, 4, 30, 20]), r"annotations.json: box 0 of 0.png: expected a box inside 30 × 40 pixels"),
        (annotation(bbox=[3, 4, 0, 20]), r"annotations.json: box 0 of 0.png: expected a box with area, got 'cat' at"),
        (
            annotation(bbox=[3, 4, float("nan"), 2]),
            r"annotations.json: annotation 5: expected a class and a box of four",
        ),
        (annotation(bbox=[3, 4]), r"annotation 5: expected a class and a box of four finite numbers"),
        (annotation(image_id=9), r"annotation 5: expected a image_id of the file, got 9"),
        (annotation(category_id=1), r"annotation 5: expected a category_id of the file, got 1"),
        ({"annotations": [annotation()["annotations"][0]] * 9}, r"0.png has 9 objects, expected at most 8"),
        ({"annotations": []}, r"expected pictures with objects, got none in 3 pictures"),
        ({"images": None}, r"annotations.json: expected a COCO file"),
        ({"images": [{"id": 0, "file_name": "../x.png"}]}, r"annotation 101: expected a image_id"),
        (annotation(image_id=[0]), r"annotation 5: expected a image_id of the file, got \[0\]"),
        (annotation(category_id={"a": 7}), r"annotation 5: expected a category_id of the file, got {'a': 7}"),
        (annotation(bbox=[10**400, 4, 10, 20]), r"annotation 5: expected a class and a box of four finite numbers"),
        (annotation(bbox=[30, 4, 1, 20]), r"box 0 of 0.png: expected a box inside the picture, got 'cat' at"),
        (only(0), r"images: expected a text as file_name, got 0"),
        (only("a" * 5000), r"expected one picture 'a+' below .*, got 0"),
        (only("/etc/0.jpg"), r"expected one picture '/etc/0.jpg' below .*, got 0"),
        ({"images": [*only("0.png")["images"], *only("1.png")["images"]]}, r"images have the id 0 twice"),
        (only("0.png", "0.png"), r"annotations.json: 0.png is there twice; join its boxes"),
        ({"categories": [{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}]}, r"categories have the id 7 twice"),
        ({"categories": [{"id": 7, "name": None}]}, r"categories: expected a text as name, got None"),
    ],
)
def test_what_is_wrong_with_a_coco_file_is_named(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(coco(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"<xmax>13</xmax>": "<xmax>130</xmax>"}, r"0.xml: box 0 of 0.png: expected a box inside 30 × 40 pixels"),
        ({"<xmax>13</xmax>": ""}, r"0.xml: object 0: expected a class and a box of four finite numbers"),
        ({"<xmax>13</xmax>": "<xmax>3</xmax>"}, r"0.xml: box 0 of 0.png: expected a box with area"),
        ({"<annotation>": "<!DOCTYPE x><annotation>"}, r"0.xml: expected a VOC file, got one with a document type"),
        ({"</annotation>": ""}, r"0.xml: expected a VOC file, got ParseError"),
        ({"2.png": "9.png"}, r"2.xml: expected one picture '9.png' below .*, got 0"),
        ({"2.png": "1.png"}, r"1.xml and .*2.xml: 1.png is there twice"),
        ({"<name>cat": "<name> "}, r"0.xml: object 0: expected a class"),
        ({"<annotation>": '<?xml version="1.0" encoding="foo"?><annotation>'}, r"0.xml: expected a VOC file, got Look"),
    ],
)
def test_what_is_wrong_with_a_voc_file_is_named(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(voc(tmp_path, **changes))


def test_a_document_type_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = voc(tmp_path) / "Annotations" / "0.xml"
    path.write_text('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><annotation/>', encoding="utf-16")
    with pytest.raises(InputError, match="document type"):
        opened(tmp_path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = coco(tmp_path) / "annotations.json"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert opened(tmp_path).classes == ("cat", "dog")
    masked(tmp_path / "masks").joinpath("classes.txt").write_text("sky\nsea\nice\n", encoding="utf-8-sig")
    assert segmented(tmp_path / "masks").classes == ("sky", "sea", "ice")


def test_the_folder_of_voc_files_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, listed = [], objects._places
    monkeypatch.setattr(objects, "_places", lambda folder: calls.append(folder) or listed(folder))
    opened(voc(tmp_path))
    assert len(calls) == 1


def test_digits_of_a_scene_are_where_their_boxes_say() -> None:
    digits = torch.zeros(3, 1, 28, 28, dtype=torch.uint8)
    for number in range(3):
        digits[number, 0, 5 : 15 + number, 4 : 12 + 2 * number] = 200
    labels = torch.tensor([4, 0, 9])
    boxes = DigitScenes(digits, labels, size=(64, 80), items=20)
    masks = DigitScenes(digits, labels, size=(64, 80), items=20, targets="mask")
    sizes = set()
    for i in range(20):
        sample, mask = boxes[i], masks[i]["targets"]["label"]
        assert torch.equal(sample["inputs"]["image"], masks[i]["inputs"]["image"])
        assert torch.equal(mask > 0, sample["inputs"]["image"][0] > INK / 127.5 - 1)
        found = [one for one in zip(*sample["targets"].values(), strict=True) if one[0] != -100]
        sizes.add(len(found))
        for kind, (x, y, w, h) in found:
            part = mask[round(float((y - h / 2) * 64)) : round(float((y + h / 2) * 64))]
            part = part[:, round(float((x - w / 2) * 80)) : round(float((x + w / 2) * 80))]
            assert (part == kind + 1).float().mean() > 0.75, "others cover at most a fifth"
    assert sizes == {1, 2, 3, 4, 5}


# ---- masks


def masked(
    root: Path, *, size: tuple[int, int] = (40, 30), classes: str = "", values: tuple[int, ...] = (0, 1, 2)
) -> Path:
    for number in range(3):
        picture(root / "images" / f"{number}.jpg", number)
        mask = np.full(size, number, np.uint8)
        mask[:10] = 255
        (root / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    if classes:
        (root / "classes.txt").write_text(classes)
    return root


def segmented(root: Path) -> Any:
    return open_task(root, recipe="semantic_segmentation", preset="tiny")


def test_masks_are_read_as_they_were_written(tmp_path: Path) -> None:
    task = segmented(masked(tmp_path, classes="sky\nsea\nland\nice\n"))
    assert task.classes == ("sky", "sea", "land", "ice") and task.overrides["num_labels"] == 4
    for part in (task.train, task.held_out):
        for i, path in enumerate(part.pictures.paths):
            label = part[i]["targets"]["label"]
            assert label.shape == (32, 40) and (label[:8] == -100).all()
            assert (label[8:] == int(path.stem)).all()
    model = kit.build("semantic_segmentation", preset="tiny", **task.overrides)
    assert model.labels == {"label": task.classes}
    assert segmented(masked(tmp_path / "b")).overrides["num_labels"] == 3, "the largest value"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(size=(40, 31)), r"0.png: expected the size of its picture, 30 × 40, got 31 × 40"),
        (dict(classes="sky\n\nsea\nice"), r"classes.txt, line 2: expected the name of another class, got ''"),
        (dict(classes="sky\nsea\nsky"), r"classes.txt, line 3: expected the name of another class, got 'sky'"),
        (dict(classes="sky\nsea"), r"2.png: expected classes 0 to 1, those of classes.txt, or 255 for none, got 2"),
    ],
)
def test_what_is_wrong_with_a_mask_is_named(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        segmented(masked(tmp_path, **options))


def test_names_of_classes_in_another_encoding_are_refused(tmp_path: Path) -> None:
    masked(tmp_path).joinpath("classes.txt").write_bytes("Äpfel".encode("latin-1"))
    with pytest.raises(InputError, match=r"classes.txt cannot be read as text"):
        segmented(tmp_path)


def test_a_picture_without_a_mask_and_a_mask_of_colours_are_named(tmp_path: Path) -> None:
    root = masked(tmp_path)
    Image.new("RGB", (30, 40)).save(root / "masks" / "1.png")
    with pytest.raises(InputError, match=r"1.png: expected a mask of one channel of 8 bits, got mode RGB"):
        segmented(root)
    Image.fromarray(np.zeros((40, 30), np.uint16)).save(root / "masks" / "1.png")
    with pytest.raises(InputError, match=r"1.png: expected a mask of one channel of 8 bits, got mode I;16"):
        segmented(root)
    (root / "masks" / "1.png").unlink()
    with pytest.raises(InputError, match=r"expected a mask for each picture, got none for images/1.jpg"):
        segmented(root)


def test_the_ignored_value_is_a_class(tmp_path: Path) -> None:
    with pytest.raises(kit.AssemblyError, match="mask_folder: ignored must be an int of at least 0"):
        mask_folder(masked(tmp_path), ignored=-1)
