"""From files to answers: one and many sources, good and bad."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import perceiver_kit as kit
from perceiver_kit import processors

from .data.making import grey, picture, video


def classifier(**options) -> nn.Module:
    sizes = dict(num_labels=3, num_latents=4, latent_dim=16, layers=1, blocks=1, self_heads=2)
    model = kit.build("image_classification_fourier", preset="tiny", **(sizes | options))
    for parameter in model.parameters():  # fresh classifiers give equal logits
        nn.init.normal_(parameter, std=0.3)
    return model


def reader(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def filler() -> nn.Module:
    return reader(kit.build("masked_lm", preset="tiny", num_latents=4, layers=1, max_length=32))


def test_an_answer_is_that_of_the_model(tmp_path: Path) -> None:
    model = classifier()
    path = picture(tmp_path / "a.png", size=(28, 28))
    answer = kit.predict(model, path)
    pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 127.5 - 1
    logits = model.eval()(pixels)["label"][0]
    torch.testing.assert_close(answer.outputs["label"], logits)
    torch.testing.assert_close(torch.tensor([*answer.scores.values()]), logits.softmax(-1).sort(descending=True)[0])
    assert answer.best == f"class {int(logits.argmax())}" == next(iter(answer.scores))
    assert str(answer).startswith(f"{path}: {answer.best} 0.")


@pytest.mark.parametrize("form", ["str", "Path", "PIL", "array", "tensor", "floats"])
def test_every_form_of_a_picture_gives_the_same_answer(form: str, tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png", size=(50, 40))
    image = Image.open(path)
    array = np.array(image)
    forms = dict(str=str(path), Path=path, PIL=image, array=array, tensor=torch.from_numpy(array), floats=array / 255)
    model = classifier()
    assert kit.predict(model, forms[form]).scores == kit.predict(model, path).scores


def test_a_list_a_folder_and_single_calls_agree(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{i}.png", i) for i in range(5)]
    model = classifier()
    single = [kit.predict(model, path) for path in paths]
    for source in (paths, tmp_path, str(tmp_path), iter(paths)):
        answers = kit.predict(model, source, batch=2, progress=False)
        assert [answer.source for answer in answers] == paths
        for answer, alone in zip(answers, single, strict=True):
            torch.testing.assert_close(answer.outputs["label"], alone.outputs["label"])
    assert len({answer.best for answer in single} | {round(answer.scores["class 0"], 6) for answer in single}) > 2


def test_texts_of_several_lengths_are_answered_as_alone() -> None:
    model = filler()
    texts = ["a[MASK]c", "[MASK]", "to be or [MASK][MASK] to be"]
    for text, answer in zip(texts, kit.predict(model, texts, progress=False), strict=True):
        alone = kit.predict(model, text)
        assert (answer.best, len(answer.scores)) == (alone.best, text.count("[MASK]"))
        torch.testing.assert_close(answer.outputs["text"], alone.outputs["text"])


def test_the_mode_of_a_model_stays() -> None:
    model = filler()
    model.encoder.eval()
    kit.predict(model, "a[MASK]")
    assert model.training
    assert model.decoder.training
    assert not model.encoder.training


def mixed(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """Pictures of which every seventh is bad: missing, of another kind, empty, truncated."""
    paths, bad = [], []
    whole = picture(folder / "whole.png").read_bytes()
    for number in range(count):
        path = folder / f"{number:04d}.png"
        kind = number // 7 % 4 if number % 7 == 3 else None
        if kind == 1:
            path = path.with_suffix(".txt")
            path.write_text("a text")
        elif kind != 0:
            path.write_bytes({None: whole, 2: b"", 3: whole[:200]}[kind])
        paths.append(path)
        bad += [] if kind is None else [path]
    return paths, bad


def test_bad_files_among_good_ones_are_named(tmp_path: Path) -> None:
    paths, bad = mixed(tmp_path, 200)
    model = classifier()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        answers = kit.predict(model, paths, on_error="skip", progress=False)
    assert [answer.source for answer in answers] == [path for path in paths if path not in bad]
    named = [str(warning.message) for warning in caught]
    assert len(named) == len(bad) == 29
    assert all(str(path) in text for path, text in zip(bad, named, strict=True))


def test_at_the_first_bad_file_the_others_are_not_read(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    model = classifier()
    with pytest.raises(kit.InputError, match=r"no such file: .*gone\.png; on_error='skip'"):
        kit.predict(model, [good, tmp_path / "gone.png"])
    answers = kit.predict(model, [good, broken], batch=1, stream=True, progress=False)
    assert next(answers).source == good
    with pytest.raises(kit.InputError, match=r"broken\.png cannot be read as a picture"):
        next(answers)


def test_a_source_that_the_model_refuses_is_named() -> None:
    """The others of its batch are answered."""
    model = reader(kit.build("sequence_classification", preset="tiny", num_latents=4, layers=1))
    sources = [{"text": torch.tensor(ids)} for ids in ([4, 99, 5], [4, 999, 5], [4, 5, 5])]
    with pytest.warns(UserWarning, match=r"skipped text=int64 \(3,\): .*999") as caught:
        answers = kit.predict(model, sources, on_error="skip", progress=False)
    assert [answer.source for answer in answers] == [sources[0], sources[2]]
    assert len(caught) == 1
    with pytest.raises(kit.InputError, match=r"int64 \(3,\): .*999"):
        kit.predict(model, sources, progress=False)


def test_a_processor_is_given_or_kept_with_the_model(tmp_path: Path) -> None:
    points = kit.Processor({"points": processors.Array(ragged_rows=True)}, processors.Classes())
    encoder = kit.Encoder(2, num_latents=2, latent_dim=8, layers=1)
    outputs = kit.Outputs(label=kit.outputs.Classify(2, in_channels=8))
    pool = kit.MeanPool(8, out_channels=8)
    model = kit.PerceiverIO(kit.Inputs(points=kit.inputs.Features(2)), encoder, None, pool, outputs)
    sources = [[[0.0, 1.0]], np.ones((5, 2))]
    answers = kit.predict(model, sources, processor=points, progress=False)
    model.processor = points
    torch.testing.assert_close(kit.predict(model, sources[1]).outputs, answers[1].outputs)
    loaded = kit.load(kit.save(model, tmp_path))
    assert loaded.processor == points
    torch.testing.assert_close(kit.predict(loaded, sources[1]).outputs, answers[1].outputs)
    spec = kit.spec(model)
    assert kit.spec(kit.build(spec)) == spec
    spec["processor"] = spec["model"]
    with pytest.raises(kit.AssemblyError, match="processor must be a registered processor, got a PerceiverIO"):
        kit.build(spec)


def test_an_assembly_reads_a_mapping_of_several_modalities(tmp_path: Path) -> None:
    inputs = kit.Inputs(
        depth=kit.inputs.Patches((4, 4), channels=3, positions=kit.positions.Fourier(bands=2, max_resolution=(4, 4))),
        text=kit.inputs.TextTokens(262, 8, positions=kit.positions.Learned((20,), 8)),
    )
    encoder = kit.Encoder(inputs.channels, num_latents=4, latent_dim=8, layers=1)
    queries = kit.Queries(room=kit.queries.LearnedQuery(1, 8))
    outputs = kit.Outputs(room=kit.outputs.Classify(3, in_channels=8))
    model = kit.PerceiverIO(inputs, encoder, queries, kit.Decoder(8, 8), outputs)
    readers = {"depth": processors.Picture((16, 16)), "text": processors.Text(20)}
    model.processor = kit.Processor(readers, processors.Classes("room"))
    rooms = [{"depth": picture(tmp_path / f"{i}.png", i), "text": "a room" + "!" * i} for i in range(3)]
    answers = kit.predict(model, rooms, progress=False)
    for room, answer in zip(rooms, answers, strict=True):
        torch.testing.assert_close(answer.outputs["room"], kit.predict(model, room).outputs["room"])
    for source, message in (
        (rooms[0]["depth"], "expected a mapping with entries for depth, text"),
        ({"dept": rooms[0]["depth"]}, "no reader for 'dept'; did you mean 'depth'"),
        ({"depth": rooms[0]["depth"]}, "text"),
        ({"depth": None, "text": "a room"}, "input 'depth': expected"),
    ):
        with pytest.raises(kit.PerceiverKitError, match=message):
            kit.predict(model, source)


def test_values_of_several_tasks_are_not_called_classes() -> None:
    model = kit.assemble(
        dict(row=kit.inputs.Features(3)),
        dict(kind=kit.outputs.Classify(2), price=kit.outputs.Classify(1, problem_type="regression")),
        **dict(num_latents=2, latent_dim=8, layers=1, self_heads=1),
    )
    processor = kit.Processor({"row": processors.Array()}, processors.TaskClasses())
    answer = kit.predict(model, torch.ones(1, 3), processor=processor)
    assert {task: {*scores} for task, scores in answer.scores.items()} == {
        "kind": {"class 0", "class 1"},
        "price": {"value 0"},
    }


def empty(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("make", "source", "message"),
    [
        (filler, lambda t: "no mask here", r"no mask here: expected a text with \[MASK\] for each byte"),
        (filler, lambda t: "x" * 40 + "[MASK]", r"got none in its first 32 ids"),
        (filler, lambda t: picture(t / "a.png"), r"a\.png"),
        (filler, lambda t: "gone.txt", "gone.txt cannot be read as text"),
        (filler, lambda t: "", "expected a text, got an empty one"),
        (filler, lambda t: (), "expected a text, a tuple of two texts, or the path"),
        (
            lambda: kit.build("sequence_classification", preset="tiny"),
            lambda t: ("", ""),
            "expected a text, got an empty one",
        ),
        (classifier, lambda t: "", "expected a path, got ''"),  # not the current directory
        (classifier, lambda t: ["", t], "expected a path, got ''"),
        (filler, lambda t: 3, "expected a text, a tuple of two texts, or the path"),
        (classifier, lambda t: empty(t / "none"), "none has no files ending in .png"),
        (classifier, lambda t: [], "source is an empty list"),
        (classifier, lambda t: video(t / "a.mp4", grey(3)), r"expected a picture: a path.*got .*a\.mp4"),
        (classifier, lambda t: t / "gone.png", "no such file: .*gone.png"),
        (classifier, lambda t: torch.zeros(2, 2, 2), "channels"),
        (classifier, lambda t: torch.zeros(2, 3, 8, 8), r"of one; give several as a list, got float32 \(2, 3, 8, 8\)"),
        (classifier, lambda t: "no path, but a text " * 50, "no such file: no path"),
        (classifier, lambda t: ["no path, but a text " * 50], "no such file: no path"),
        (lambda: nn.Linear(2, 2), lambda t: "a", r"this model has no processor; pass processor=kit\.Processor"),
        (lambda: kit.build("optical_flow", preset="tiny"), lambda t: picture(t / "a.png"), "a tuple of two pictures"),
        (
            lambda: kit.build("optical_flow", preset="tiny"),
            lambda t: (picture(t / "a.png"), picture(t / "b.png", size=(9, 9))),
            r"two pictures of one size, got \(40, 30\) and \(9, 9\)",
        ),
        (
            lambda: kit.build("multimodal_autoencoding", preset="tiny"),
            lambda t: video(t / "a.mp4", grey(3)),
            r"a\.mp4 is too short: expected 4 frames at 25 a second, got 3",
        ),
        (
            lambda: kit.build("multimodal_autoencoding", preset="tiny"),
            lambda t: picture(t / "a.png"),
            "expected the path of a video",
        ),
    ],
)
def test_bad_sources_are_refused(make, source, message: str, tmp_path: Path) -> None:
    with pytest.raises(kit.InputError, match=message):
        kit.predict(make(), source(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(on_error="skipp"), "on_error is 'skipp'; did you mean 'skip'"),
        (dict(batch=0), "batch"),
        (dict(processor=3), "processor must be a Processor"),
        (dict(stream=1), "stream"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.PerceiverKitError, match=message):
        kit.predict(filler(), ["[MASK]"], **options)
