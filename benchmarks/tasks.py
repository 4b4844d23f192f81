"""What is measured: tasks, their sizes, how often, and the targets that each is held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

KIT, HUGGING_FACE, PERCEIVER_PYTORCH = "kit", "huggingface", "perceiver_pytorch"

ARCHITECTURES = {
    "masked_lm": "PerceiverForMaskedLM",
    "sequence_classification": "PerceiverForSequenceClassification",
    "image_classification_learned": "PerceiverForImageClassificationLearned",
    "image_classification_fourier": "PerceiverForImageClassificationFourier",
    "image_classification_conv": "PerceiverForImageClassificationConvProcessing",
    "optical_flow": "PerceiverForOpticalFlow",
    "multimodal_autoencoding": "PerceiverForMultimodalAutoencoding",
}
IMAGES = [name for name in ARCHITECTURES if name.startswith("image")]
VIDEO = "multimodal_autoencoding"

# The reference decodes a video in 128 equal parts, and encodes again for each.
PARTS = 128
PART = {"image": 802816 // PARTS, "audio": 1920 // PARTS}

Point = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """At least so many times faster; at most such a share of the reference's memory above the weights."""

    faster: float | None = None
    memory: float | None = None
    floor: float | None = None  # seconds, at most so many times those at the matmul peak
    time_slope: float | None = None
    memory_slope: float | None = None


@dataclass(frozen=True)
class Task:
    """One comparison: the sides take turns, each time in a process of its own.

    ``points`` are the sizes that a process measures one after another, ``repeats`` how often each; the first call of
    a process is not counted where ``warm``. Memory has a process of its own on each side, since where it is counted
    well nothing is timed well. ``seconds`` is about how long all of it takes, to say what is left.
    """

    name: str
    kind: str
    recipe: str = ""
    dtype: str = "float32"
    points: tuple[Point, ...] = ({},)
    sides: tuple[str, ...] = (KIT, HUGGING_FACE)
    rounds: int = 3
    repeats: int = 3
    warm: bool = True
    memory: bool = True
    seconds: int = 60
    target: Target = field(default_factory=Target)


def _forward(recipe: str, **options: Any) -> Task:
    memory = {"optical_flow": 1 / 3}.get(recipe, 0.5 if recipe in IMAGES else None)
    faster = {"optical_flow": 3.0, VIDEO: 8.0}.get(recipe, 1.0)
    return Task(f"forward/{recipe}", "forward", recipe, target=Target(faster, memory, floor=1.4), **options)


def _train(recipe: str, **options: Any) -> Task:
    memory = 2 / 3 if recipe in IMAGES or recipe == "optical_flow" else None
    return Task(f"train/{recipe}", "train", recipe, target=Target(1.1, memory), rounds=2, **options)


SIZES = (65536, 131072, 262144, 524288, 1048576)

TASKS = [
    Task(
        "peak",
        "peak",
        sides=(KIT,),
        points=({"dtype": "float32"}, {"dtype": "bfloat16"}),
        repeats=5,
        memory=False,
        seconds=25,
    ),
    _forward("masked_lm", repeats=2, seconds=60),
    _forward("sequence_classification", repeats=2, seconds=55),
    _forward("image_classification_learned", repeats=2, seconds=105),
    _forward("image_classification_fourier", repeats=2, seconds=95),
    _forward("image_classification_conv", repeats=2, seconds=85),
    # Two rounds of what takes Hugging Face half a minute or more.
    _forward("optical_flow", rounds=2, repeats=1, seconds=225),
    _forward(VIDEO, rounds=2, repeats=3, seconds=140),
    _train("masked_lm", repeats=2, seconds=60),
    _train("sequence_classification", repeats=2, seconds=55),
    _train("image_classification_learned", repeats=1, seconds=120),
    _train("image_classification_fourier", repeats=1, seconds=105),
    _train("image_classification_conv", repeats=1, seconds=95),
    _train("optical_flow", repeats=1, warm=False, seconds=370),
    _train(VIDEO, repeats=1, seconds=70),
    Task(
        "bfloat16/optical_flow",
        "forward",
        "optical_flow",
        dtype="bfloat16",
        rounds=2,
        repeats=1,
        seconds=120,
        target=Target(8.0),
    ),
    Task(
        "bfloat16/image_classification_fourier",
        "forward",
        "image_classification_fourier",
        "bfloat16",
        rounds=2,
        seconds=50,
    ),
    Task(
        "batch/image_classification_fourier",
        "forward",
        "image_classification_fourier",
        points=tuple({"batch": batch} for batch in (1, 2, 4, 8)),
        rounds=1,
        repeats=1,
        seconds=125,
    ),
    Task(
        "length/masked_lm",
        "forward",
        "masked_lm",
        points=tuple({"length": length} for length in (128, 256, 512, 1024, 2048)),
        rounds=1,
        seconds=40,
    ),
    Task(
        "size/image_classification_fourier",
        "forward",
        "image_classification_fourier",
        points=tuple({"size": size} for size in (112, 224, 336, 448)),
        rounds=1,
        repeats=1,
        seconds=80,
    ),
    Task(
        "growth/inputs",
        "growth",
        sides=(KIT,),
        points=tuple({"rows": rows} for rows in SIZES),
        rounds=2,
        seconds=45,
        target=Target(time_slope=1.05, memory_slope=1.0),
    ),
    Task(
        "growth/queries",
        "growth",
        sides=(KIT,),
        points=tuple({"queries": queries} for queries in SIZES),
        rounds=2,
        seconds=45,
        target=Target(time_slope=1.05, memory_slope=1.0),
    ),
    Task(
        "perceiver-pytorch/forward",
        "generic",
        sides=(KIT, PERCEIVER_PYTORCH),
        target=Target(1.0),
        seconds=60,
    ),
    Task(
        "perceiver-pytorch/train",
        "generic_train",
        sides=(KIT, PERCEIVER_PYTORCH),
        rounds=2,
        repeats=1,
        target=Target(1.0),
        seconds=45,
    ),
]


def quick(task: Task) -> Task:
    """The same at sizes that show that it works: under three minutes for all of them, and no figure to quote."""
    small = {"rounds": 0, "repeats": 1, "warm": False, "target": Target()}
    points = task.points[:2]
    if task.kind == "growth":
        points = tuple({key: value // 16 for key, value in point.items()} for point in points)
    return Task(**{**vars(task), **small, "points": points})


def chosen(patterns: list[str], tasks: list[Task] = TASKS) -> list[Task]:
    """Tasks whose names contain one of the patterns; all for none. ValueError for a pattern that fits nothing."""
    for pattern in patterns:
        if not any(pattern in task.name for task in tasks):
            raise ValueError(f"no task {pattern!r}; there are: {', '.join(task.name for task in tasks)}")
    return [task for task in tasks if not patterns or any(pattern in task.name for pattern in patterns)]
