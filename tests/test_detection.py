"""Detection: boxes, matching, losses and average precision against independent restatements."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import perceiver_kit as kit
from perceiver_kit.errors import InputError
from perceiver_kit.objectives import Classification, Detection, Segmentation, Weighted
from perceiver_kit.objectives.boxes import corners, generalised_iou

from .objective_cases import measured

pytestmark = pytest.mark.usefixtures("checked")

CLASSES = 3


def some(batch: int, rows: int, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of 5 queries and up to ``rows`` objects."""
    torch.manual_seed(seed)
    outputs = {"class": torch.randn(batch, 5, CLASSES + 1), "box": torch.rand(batch, 5, 4) * 0.5 + 0.1}
    classes = torch.randint(CLASSES, (batch, rows))
    classes[torch.arange(rows) >= torch.randint(rows + 1, (batch, 1))] = -100
    boxes = torch.rand(batch, rows, 4) * 0.5 + 0.1
    return outputs, {"class": classes, "box": boxes.masked_fill((classes == -100)[..., None], torch.nan)}


def shared(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Intersection, union and enclosing area of two boxes (left, top, right, bottom)."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    around = (max(one[2], other[2]) - min(one[0], other[0])) * (max(one[3], other[3]) - min(one[1], other[1]))
    return width * height, areas - width * height, around


def test_generalised_iou_is_that_of_the_paper() -> None:
    one, other = torch.rand(200, 4), torch.rand(200, 4)
    for a, b, found in zip(corners(one).numpy(), corners(other).numpy(), generalised_iou(one, other), strict=True):
        both, union, around = shared(a, b)
        assert float(found) == pytest.approx(both / union - (around - union) / around, abs=1e-5)
    assert torch.allclose(generalised_iou(one, one), torch.ones(200), atol=1e-5)
    assert generalised_iou(torch.zeros(4), torch.zeros(4)).isfinite(), "boxes without area"


def test_the_matching_is_the_cheapest_of_all() -> None:
    objective = Detection()
    for seed in range(5):
        outputs, targets = some(1, 3, seed)
        there = (targets["class"][0] != -100).nonzero()[:, 0].tolist()
        likely = outputs["class"][0].softmax(-1)

        def cost(query: int, row: int) -> float:
            box, truth = outputs["box"][0, query], targets["box"][0, row]  # noqa: B023
            both, union, around = shared(corners(box).numpy(), corners(truth).numpy())
            giou = both / union - (around - union) / around
            return float(5 * (box - truth).abs().sum() - likely[query, targets["class"][0, row]]) - 2 * giou  # noqa: B023

        pairings = itertools.permutations(range(5), len(there))
        best = min(pairings, key=lambda pairing: sum(map(cost, pairing, there)))
        samples, queries, rows = objective.match(*objective._checked(outputs, targets))
        assert dict(zip(rows.tolist(), queries.tolist(), strict=True)) == dict(zip(there, best, strict=True))
        assert (samples == 0).all()


def test_the_loss_is_that_of_the_matched_pairs() -> None:
    outputs, targets = some(3, 4)
    objective = Detection(no_object=0.3)
    samples, queries, rows = objective.match(*objective._checked(outputs, targets))
    wanted = torch.full((3, 5), CLASSES)
    wanted[samples, queries] = targets["class"][samples, rows]
    weight = torch.tensor([1.0] * CLASSES + [0.3])
    entropy = F.cross_entropy(outputs["class"].flatten(0, 1), wanted.flatten(), weight=weight)
    box, truth = outputs["box"][samples, queries], targets["box"][samples, rows]
    loss, parts = objective(outputs, targets)
    assert parts["class"].item() == pytest.approx(entropy.item(), rel=1e-5)
    assert parts["box"].item() == pytest.approx((box - truth).abs().sum(-1).mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx(float(parts["class"] + 5 * parts["box"] + 2 * parts["giou"]), rel=1e-5)


def test_neither_the_order_of_objects_nor_rows_without_one_change_the_loss() -> None:
    outputs, targets = some(4, 4)
    loss, _ = Detection()(outputs, targets)
    order = torch.randperm(4)
    mixed = {name: value[:, order] for name, value in targets.items()}
    padded = {"class": F.pad(targets["class"], (0, 7), value=-100), "box": F.pad(targets["box"], (0, 0, 0, 7))}
    for other in (mixed, padded):
        assert Detection()(outputs, other)[0].item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_picture_without_objects_teaches_that_there_is_none() -> None:
    outputs, _ = some(2, 2)
    outputs = {name: value.requires_grad_() for name, value in outputs.items()}
    targets = {"class": torch.full((2, 2), -100), "box": torch.full((2, 2, 4), torch.nan)}
    loss, parts = Detection()(outputs, targets)
    loss.backward()
    assert parts["box"] == parts["giou"] == 0 and parts["class"] > 0
    assert outputs["class"].grad[..., -1].max() < 0, "more of the last class lowers the loss"  # type: ignore[index]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(box=torch.zeros(2, 3, 3)), "target 'box' must be float \\(2, 3, 4\\)"),
        ({"class": torch.zeros(2, 3)}, "target 'class' must be int64 \\(2, objects\\)"),
        ({"class": torch.full((2, 3), CLASSES)}, "classes from 0 to 2, got 3"),
        ({"class": torch.zeros(2, 6).long(), "box": torch.zeros(2, 6, 4)}, "at most 5 objects, the number of queries"),
    ],
)
def test_wrong_targets_are_refused(change: dict[str, Tensor], message: str) -> None:
    outputs, targets = some(2, 3)
    with pytest.raises(InputError, match=message):
        Detection()(outputs, targets | change)


