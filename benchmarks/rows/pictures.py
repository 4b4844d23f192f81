"""Objects and masks: digits on canvases."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from perceiver_kit.data.canvases import INK, DigitScenes
from perceiver_kit.data.images import mnist
from perceiver_kit.objectives.average_precision import coco_summary

from ..training import Row, Run, opened, recipes_for, row, train

DETECTOR, SEGMENTER = recipes_for("digits")
SEEDS = (0, 1, 2)


def detection(seed: int) -> list[Row]:
    task = opened(DETECTOR, "digits", "quick", seed=seed)
    metrics = train("digit_objects", DETECTOR, task, preset="quick", seed=seed)
    label = f"digits on canvases, `{DETECTOR}`, preset `quick`"
    baseline = {"connected components + logistic regression": components(task.held_out)}
    return [row(label, "AP50", "ap50", metrics, baseline)]


def segmentation(seed: int) -> list[Row]:
    task = opened(SEGMENTER, "digits", "quick", seed=seed)
    metrics = train("digit_masks", SEGMENTER, task, preset="quick", seed=seed)
    label = f"digits on canvases, `{SEGMENTER}`, preset `quick`"
    return [row(label, "mean IoU", "iou", metrics, {"ink as one digit": ink(task.held_out)})]


def components(held_out: Any) -> float:
    """AP50 of connected components of ink as boxes, with logistic regression of their 28 × 28 pixels."""
    from skimage.measure import label, regionprops
    from sklearn.linear_model import LogisticRegression

    train_digits = mnist()[0]
    x = torch.stack([centred(picture[0].numpy()) for picture in train_digits.pixels])
    classifier = LogisticRegression(max_iter=200).fit(x, train_digits.labels)
    scores, boxes, most = [], [], 36
    samples = [held_out[i] for i in range(len(held_out))]
    for sample in samples:
        canvas = ((sample["inputs"]["image"][0] + 1) * 127.5).round().numpy()
        height, width = canvas.shape
        own_scores, own_boxes = torch.zeros(most, 10), torch.zeros(most, 4)
        regions = [region for region in regionprops(label(canvas >= INK, connectivity=2)) if region.area >= 15][:most]
        for i, region in enumerate(regions):
            top, left, bottom, right = region.bbox
            digit = centred(canvas[top:bottom, left:right])
            own_scores[i] = torch.from_numpy(classifier.predict_proba(digit[None])[0])
            own_boxes[i] = torch.tensor([(left + right) / 2 / width, (top + bottom) / 2 / height, 0, 0])
            own_boxes[i, 2:] = torch.tensor([(right - left) / width, (bottom - top) / height])
        scores.append(own_scores)
        boxes.append(own_boxes)
    classes, truth = (torch.stack([sample["targets"][name] for sample in samples]) for name in ("class", "box"))
    return coco_summary(torch.stack(scores), torch.stack(boxes), classes, truth)[1]


def centred(digit: np.ndarray) -> torch.Tensor:
    """The ink of a digit in the middle of 28 × 28 pixels, flat, in [0, 1]."""
    rows, columns = np.nonzero(digit >= INK)
    part = digit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1][:28, :28]
    whole = np.zeros((28, 28), np.float32)
    top, left = ((28 - side) // 2 for side in part.shape)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part / 255
    return torch.from_numpy(whole.ravel())


def ink(held_out: DigitScenes | Any) -> float:
    """Mean IoU, where all ink is the digit that gives the most."""
    wanted = torch.stack([held_out[i]["targets"]["label"] for i in range(len(held_out))])
    values = []
    for digit in range(1, 11):
        found = torch.where(wanted > 0, digit, 0)
        overlaps = [
            ((found == one) & (wanted == one)).sum() / ((found == one) | (wanted == one)).sum() for one in range(11)
        ]
        values.append(float(torch.stack(overlaps).mean()))
    return max(values)


RUNS = {"digit_objects": Run(detection, SEEDS), "digit_masks": Run(segmentation, SEEDS)}
