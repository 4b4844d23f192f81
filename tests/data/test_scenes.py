"""Folders of clips with or without sound, missing modalities, and windows of real clips split by time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import perceiver_kit as kit
from perceiver_kit.data.motion import FOLDS, split_by_time
from perceiver_kit.data.scenes import Scene, Scenes, Shown, read_scene, windows_of
from perceiver_kit.data.tasks import open_task
from perceiver_kit.errors import InputError
from perceiver_kit.registry import find
from perceiver_kit.training.recipe import train_recipe

from .making import grey, video
from .test_sounds import tone

pytestmark = pytest.mark.usefixtures("checked")

RECIPE = "video_classification"
HUM = np.sin(np.arange(8000) / 5)[:, None] / 2


def clips(root: Path) -> Path:
    """Two classes, whose clips are bright or dark; some without sound, one of sound alone."""
    for name, light in (("day", 150), ("night", 10)):
        for number in range(4):
            sound = HUM if number % 2 else None
            video(root / name / f"{number}.mkv", grey(10, light=light + number), sound=sound)
    tone(root / "night" / "owl.wav", 400, seconds=0.5)
    return root


def test_a_folder_of_clips_some_without_sound_one_without_frames(tmp_path: Path) -> None:
    task = open_task(clips(tmp_path), recipe=RECIPE, preset="tiny")
    assert task.classes == ("day", "night")
    items = [task.train[i] for i in range(len(task.train))] + [task.held_out[i] for i in range(len(task.held_out))]
    model = kit.build(RECIPE, preset="tiny", **task.overrides).eval()
    for item in items:
        given, mask, label = item["inputs"], item["mask"], int(item["targets"]["label"])
        assert given["video"].shape == (4, 3, 16, 16) and given["audio"].shape == (1280,)
        assert {name: len(rows) for name, rows in mask.items()} == {"video": 64, "audio": 16}
        for name in ("video", "audio"):
            assert len(mask[name].unique()) == 1 and bool(mask[name][0]) == bool(given[name].any())
        if mask["video"][0]:
            assert (given["video"].mean() > 0) == (label == 0)
    there = Counter(tuple(bool(item["mask"][name][0]) for name in ("video", "audio")) for item in items)
    assert {*there} == {(True, True), (True, False), (False, True)}
    batch = default_collate(items)
    whole = model(batch["inputs"], mask=batch["mask"])["label"]
    for item, wanted in zip(items, whole, strict=True):  # masked is as left out
        own = {name: x[None] for name, x in item["inputs"].items() if item["mask"][name][0]}
        torch.testing.assert_close(model(own)["label"][0], wanted, rtol=1e-4, atol=1e-5)


def test_training_drops_either_modality() -> None:
    scene = Scene(torch.full((4, 3, 8, 8), 9, dtype=torch.uint8), torch.ones(40, dtype=torch.int16))
    sizes = dict(num_frames=4, image_size=(8, 8), samples=40, rows=dict(video=2, audio=3))
    data = Scenes([scene], [Shown(0)], torch.tensor([0]), drop=0.5, **sizes)  # type: ignore[arg-type]
    masks = [data[0, step]["mask"] for step in range(200)]
    found = Counter((bool(mask["video"].all()), bool(mask["audio"].all())) for mask in masks)
    assert 60 < found[True, True] < 140 and min(found[True, False], found[False, True]) > 20
    assert found[False, False] == 0
    assert all(rows.all() for rows in data[0]["mask"].values())  # not in evaluation


def test_windows_show_frames_at_their_step_and_the_sound_of_their_time() -> None:
    frames = torch.arange(20, dtype=torch.uint8).reshape(20, 1, 1, 1).expand(20, 3, 2, 2)
    scene = Scene(frames, torch.arange(200).short())
    shown = [Shown(0, 3), Shown(0, 1, 4), Shown(0, 9, -1)]
    sizes = dict(num_frames=4, image_size=(2, 2))
    data = Scenes([scene], shown, torch.arange(3), samples=40, rows=dict(video=1, audio=1), **sizes)  # type: ignore
    times = [((data[i]["inputs"]["video"][:, 0, 0, 0] + 1) * 127.5).round().tolist() for i in range(3)]
    assert times == [[3, 4, 5, 6], [1, 5, 9, 13], [9, 8, 7, 6]]
    assert (data[0]["inputs"]["audio"] * 32768).tolist() == [*range(30, 70)]
    found = windows_of(scene, num_frames=8, samples=80)
    assert ((found["video"][:, 0, 0, 0, 0] + 1) * 127.5).round().tolist() == [0, 8, 12]
    assert (found["audio"][:, 0] * 32768).tolist() == [0, 80, 120]
    assert [*windows_of(scene, num_frames=8, samples=None)] == ["video"]


def test_short_clips_and_files_that_a_model_cannot_read_are_named(tmp_path: Path) -> None:
    sizes = dict(num_frames=4, image_size=(8, 8), fps=25.0)
    short = video(tmp_path / "short.mkv", grey(3))
    with pytest.raises(InputError, match=r"short\.mkv is shorter than a window: expected 4 frames at 25 a second, got"):
        read_scene(short, per_frame=None, **sizes)  # type: ignore[arg-type]
    brief = tone(tmp_path / "brief.wav", 400, seconds=0.1)
    with pytest.raises(InputError, match=r"brief\.wav is shorter than a window: .*got 2"):
        read_scene(brief, per_frame=320, **sizes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"brief\.wav has no frames, and the model reads video alone"):
        read_scene(brief, per_frame=None, **sizes)  # type: ignore[arg-type]
    silent = video(tmp_path / "silent.mkv", grey(6), sound=0 * HUM)
    assert read_scene(silent, per_frame=320, **sizes).audio is None  # type: ignore[arg-type]
    root = clips(tmp_path / "clips")
    video(root / "day" / "short.mkv", grey(2, light=99))
    with pytest.warns(UserWarning, match=r"skipped 1 of 10 .*short\.mkv is shorter than a window"):
        open_task(root, recipe=RECIPE, preset="tiny")


@pytest.mark.filterwarnings("ignore:No positive samples")  # of so few files
def test_audiosets_form_trains_and_predicts_by_path(tmp_path: Path) -> None:
    root = clips(tmp_path / "clips")
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.*"))
    rows = [f"{name},{'light;' if name.startswith('day') else ''}outside" for name in names]
    (root / "labels.csv").write_text("\n".join(["file,labels", *rows]))
    metrics = train_recipe(RECIPE, root, tmp_path / "run", steps=3, batch=4, progress=False)
    assert 0 <= metrics["average_precision"] <= 1
    model = kit.load(tmp_path / "run")
    for name in ("day/0.mkv", "day/1.mkv", "night/owl.wav"):
        answer = kit.predict(model, root / name)
        assert {*answer.scores} == {"light", "outside"} and isinstance(answer.best, tuple)
    assert kit.predict(model, root / "day", progress=False)[3].source == root / "day" / "3.mkv"


@pytest.mark.parametrize("fold", range(FOLDS))
@pytest.mark.parametrize(("frames", "span", "gap"), [(120, 8, 8), (132, 29, 8), (120, 16, 16)])
def test_no_frame_is_shared_and_a_gap_lies_between(frames: int, span: int, gap: int, fold: int) -> None:
    train, held_out = split_by_time(frames, span, gap, fold)
    seen, hidden = ({start + i for start in part for i in range(span)} for part in (train, held_out))
    assert train and held_out and max(seen | hidden) < frames
    assert min(abs(one - other) for one in seen for other in hidden) == gap + 1


@pytest.mark.parametrize(
    ("name", "options", "scenes", "classes"),
    [("direction", {}, 1, 2), ("direction", {"clips": "two"}, 2, 2), ("playback", {}, 2, 3)],
)
def test_classes_differ_by_nothing_but_time(name: str, options: dict, scenes: int, classes: int) -> None:
    try:
        task = open_task(name, recipe=RECIPE, preset="tiny", **options)
    except kit.MissingPackage as missing:
        pytest.skip(str(missing))
    for part in (task.train, task.held_out):
        kinds = [(shown, int(label)) for shown, label in zip(part.shown, part.labels, strict=True)]  # type: ignore
        assert {shown.scene for shown, _ in kinds} == {*range(scenes)}
        frames = [
            Counter(
                (shown.scene, min(shown.start, shown.start + 3 * shown.step)) for shown, own in kinds if own == label
            )
            for label in range(classes)
        ]
        assert all(counts == frames[0] for counts in frames)
    if name == "direction":
        one, other = (task.held_out[i]["inputs"]["video"] for i in (0, 1))
        assert torch.equal(one, other.flip(0))


def test_the_mask_has_the_rows_of_the_model() -> None:
    for preset in ("tiny", "quick", "base"):
        entry = find("recipes", RECIPE)
        rows = entry.data_sizes(entry.parameters(preset, {}))["rows"]
        with torch.device("meta"):
            model = kit.build(RECIPE, preset=preset)
            given = entry.example(1, preset)
            layout = model.inputs({name: x.to("meta") for name, x in given.items()})[0].layout
        assert rows == {name: int(np.prod(layout.grid(name))) for name in layout}
