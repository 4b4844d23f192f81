"""Augmentation of training pictures: random crops, mirrors, RandAugment, MixUp and CutMix.

Source of the settings: deepmind-research/perceiver/train (``experiment.py``, ``dataset.py``, ``autoaugment.py``), the
training of the Perceiver and of Perceiver IO on ImageNet. Its mixing is that of NFNets (Brock et al. 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from torch import Generator, Tensor
from torch.utils.data import Dataset

from ..checking import check_flag, check_number, check_positive, describe_value
from ..errors import AssemblyError, InputError, UnknownName, nearest
from .image_processor import CHANNELS
from .images import to_unit
from .randaugment import GREY, MAX_MAGNITUDE, MOVES, OPERATIONS, Affine, move, recolour
from .sampling import EVALUATION, Key, Sample, generator
from .task import Task

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
"""Random crops: their share of the picture's area, and their width over height."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training picture, in this order; the published settings are ``Augmentation.named("all")``.

    Args:
        crop: a part of 8 to 100 % of the picture, of aspect 3/4 to 4/3, resized to the whole.
        flip: mirror with probability 0.5.
        randaugment: (operations, magnitude from 0 to 10) of RandAugment, or None.
        mixup: a of MixUp: a picture is λ of itself and 1 − λ of another one, λ from Beta(a, a); or None.
        cutmix: paste a random rectangle of a picture into another one, or None. With ``mixup``, one of the two, each
            for half of the pictures.

    MixUp and CutMix mix the classes too, in proportion.
    """

    crop: bool = False
    flip: bool = False
    randaugment: tuple[int, float | int] | None = None
    mixup: float | None = None
    cutmix: bool = False

    def __post_init__(self) -> None:
        check_flag("Augmentation", crop=self.crop, flip=self.flip, cutmix=self.cutmix)
        if self.randaugment is not None:
            operations, magnitude = self.randaugment
            check_positive("Augmentation: randaugment", operations=operations)
            check_number("Augmentation: randaugment", magnitude=float(magnitude))
            if magnitude > MAX_MAGNITUDE:
                raise AssemblyError(
                    f"Augmentation: randaugment's magnitude must be at most {MAX_MAGNITUDE}, got {magnitude}"
                )
        if self.mixup is not None:
            check_number("Augmentation", above=0.0, mixup=self.mixup)

    @classmethod
    def named(cls, *names: str) -> Augmentation:
        """The published settings of some of crop, flip, randaugment, mixup and cutmix, or of all.

        >>> Augmentation.named("randaugment", "mixup")
        Augmentation(crop=False, flip=False, randaugment=(4, 5), mixup=0.2, cutmix=False)
        """
        for name in names:
            if name not in ("all", *PUBLISHED):
                raise UnknownName(f"no augmentation {name!r}; {nearest(name, ('all', *PUBLISHED))}")
        return cls(**{name: value for name, value in PUBLISHED.items() if name in names or "all" in names})


PUBLISHED: dict[str, Any] = dict(crop=True, flip=True, randaugment=(4, 5), mixup=0.2, cutmix=True)


class Augmented(Dataset[Sample]):
    """A data set of pictures whose training samples are changed at random; evaluation samples are not.

    Random numbers are a function of seed, step and index, as those of all data sets of the kit. Boxes and masks follow
    each move. A box is clipped; it is dropped if its centre leaves the picture, as in SSD (Liu et al. 2016, section
    2.2). Uncovered pixels are grey, and have no class in a mask (-100).

    Args:
        data: samples of one input ``image`` (c, h, w) in [-1, 1], with 1, 3 or 4 channels. Targets are a class
            ``label`` () or (classes,), a mask ``label`` (h, w), or objects: ``class`` (m,) and ``box`` (m, 4).
        changes: what is changed.
        classes: number of classes; only needed to mix classes ().

    Raises InputError for samples of another form, and for MixUp or CutMix of boxes or masks.

    >>> from perceiver_kit.data.images import Images
    >>> digits = Images(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5))
    >>> mixed = Augmented(digits, Augmentation(mixup=0.2), classes=5)
    >>> mixed[0, 7]["targets"]["label"].sum()
    tensor(1.)
    """

    def __init__(self, data: Any, changes: Augmentation, *, classes: int | None = None, seed: int = 0) -> None:
        self.data, self.changes, self.classes, self.seed = data, changes, classes, seed
        kind = _kind(data[0, EVALUATION])
        if changes.mixup is not None or changes.cutmix:
            if kind != "class":
                raise InputError(f"augmentation: mixup and cutmix mix the classes of whole pictures, got a {kind}")
            if classes is None and not data[0, EVALUATION]["targets"]["label"].ndim:
                raise InputError("augmentation: mixup and cutmix need the number of classes; give classes=")

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> Sample:
        index, step = key if isinstance(key, tuple) else (key, EVALUATION)
        if step == EVALUATION:
            return self.data[key]
        random = generator(self.seed, step, index, 0)  # a fourth number: not the sample's own generator
        sample = self._changed(self.data[key], random)
        chosen = [name for name in ("mixup", "cutmix") if getattr(self.changes, name)]
        if not chosen:
            return sample
        other = int(torch.randint(len(self), (), generator=random))
        name = chosen[int(torch.randint(len(chosen), (), generator=random))]
        return self._mixed(name, sample, self._changed(self.data[other, step], random), random)

    def _changed(self, sample: Sample, random: Generator) -> Sample:
        kind, targets, changes = _kind(sample), dict(sample["targets"]), self.changes
        picture = _picture(sample["inputs"]["image"])
        width, height = picture.size
        moves = []
        if changes.crop:
            moves.append(_window(height, width, random))
        if changes.flip and torch.rand((), generator=random) < 0.5:
            moves.append(Affine(a=-1.0, c=float(width)))
        for affine in moves:
            picture = _read(picture, affine, smooth=True)
            _move_targets(kind, targets, affine, (height, width))
        operations, magnitude = changes.randaugment or (0, 0)
        for which in torch.randint(len(OPERATIONS), (operations,), generator=random).tolist():
            if OPERATIONS[which] in MOVES:
                affine = move(OPERATIONS[which], magnitude, (height, width), random)
                picture = _read(picture, affine)
                _move_targets(kind, targets, affine, (height, width))
            else:
                picture = recolour(OPERATIONS[which], picture, magnitude, random)
        pixels = rearrange(torch.from_numpy(np.array(picture)), "h w ... -> (...) h w", h=height)
        return {**sample, "inputs": {"image": to_unit(pixels)}, "targets": targets}

    def _mixed(self, name: str, one: Sample, other: Sample, random: Generator) -> Sample:
        image = one["inputs"]["image"]
        if name == "mixup":
            numbers = np.random.default_rng(int(torch.randint(2**62, (), generator=random)))
            alpha = self.changes.mixup or 0.0
            weight = torch.tensor(numbers.beta(alpha, alpha), dtype=torch.float32)
        else:
            weight = _rectangle(image.shape[-2], image.shape[-1], random)
        mixed = weight * image + (1 - weight) * other["inputs"]["image"]
        mine, theirs = (self._probabilities(sample["targets"]["label"]) for sample in (one, other))
        share = weight.mean()
        return {**one, "inputs": {"image": mixed}, "targets": {"label": share * mine + (1 - share) * theirs}}

    def _probabilities(self, label: Tensor) -> Tensor:
        """Of each class; NaN for a missing class."""
        if label.is_floating_point():
            return label
        known = torch.zeros(self.classes or 0).index_fill_(0, label.clamp(min=0), 1.0)
        return torch.where(label < 0, torch.nan, known)


def augmented(task: Task, changes: Augmentation, *, seed: int = 0) -> Task:
    """The task with augmented training data. Raises InputError as ``Augmented``.

    >>> from perceiver_kit.data.tasks import open_task
    >>> task = open_task("mnist", recipe="image_classification_fourier", preset="tiny")
    >>> augmented(task, Augmentation.named("all")).train[0, 0]["inputs"]["image"].shape
    torch.Size([3, 28, 28])
    """
    return replace(task, train=Augmented(task.train, changes, classes=task.overrides.get("num_labels"), seed=seed))


def _kind(sample: Any) -> str:
    """What the targets of a sample are; InputError for a sample that is no picture."""
    inputs, targets = sample["inputs"], sample["targets"]
    image = inputs.get("image")
    fits = [*inputs] == ["image"] and image.ndim == 3 and len(image) in CHANNELS and not sample.get("mask")
    label, box = targets.get("label"), targets.get("box")
    if fits and {*targets} == {"class", "box"} and tuple(box.shape) == (*targets["class"].shape, 4):
        return "box"
    if fits and {*targets} == {"label"} and label.ndim < 2:
        return "class"
    if fits and {*targets} == {"label"} and label.shape == image.shape[1:]:
        return "mask"
    expected = "one input image (c, h, w) of 1, 3 or 4 channels, with a class, a mask, or objects with boxes"
    parts = (f"{part} {describe_value(value)}" for part, value in {**inputs, **targets}.items())
    raise InputError(f"augmentation: expected {expected}; got {', '.join(parts)}")


def _picture(image: Tensor) -> PILImage:
    from PIL import Image

    pixels = ((image + 1) * 127.5).round().clamp(0, 255).byte()
    single = len(pixels) == 1
    return Image.fromarray(pixels[0].numpy() if single else rearrange(pixels, "c h w -> h w c").numpy().copy())


def _window(height: int, width: int, random: Generator) -> Affine:
    """Reads a random part of the picture as the whole; after ten failures, all of it."""
    for area, place, left, top in torch.rand(10, 4, generator=random).tolist():
        share = (AREA[0] + area * (AREA[1] - AREA[0])) * height * width
        aspect = math.exp(math.log(ASPECT[0]) + place * math.log(ASPECT[1] / ASPECT[0]))
        w, h = round(math.sqrt(share * aspect)), round(math.sqrt(share / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = (int(part * (room + 1)) for part, room in ((left, width - w), (top, height - h)))
            return Affine(w / width, 0.0, float(x), 0.0, h / height, float(y))
    return Affine()


def _read(picture: PILImage, affine: Affine, *, smooth: bool = False, fill: int = GREY) -> PILImage:
    from PIL.Image import Resampling, Transform

    bands = len(picture.getbands())
    resampling = Resampling.BICUBIC if smooth and affine.a > 0 else Resampling.NEAREST  # a mirror is exact
    colour: Any = fill if bands == 1 else (fill,) * bands
    return picture.transform(picture.size, Transform.AFFINE, affine, resampling, fillcolor=colour)


def _move_targets(kind: str, targets: dict[str, Tensor], affine: Affine, size: tuple[int, int]) -> None:
    """Move a mask or boxes with their picture (height, width)."""
    if kind == "mask":
        from PIL import Image

        mask = _read(Image.fromarray(targets["label"].int().numpy()), affine, fill=-100)
        targets["label"] = torch.from_numpy(np.array(mask)).long()
    elif kind == "box":
        targets["class"], targets["box"] = _moved_boxes(targets["class"], targets["box"], affine, size)


def _moved_boxes(classes: Tensor, boxes: Tensor, affine: Affine, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The upright boxes around the moved ones, as shares of the picture, clipped; others become missing."""
    scale = torch.tensor([size[1], size[0]], dtype=torch.float64)
    matrix = torch.tensor([affine[:2], affine[3:5]], dtype=torch.float64)
    offset = torch.tensor([affine.c, affine.f], dtype=torch.float64)

    def moved(points: Tensor) -> Tensor:
        return torch.linalg.solve(matrix, (points.double() * scale - offset)[..., None])[..., 0] / scale

    middle, half = boxes[:, :2], boxes[:, 2:] / 2
    corners = torch.stack([middle + torch.tensor(signs) * half for signs in ((-1, -1), (-1, 1), (1, -1), (1, 1))])
    centre, (low, high) = moved(middle), moved(corners).clamp(0, 1).aminmax(dim=0)
    there = (classes >= 0) & ((centre > 0) & (centre < 1)).all(-1)
    found = torch.cat([(low + high) / 2, high - low], -1).float()
    return torch.where(there, classes, -100), torch.where(there[:, None], found, torch.nan)


def _rectangle(height: int, width: int, random: Generator) -> Tensor:
    """Float (h, w): 1 in a rectangle around a random pixel, of a uniform share of the area before it is clipped."""
    middle = torch.rand(2, generator=random) * torch.tensor([height, width])
    half = torch.rand((), generator=random).sqrt() * torch.tensor([height, width]) / 2
    (top, left), (bottom, right) = ((middle + sign * half).clamp(min=0).int().tolist() for sign in (-1, 1))
    inside = torch.zeros(height, width)
    inside[top:bottom, left:right] = 1
    return inside
