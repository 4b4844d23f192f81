"""``kit.save`` and ``kit.load``: bitwise exact and strict. test_files.py covers interruptions."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import inputs, outputs
from perceiver_kit.hub import checkpoint

from ..blocks import registered
from ..strategies import RECIPES, noisy, raws, tiny

recipes = pytest.mark.parametrize("recipe", RECIPES)


def same(first: nn.Module, second: nn.Module) -> bool:
    """Bitwise equal tensors of equal types."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def small(latents: int = 4, seed: int = 0) -> kit.PerceiverIO:
    torch.manual_seed(seed)
    sizes = dict(num_latents=latents, layers=1, channels=8, latent_dim=16, qk_channels=8, v_channels=16)
    return noisy(kit.build("masked_lm", preset="tiny", decoder_qk_channels=8, **sizes))


# ---- identity


@recipes
def test_recipes_are_saved_and_loaded_exactly(recipe: str, tmp_path: Path) -> None:
    model = tiny(recipe)
    assert kit.save(model, tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    loaded = kit.load(tmp_path / "new" / "folder")
    assert not loaded.training
    assert same(loaded, model)
    assert kit.spec(loaded) == kit.spec(model)
    assert loaded.recipe == model.recipe
    tensors = raws(model, 2)
    with torch.no_grad():
        wanted, found = model(tensors), loaded(tensors)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-5)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_survives(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small().to(dtype)
    loaded = kit.load(kit.save(model, tmp_path))
    assert same(loaded, model)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}


def test_statistics_of_batch_norm_survive(tmp_path: Path) -> None:
    model = kit.build("image_classification_conv", preset="tiny").train()
    model(raws(model, 3))
    loaded = kit.load(kit.save(model, tmp_path))
    norm = loaded.inputs.blocks["image"].norms[0]
    assert norm.num_batches_tracked == 1
    assert same(loaded, model)


def test_ties_survive_and_are_written_once(tmp_path: Path) -> None:
    model = small()
    loaded = kit.load(kit.save(model, tmp_path))
    embedding = loaded.inputs.blocks["text"].embedding
    assert loaded.outputs.blocks["text"].text.embedding.weight is embedding.weight
    names = [name for name in load_file(tmp_path / "model.safetensors") if "embedding" in name]
    assert names == ["inputs.blocks.text.embedding.weight"]
    before = loaded(torch.zeros(1, 3).long())["text"]
    with torch.no_grad():
        embedding.weight.add_(1)
    assert not torch.equal(loaded(torch.zeros(1, 3).long())["text"], before)


def test_saving_a_frozen_model_leaves_it_unchanged(tmp_path: Path) -> None:
    model = small().requires_grad_(False).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kit.save(model, tmp_path)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_save_writes_two_files_with_the_usual_permissions(tmp_path: Path) -> None:
    kit.save(small(), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    umask = os.umask(0)
    os.umask(umask)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o666 & ~umask}
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == kit.spec(small())


# ---- strictness