def average_precision(scores: Tensor, boxes: Tensor, targets: dict[str, Tensor], least: float) -> float:
    """AP at one IoU: greedy matches by score, precision interpolated at 101 recalls, mean over classes."""
    values = []
    best, kinds = scores.max(-1)
    for kind in range(CLASSES):
        truths = {i: (targets["class"][i] == kind).nonzero()[:, 0].tolist() for i in range(len(scores))}
        total = sum(map(len, truths.values()))
        if not total:
            continue
        found = [(float(best[i, q]), i, q) for i, q in (kinds == kind).nonzero().tolist()]
        hits = []
        for _, image, query in sorted(found, reverse=True):
            overlaps = {}
            for row in truths[image]:
                both, union, _ = shared(
                    corners(boxes[image, query]).numpy(), corners(targets["box"][image, row]).numpy()
                )
                overlaps[row] = both / union
            row = max(overlaps, key=overlaps.__getitem__, default=None)
            hits.append(row is not None and overlaps[row] >= least)
            if hits[-1]:
                truths[image].remove(row)  # type: ignore[arg-type]
        right = np.cumsum(hits)
        recall, precision = right / total, right / np.arange(1, len(hits) + 1)
        steps = [max(precision[recall >= r - 1e-9], default=0.0) for r in np.linspace(0, 1, 101)]
        values.append(float(np.mean(steps)))
    return float(np.mean(values))


def test_average_precision_is_that_of_a_restatement() -> None:
    pytest.importorskip("faster_coco_eval")
    outputs, targets = some(12, 4, seed=3)
    # Some detections near their objects.
    outputs["box"][:, :3] = torch.where(
        targets["box"][:, :3].isnan(), outputs["box"][:, :3], targets["box"][:, :3] + 0.03 * torch.randn(12, 3, 4)
    )
    cuts = (slice(0, 5), slice(5, 12))
    batches = [tuple({name: v[c] for name, v in part.items()} for part in (outputs, targets)) for c in cuts]
    found = measured(Detection(), batches)  # type: ignore[arg-type]
    scores = outputs["class"].softmax(-1)[..., :-1]
    assert 0.02 < found["ap50"] < 0.9
    assert found["ap50"] == pytest.approx(average_precision(scores, outputs["box"], targets, 0.5), abs=1e-6)
    every = [average_precision(scores, outputs["box"], targets, t) for t in np.arange(0.5, 0.96, 0.05)]
    assert found["ap"] == pytest.approx(np.mean(every), abs=1e-6)
    nothing = {"class": torch.full((12, 4), -100), "box": targets["box"]}
    assert math.isnan(measured(Detection(), [(outputs, nothing)])["ap"])


def test_a_weighted_sum_keeps_the_terms_apart() -> None:
    outputs, targets = some(2, 3)
    outputs["label"], targets["label"] = torch.randn(2, 4), torch.tensor([0, 3])
    objective = Weighted({"objects": Detection(), "label": Classification()})
    loss, parts = objective(outputs, targets)
    assert {*parts} == {"objects_class", "objects_box", "objects_giou", "label"}
    assert loss.item() == pytest.approx((Detection()(outputs, targets)[0] + parts["label"]).item(), rel=1e-5)


def test_intersection_over_union_of_pixels() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    logits, wanted = torch.randn(5, 4, 6, 7), torch.randint(3, (5, 6, 7))
    wanted[torch.rand(5, 6, 7) < 0.2] = -100
    batches = [({"label": logits[c]}, {"label": wanted[c]}) for c in (slice(0, 2), slice(2, 5))]
    found, there = logits.argmax(1), wanted != -100
    score = sklearn.jaccard_score(wanted[there], found[there], average="macro")
    assert measured(Segmentation(), batches)["iou"] == pytest.approx(score, rel=1e-6)


def test_at_and_chunk_are_exact_or_refused() -> None:
    image = torch.rand(2, 3, 32, 32)
    mixing = kit.build("object_detection", preset="tiny").eval()
    index = torch.tensor([3, 1])
    with pytest.raises(InputError, match="depend on each other"):
        mixing(image, at={"class": index})
    with pytest.raises(InputError, match="read each other"):
        mixing(image, chunk=2)
    for count in (8, None):
        plain = kit.build(
            "object_detection", preset="tiny", decoder_layers=0, decoder_heads=1, num_queries=count
        ).eval()
        with torch.no_grad():
            whole, part = plain(image), plain(image, at={"class": index, "box": index})
            chunked = plain(image, chunk=3)
        for name, value in whole.items():
            torch.testing.assert_close(part[name], value[:, index])
            torch.testing.assert_close(chunked[name], value)


def test_rows_of_the_stem_start_with_boxes_at_their_places() -> None:
    """At every size of pictures; the content does not matter yet."""
    model = kit.build("object_detection", preset="quick").eval()
    for height, width in ((96, 96), (64, 128)):
        rows, columns = height // 16, width // 16
        boxes = model(torch.rand(2, 3, height, width))["box"]
        assert boxes.shape == (2, rows * columns, 4)
        y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in (rows, columns)), indexing="ij")
        off = 1e-5 if height == width else 0.06  # the fit is to the places of the preset's size
        assert (boxes[..., 0] - x.ravel()).abs().max() < off and (boxes[..., 1] - y.ravel()).abs().max() < off
        assert torch.allclose(boxes[..., 2:], torch.tensor(0.2), atol=1e-5)


def test_class_and_box_come_from_one_decoder_call() -> None:
    model = kit.build("object_detection", preset="tiny")
    calls = []
    model.decoder.register_forward_hook(lambda *_: calls.append(1))
    model(torch.rand(1, 3, 40, 24))
    assert len(calls) == 1
