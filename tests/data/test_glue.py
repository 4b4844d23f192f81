"""Several tasks on text: GLUE's files, missing labels, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import perceiver_kit as kit
from perceiver_kit.data.glue import LabelledText, MixedTexts, read_tsv, task_files

pytestmark = pytest.mark.usefixtures("checked")

SST = "sentence\tlabel\n" + "".join(f"good {i}\t1\nbad {i}\t0\n" for i in range(6))
STS = "index\tsentence1\tsentence2\tscore\n" + "".join(f"{i}\ta{i}\tb{i}\t{i / 2}\n" for i in range(6))
MRPC = 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tsays "hi\t"hi"\n0\t7\t8\tx\ty\n'
COLA = "gj04\t1\t\tIt is.\ngj04\t0\t*\tIs it it.\n"


def glue(folder: Path) -> Path:
    for name, text in {"SST-2": SST, "STS-B": STS, "MRPC": MRPC, "CoLA": COLA}.items():
        (folder / name).mkdir()
        (folder / name / "train.tsv").write_text(text)
        (folder / name / "dev.tsv").write_text(text)
        (folder / name / "test.tsv").write_text("no such columns\n")
    return folder


def test_glue_files_are_read_by_their_names(tmp_path: Path) -> None:
    task = task_files(glue(tmp_path), max_length=32)
    assert task.overrides["tasks"] == {"cola": ("0", "1"), "mrpc": ("0", "1"), "sst2": ("0", "1"), "stsb": 1}
    assert len(task.train) == len(task.held_out) == 2 + 2 + 12 + 6
    first = read_tsv(tmp_path / "MRPC" / "train.tsv")[0]
    assert first[:3] == ('says "hi', '"hi"', "1")  # quotes are characters
    assert read_tsv(tmp_path / "CoLA" / "train.tsv")[1][:3] == ("Is it it.", None, "0")


def test_only_the_own_target_is_there_and_gives_the_loss(tmp_path: Path) -> None:
    task = task_files(glue(tmp_path), max_length=32)
    model = kit.build("multitask_text", preset="tiny", **task.overrides)
    assert model.labels == {"cola": ("0", "1"), "mrpc": ("0", "1"), "sst2": ("0", "1")}
    batch = torch.utils.data.default_collate([task.train[i] for i in (0, 2, 4, 17)])
    present = [(~t.float().isnan() & (t != -100)).sum() for t in batch["targets"].values()]
    assert [int(count) for count in present] == [1, 1, 1, 1]
    from perceiver_kit.declarations import objective_for

    loss, parts = objective_for("multitask_text", model=model)(model(batch["inputs"]), batch["targets"])
    assert {*parts} == {"cola", "mrpc", "sst2", "stsb"}
    loss.backward()
    assert loss.isfinite()


REFUSED = {
    "unknown columns": ("a\tb\n1\t2\n", r"a\.tsv:1: expected columns sentence1 and sentence2"),
    "another number of columns": ("text\tlabel\nx\t1\nx\n", r"a\.tsv:3: expected 2 columns, got 1"),
    "an empty label": ("text\tlabel\nx\t \n", r"a\.tsv:2: expected a text and a label"),
    "one class": ("text\tlabel\nx\t1\ny\t1\n", "has one class only, '1'"),
    "an empty file": ("", "is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_files_are_refused_with_file_and_line(tmp_path: Path, case: str) -> None:
    text, message = REFUSED[case]
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(kit.InputError, match=message):
        task_files(tmp_path)


def test_a_label_unknown_to_the_model_names_its_place() -> None:
    with pytest.raises(kit.InputError, match=r"x\.tsv:3: label 'c' is not one of the model's"):
        MixedTexts({"t": [LabelledText("a", None, "c", "x.tsv:3")]}, {"t": ("a", "b")}, length=8)
