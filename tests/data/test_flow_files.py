"""Files of flow, Sintel's and KITTI's folders, and their evaluation against a restatement in NumPy."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import perceiver_kit as kit
from perceiver_kit.cli import main
from perceiver_kit.data.flow_files import read_flo, read_kitti_flow, write_flo, write_kitti_flow
from perceiver_kit.data.task import Task
from perceiver_kit.data.tasks import open_task
from perceiver_kit.errors import InputError

from ..training.toys import Toys
from .making import picture

pytestmark = pytest.mark.usefixtures("checked")

SIZE = (40, 56)  # of files; the tiny model's tile is 32 × 48


def field(seed: int, size: tuple[int, int] = SIZE, scale: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, *size, generator=generator), torch.rand(size, generator=generator) < 0.7


@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_flo_files_hold_flow_exactly(tmp_path_factory: Any, height: int, width: int, seed: int) -> None:
    flow, valid = field(seed, (height, width), 300.0)
    path = write_flo(tmp_path_factory.mktemp("flow") / "a.flo", flow, valid)
    content = path.read_bytes()
    assert content[:12] == struct.pack("<fii", 202021.25, width, height), "the published form"
    values = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    read = read_flo(path)
    assert torch.equal(read.valid, valid) and torch.equal(read.flow, torch.where(valid, flow, 0))
    assert torch.equal(torch.from_numpy(values[..., 0] < 1e9), valid)
    np.testing.assert_array_equal(values[valid.numpy()], flow.permute(1, 2, 0).numpy()[valid.numpy()])


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (40, 56)])
def test_kitti_files_hold_flow_to_a_64th_of_a_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    pytest.importorskip("av")
    flow, valid = field(1, size, 90.0)
    read = read_kitti_flow(write_kitti_flow(tmp_path / "a.png", flow, valid))
    assert torch.equal(read.valid, valid)
    torch.testing.assert_close(read.flow, torch.where(valid, (flow * 64).round() / 64, 0), rtol=0, atol=0)
    with pytest.raises(InputError, match="less than 512 pixels"):
        write_kitti_flow(tmp_path / "b.png", torch.full((2, 3, 3), 512.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"HEIP" + content[4:], "expected a little-endian .flo file, got a big-endian one"),
        (lambda content: b"abcd" + content[4:], "expected a .flo file, which starts with b'PIEH'"),
        (lambda content: content[:-3], r"expected 17,932 bytes for 56 × 40 pixels, got 17,929"),
        (lambda content: content + b"0", r"expected 17,932 bytes for 56 × 40 pixels, got 17,933"),
        (lambda content: content[:4] + struct.pack("<ii", -1, 40) + content[12:], "expected .* got -1 × 40"),
        (
            lambda content: content[:4] + struct.pack("<ii", 10**6, 10**6) + content[12:],
            "expected at most 67,108,864 pixels",
        ),
        (lambda content: content[:7], "expected a .flo file"),
    ],
)
def test_damaged_flo_files_are_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    path = write_flo(tmp_path / "a.flo", field(0)[0])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=f"a.flo: {message}"):
        read_flo(path)


def test_other_png_files_are_refused_by_name(tmp_path: Path) -> None:
    pytest.importorskip("av")
    with pytest.raises(InputError, match=r"8.png: expected PNG of 3 × 16 bits, got colour type 2 of 8 bits"):
        read_kitti_flow(picture(tmp_path / "8.png"))
    path = write_kitti_flow(tmp_path / "cut.png", field(0)[0])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"cut.png: the file is damaged"):
        read_kitti_flow(path)
    with pytest.raises(InputError, match=r"none.png cannot be read"):
        read_kitti_flow(tmp_path / "none.png")


def sintel(root: Path, size: tuple[int, int] = SIZE, scenes: tuple[str, ...] = ("alley", "bamboo"), n: int = 3) -> Path:
    """Scenes of n frames, with occlusions."""
    for scene in scenes:
        for number in range(1, n + 1):
            picture(root / "training" / "clean" / scene / f"frame_000{number}.png", number, size)
            if number < n:
                target = root / "training" / "flow" / scene / f"frame_000{number}.flo"
                target.parent.mkdir(parents=True, exist_ok=True)
                write_flo(target, field(number + 10 * (scene == "alley"), size)[0])
                hidden = root / "training" / "occlusions" / scene / f"frame_000{number}.png"
                hidden.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((255 * ~field(number, size)[1]).numpy().astype(np.uint8)).save(hidden)
    return root


def kitti(root: Path, sizes: tuple[tuple[int, int], ...] = (SIZE, (37, 61))) -> Path:
    """Two pairs of two sizes."""
    for number, size in enumerate(sizes):
        flow, valid = field(number, size)
        for frame in (10, 11):
            picture(root / "training" / "image_2" / f"00000{number}_{frame}.png", number + frame, size)
        for folder, known in (("flow_occ", valid), ("flow_noc", valid & field(number + 5, size)[1])):
            (root / "training" / folder).mkdir(exist_ok=True)
            write_kitti_flow(root / "training" / folder / f"00000{number}_10.png", flow, known)
    return root


def moving(tmp_path: Path) -> Any:
    """A tiny model whose flow is (1, -2) everywhere, saved."""
    model = kit.build("optical_flow", preset="tiny")
    model.outputs.blocks["flow"].project.bias.data = torch.tensor([1.0, -2.0]) / 0.2
    kit.save(model, tmp_path / "model")
    return model


def restated(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean end-point error, and KITTI's outliers, of flow (1, -2) against flow (2, h, w) where it is known."""
    error = np.concatenate([np.hypot(flow[0] - 1, flow[1] + 2)[known] for flow, known in parts])
    length = np.concatenate([np.hypot(*flow)[known] for flow, known in parts])
    return float(error.mean()), float(((error > 3) & (error / length > 0.05)).mean())