def rewrite(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Replaces the tensors, keeps the metadata."""
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, directory / "model.safetensors", metadata=metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.latents"), r"model.safetensors lacks encoder.latents$"),
        (lambda t: t.update({"encoder.more": torch.zeros(1)}), r"model.safetensors has unexpected encoder.more$"),
        (
            lambda t: t.update({"encoder.latents": torch.zeros(4, 17)}),
            r"model.safetensors has mis-shaped encoder.latents \(4, 17\) instead of \(4, 16\)$",
        ),
        (
            lambda t: t.update({"encoder.latent": t.pop("encoder.latents")}),
            r"lacks encoder.latents; has unexpected encoder.latent$",
        ),
        (dict.clear, r"lacks \S+, \S+, \S+ and \d+ more$"),
    ],
    ids=["missing", "extra", "reshaped", "renamed", "empty"],
)
def test_wrong_tensors_are_named(change, message: str, tmp_path: Path) -> None:
    kit.save(small(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    rewrite(tmp_path, tensors)
    with pytest.raises(kit.CheckpointError, match=message):
        kit.load(tmp_path)


@pytest.mark.parametrize(
    ("part", "kind", "message"),
    [
        ("encoder.latents", torch.int64, "as I64; it must be one of F64, F32, F16, BF16$"),
        ("num_batches_tracked", torch.float32, "as F32; it must be one of I64, I32, I16, I8, U8, BOOL$"),
    ],
)
def test_tensors_of_an_impossible_dtype_are_named(part: str, kind: torch.dtype, message: str, tmp_path: Path) -> None:
    """Their name and shape are right, but the values would be misread."""
    kit.save(kit.build("image_classification_conv", preset="tiny"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith(part))
    rewrite(tmp_path, tensors | {name: tensors[name].to(kind)})
    with pytest.raises(kit.CheckpointError, match=rf"model\.safetensors has {name} {message}"):
        kit.load(tmp_path)


TRUNCATED = [lambda whole, end=end: whole[:end] for end in (0, 1, 7, 8, 100, -10_000, -1)]
GARBAGE = [b"garbage", b"\x80\x02}q\x00.", b"\xff" * 100, b"{}" * 50]


@pytest.mark.parametrize("damage", [*TRUNCATED, *(lambda _, garbage=garbage: garbage for garbage in GARBAGE)])
def test_damaged_files_are_refused(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = kit.save(small(), tmp_path) / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(kit.CheckpointError, match=r"model.safetensors is damaged or not a safetensors file"):
        kit.load(tmp_path)


NOT_A_SPEC = ["{}", "[]", "{", "3", '{"perceiver_kit": 99, "model": {}}', '{"perceiver_kit": 1}']


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        *((lambda _, text=text: text, "its spec does not build") for text in NOT_A_SPEC),
        (
            lambda spec: spec.replace("TextTokens", "TextTokenz"),
            "no input block 'TextTokenz'; did you mean 'TextTokens'",
        ),
    ],
)
def test_specs_that_do_not_build_are_refused(edit: Callable[[str], str], message: str, tmp_path: Path) -> None:
    kit.save(small(), tmp_path)
    spec = edit(json.dumps(kit.spec(small())))
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "w", metadata={"perceiver_kit": spec})
    (tmp_path / "w").rename(tmp_path / "model.safetensors")
    with pytest.raises(kit.CheckpointError, match=message):
        kit.load(tmp_path)


def test_the_spec_in_the_weights_wins_over_config_json(tmp_path: Path) -> None:
    model = small()
    kit.save(model, tmp_path / "a")
    kit.save(small(latents=9), tmp_path / "b")
    shutil.copy(tmp_path / "b" / "config.json", tmp_path / "a")
    assert same(kit.load(tmp_path / "a"), model)
    (tmp_path / "a" / "config.json").unlink()
    assert same(kit.load(tmp_path / "a"), model)


def test_weights_without_a_spec_use_config_json(tmp_path: Path) -> None:
    model = small()
    kit.save(model, tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    assert same(kit.load(tmp_path), model)


def test_models_without_a_spec_are_not_saved(tmp_path: Path) -> None:
    model = small()
    model.outputs.blocks["text"].bias = nn.Parameter(torch.zeros(3))
    with pytest.raises(kit.AssemblyError, match="not what its blocks' arguments make"):
        kit.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_save_names_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(kit.CheckpointError, match=r"cannot save to .*file"):
        kit.save(small(), tmp_path / "file")


# ---- files that change while they are read


@pytest.mark.parametrize("noticed", [False, True])
def test_weights_replaced_while_they_are_opened_are_read_again(
    noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors may combine the header of one file and the tensors of another; it notices if these are too few."""
    kit.save(small(seed=0), tmp_path)
    opened = []

    def open_slowly(path: Path, framework: str) -> safe_open:
        opened.append(path)
        weights = safe_open(path, framework=framework)
        if len(opened) == 1:
            kit.save(small(seed=1), tmp_path)
            if noticed:
                raise RuntimeError("size is smaller than the required mapping size")
        return weights

    monkeypatch.setattr(checkpoint, "safe_open", open_slowly)
    assert same(checkpoint.load_kit(tmp_path), small(seed=1))
    assert len(opened) == 2


def test_weights_removed_while_they_are_opened_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kit.save(small(), tmp_path) / "model.safetensors"

    def open_slowly(path: Path, framework: str) -> safe_open:
        weights = safe_open(path, framework=framework)
        path.unlink()
        return weights

    monkeypatch.setattr(checkpoint, "safe_open", open_slowly)
    with pytest.raises(kit.CheckpointError, match=f"^no checkpoint at {path}$"):
        checkpoint.open_weights(path)


# ---- blocks of users


def saved_and_loaded(block: type, folder: Path, **arguments: str) -> tuple[kit.PerceiverIO, kit.PerceiverIO]:
    """A model with this output block, which is registered meanwhile, and the model loaded from its checkpoint."""
    with registered("outputs", block):
        model = kit.PerceiverIO(
            inputs.Inputs(points=inputs.Features(3)),
            kit.Encoder(3, num_latents=2, latent_dim=8, layers=0),
            decoder=kit.MeanPool(8, out_channels=5),
            outputs=outputs.Outputs(label=block(5, **arguments)),
        )
        return model, kit.load(kit.save(model, folder))


def test_non_persistent_buffers_are_rebuilt(tmp_path: Path) -> None:
    class Scaled(outputs.Rows):
        def __init__(self, in_channels: int) -> None:
            super().__init__(in_channels)
            self.register_buffer("ramp", torch.arange(in_channels), persistent=False)

    _, loaded = saved_and_loaded(Scaled, tmp_path)
    assert loaded.outputs.blocks["label"].ramp.tolist() == [0, 1, 2, 3, 4]


def test_a_weight_shared_by_two_layers_stays_shared(tmp_path: Path) -> None:
    class Twice(outputs.Rows):
        def __init__(self, in_channels: int) -> None:
            super().__init__(in_channels)
            self.first, self.second = nn.Linear(in_channels, in_channels), nn.Linear(in_channels, in_channels)
            self.second.weight = self.first.weight

        def forward(self, rows: Tensor) -> Tensor:
            return self.second(self.first(rows))

    model, loaded = saved_and_loaded(Twice, tmp_path)
    block, points = loaded.outputs.blocks["label"], torch.randn(2, 4, 3)
    assert block.second.weight is block.first.weight
    assert torch.equal(loaded(points)["label"], model(points)["label"])


def test_text_that_utf8_cannot_encode_is_refused_before_writing(tmp_path: Path) -> None:
    class Titled(outputs.Rows):
        def __init__(self, in_channels: int, title: str) -> None:
            super().__init__(in_channels)

    saved_and_loaded(Titled, tmp_path / "whole", title="\U0001f642")
    assert "\U0001f642" in (tmp_path / "whole" / "config.json").read_text(encoding="utf-8")
    with pytest.raises(kit.CheckpointError, match="has half of a surrogate pair, which UTF-8 cannot write"):
        saved_and_loaded(Titled, tmp_path / "half", title="\ud83d")
    assert not (tmp_path / "half").exists()