def test_sintel_is_evaluated_as_in_numpy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, root = moving(tmp_path), sintel(tmp_path / "sintel")
    found = kit.evaluate(model, f"sintel:{root}", progress=False)
    pairs = [
        (field(n + 10 * (scene == "alley"))[0].numpy(), field(n)[1].numpy())
        for scene in ("alley", "bamboo")
        for n in (1, 2)
    ]
    for suffix, parts in (
        ("", [(flow, np.full(SIZE, True)) for flow, _ in pairs]),
        ("_matched", pairs),
        ("_unmatched", [(flow, ~known) for flow, known in pairs]),
    ):
        epe, outliers = restated(parts)
        assert found[f"epe{suffix}"] == pytest.approx(epe, rel=1e-4)
        assert found[f"fl_all{suffix}"] == pytest.approx(outliers, abs=1e-6)
    assert model.training, "the mode stays"
    assert main(["evaluate", str(tmp_path / "model"), "--data", f"sintel:{root}/training/clean"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert printed == {name: f"{value:.4f}" for name, value in found.items()}


def test_kitti_is_evaluated_as_in_numpy(tmp_path: Path) -> None:
    pytest.importorskip("av")
    found = kit.evaluate(moving(tmp_path), f"kitti:{kitti(tmp_path / 'kitti')}", progress=False)
    rounded = [((field(n, size)[0] * 64).round() / 64).numpy() for n, size in enumerate((SIZE, (37, 61)))]
    valid = [field(n, size)[1].numpy() for n, size in enumerate((SIZE, (37, 61)))]
    noc = [known & field(n + 5, known.shape)[1].numpy() for n, known in enumerate(valid)]
    for suffix, masks in (("", valid), ("_noc", noc)):
        epe, outliers = restated([*zip(rounded, masks, strict=True)])
        assert found[f"epe{suffix}"] == pytest.approx(epe, rel=1e-4)
        assert found[f"fl_all{suffix}"] == pytest.approx(outliers, abs=1e-6)


def peak_megabytes() -> float:
    """The most memory of this process since ``/proc/self/clear_refs`` was last reset."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process")
def test_a_pair_of_sintels_size_needs_the_memory_of_a_tile(tmp_path: Path) -> None:
    """As one tile the pair needs more than twice as much."""
    size = (436, 1024)
    root = sintel(tmp_path, size, ("alley",), n=2)
    small: dict[str, Any] = dict(preset="tiny", channels=8, bands=4, num_latents=16, layers=1)
    model = kit.build("optical_flow", image_size=(128, 192), **small)
    frames = tuple(sorted((root / "training" / "clean" / "alley").glob("*.png")))
    for use in (lambda: kit.predict(model, frames), lambda: kit.evaluate(model, f"sintel:{root}", progress=False)):
        Path("/proc/self/clear_refs").write_text("5")
        before, start = peak_megabytes(), time.process_time()
        found = use()
        assert peak_megabytes() - before < 100
        assert time.process_time() - start < 6
        if isinstance(found, kit.processors.Answer):
            assert tuple(found.best.shape) == (2, *size)
    assert found["epe"] > 0 and found["epe_matched"] > 0


def test_crops_of_a_benchmark_train_and_whole_scenes_are_held_out(tmp_path: Path) -> None:
    task = open_task(f"sintel:{sintel(tmp_path)}", recipe="optical_flow", preset="tiny")
    scenes = [{pair.first.parent.name for pair in part.pairs} for part in (task.train, task.held_out)]  # type: ignore[attr-defined]
    assert len(scenes[0]) == len(scenes[1]) == 1 and scenes[0] != scenes[1]
    one, other = task.train[0, 1], task.train[0, 2]
    assert one["inputs"]["frames"].shape == (2, 3, 32, 48) and one["targets"]["flow"].shape == (2, 32, 48)
    assert not torch.equal(one["targets"]["flow"], other["targets"]["flow"]), "another crop"
    whole = read_flo(task.train.pairs[0].flow).flow  # type: ignore[attr-defined]
    places = [(y, x) for y in range(9) for x in range(9)]
    at = [p for p in places if torch.equal(whole[:, p[0] : p[0] + 32, p[1] : p[1] + 48], one["targets"]["flow"])]
    frame = Image.open(task.train.pairs[0].second)  # type: ignore[attr-defined]
    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1) / 127.5 - 1
    (y, x) = at[0]
    torch.testing.assert_close(one["inputs"]["frames"][1], pixels[:, y : y + 32, x : x + 48].float())


def test_what_is_wrong_with_a_benchmark_is_named(tmp_path: Path) -> None:
    root = sintel(tmp_path)
    with pytest.raises(InputError, match="sintel needs the path of its files: sintel:PATH"):
        open_task("sintel", recipe="optical_flow", preset="tiny")
    with pytest.raises(InputError, match="no path"):
        open_task("sintel:/nowhere", recipe="optical_flow", preset="tiny")
    with pytest.raises(InputError, match="expected KITTI's folder"):
        open_task(f"kitti:{root}", recipe="optical_flow", preset="tiny")
    (root / "training" / "flow" / "alley" / "frame_0002.flo").unlink()
    with pytest.raises(InputError, match=r"frame_0002.png: expected .*frame_0002.flo, which does not exist"):
        open_task(f"sintel:{root}", recipe="optical_flow", preset="tiny")
    write_flo(root / "training" / "flow" / "alley" / "frame_0002.flo", field(0, (8, 8))[0])
    task = open_task(f"sintel:{root}", recipe="optical_flow", preset="tiny", evaluation=True)
    with pytest.raises(InputError, match=r"frame_0002.flo: expected the size of frame_0002.png, \(40, 56\)"):
        task.held_out[1]


def test_a_missing_frame_is_named(tmp_path: Path) -> None:
    root = sintel(tmp_path, n=4)
    (root / "training" / "clean" / "alley" / "frame_0002.png").unlink()
    with pytest.raises(InputError, match=r"frame_0001.png: expected frame_0002.png as the next frame, got frame_0003"):
        open_task(f"sintel:{root}", recipe="optical_flow", preset="tiny")


def test_samples_that_fit_no_batch_and_unknown_flow_are_named(tmp_path: Path) -> None:
    pytest.importorskip("av")
    model = kit.build("optical_flow", preset="tiny")
    with pytest.raises(InputError, match=r"must have the same sizes, but inputs.frames is .*: use batch=1"):
        kit.evaluate(model, f"kitti:{kitti(tmp_path / 'kitti')}", batch=2, progress=False)
    root = sintel(tmp_path / "sintel", scenes=("alley",))
    (root / "training" / "occlusions" / "alley" / "frame_0002.png").unlink()
    with pytest.raises(InputError, match=r"must have the same parts, got .*: use batch=1"):
        kit.evaluate(model, f"sintel:{root}", batch=2, progress=False)
    for path in root.rglob("*.flo"):
        write_flo(path, torch.full((2, *SIZE), torch.nan))
    with pytest.raises(InputError, match="has no known target, so nothing is measured"):
        kit.evaluate(model, f"sintel:{root}", progress=False)


def test_flow_that_rounds_to_512_pixels_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("av")
    edge = torch.full((2, 4, 4), 511.984)
    assert read_kitti_flow(write_kitti_flow(tmp_path / "a.png", edge)).flow.unique().item() == 511.984375
    with pytest.raises(InputError, match="less than 512 pixels"):
        write_kitti_flow(tmp_path / "a.png", edge + 0.01)


def test_the_data_must_have_the_classes_of_the_model(tmp_path: Path) -> None:
    model, toys = kit.build("image_classification_conv", preset="tiny", labels=("a", "b")), Toys("masked_lm")
    with pytest.raises(InputError, match="expected data of the classes of the model's output 'label', a, b; got b, a"):
        kit.evaluate(model, Task("x", toys, toys, {}, "", classes=("b", "a")))
    with pytest.raises(InputError, match="this model is of no recipe"):
        kit.evaluate(torch.nn.Linear(2, 2), "sintel:x")
