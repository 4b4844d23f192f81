"""Save and load: the same to the bit, strict about everything, and whole at every moment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import inputs, outputs
from perceiver_kit.hub import checkpoint, files

from ..strategies import RECIPES, noisy, raws, tiny

recipes = pytest.mark.parametrize("recipe", RECIPES)


def same(first: nn.Module, second: nn.Module) -> bool:
    """Every tensor, its type, and which of them are one."""
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
def test_a_recipe_comes_back_to_the_bit(recipe: str, tmp_path: Path) -> None:
    model = tiny(recipe)
    assert kit.save(model, tmp_path / "new" / "folder") == tmp_path / "new" / "folder"
    loaded = kit.load(tmp_path / "new" / "folder")
    assert not loaded.training
    assert same(loaded, model)
    assert kit.spec(loaded) == kit.spec(model)
    assert loaded.recipe == model.recipe
    tensors = raws(model, 2)
    for name, value in model(tensors).items():
        assert torch.equal(loaded(tensors)[name], value)
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


def test_a_frozen_model_can_be_saved_and_saving_changes_nothing(tmp_path: Path) -> None:
    model = small().requires_grad_(False).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kit.save(model, tmp_path)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_is_written_are_two_files_that_others_may_read(tmp_path: Path) -> None:
    kit.save(small(), tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    umask = os.umask(0)
    os.umask(umask)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o666 & ~umask}
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == kit.spec(small())


# ---- strictness


def rewrite(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Other tensors under the same header."""
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    save_file(tensors, directory / "model.safetensors", metadata=metadata)


def missing(t: dict[str, Tensor]) -> None:
    del t["encoder.latents"]


def extra(t: dict[str, Tensor]) -> None:
    t["encoder.more"] = torch.zeros(1)


def reshaped(t: dict[str, Tensor]) -> None:
    t["encoder.latents"] = torch.zeros(4, 17)


def renamed(t: dict[str, Tensor]) -> None:
    t["encoder.latent"] = t.pop("encoder.latents")


def emptied(t: dict[str, Tensor]) -> None:
    t.clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing, r"model.safetensors lacks encoder.latents$"),
        (extra, r"model.safetensors has unexpected encoder.more$"),
        (reshaped, r"model.safetensors has mis-shaped encoder.latents \(4, 17\) instead of \(4, 16\)$"),
        (renamed, r"lacks encoder.latents; has unexpected encoder.latent$"),
        (emptied, r"lacks \S+, \S+, \S+ and \d+ more$"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(change, message: str, tmp_path: Path) -> None:
    kit.save(small(), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    rewrite(tmp_path, tensors)
    with pytest.raises(kit.CheckpointError, match=message):
        kit.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, 0.5, -1])
def test_a_truncated_file_is_refused(kept: float, tmp_path: Path) -> None:
    path = kit.save(small(), tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(kit.CheckpointError, match=r"model.safetensors is damaged or not a safetensors file"):
        kit.load(tmp_path)


@pytest.mark.parametrize("content", [b"garbage", b"\x80\x02}q\x00.", b"\xff" * 100, b"{}" * 50])
def test_garbage_is_refused(content: bytes, tmp_path: Path) -> None:
    kit.save(small(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(kit.CheckpointError, match=r"model.safetensors is damaged or not a safetensors file"):
        kit.load(tmp_path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(kit.CheckpointError, match="nowhere"):
        kit.load(tmp_path / "nowhere")
    kit.save(small(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(kit.CheckpointError, match=r"no checkpoint at .*model\.safetensors"):
        kit.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(kit.CheckpointError, match=r"config\.json"):
        kit.load(tmp_path)


@pytest.mark.parametrize("spec", ["{}", "[]", "{", "3", '{"perceiver_kit": 99, "model": {}}', '{"perceiver_kit": 1}'])
def test_a_spec_that_does_not_build_is_refused(spec: str, tmp_path: Path) -> None:
    kit.save(small(), tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "w", metadata={"perceiver_kit": spec})
    (tmp_path / "w").rename(tmp_path / "model.safetensors")
    with pytest.raises(kit.CheckpointError, match="its spec does not build"):
        kit.load(tmp_path)


def test_the_weights_carry_their_spec_so_another_models_config_does_not_matter(tmp_path: Path) -> None:
    model = small()
    kit.save(model, tmp_path / "a")
    kit.save(small(latents=9), tmp_path / "b")
    shutil.copy(tmp_path / "b" / "config.json", tmp_path / "a")
    assert same(kit.load(tmp_path / "a"), model)
    (tmp_path / "a" / "config.json").unlink()
    assert same(kit.load(tmp_path / "a"), model)


def test_weights_without_a_spec_are_read_with_the_config_beside_them(tmp_path: Path) -> None:
    model = small()
    kit.save(model, tmp_path)
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors")
    assert same(kit.load(tmp_path), model)


def test_a_block_that_is_not_known_here_is_named(tmp_path: Path) -> None:
    kit.save(small(), tmp_path)
    spec = json.dumps(kit.spec(small())).replace("inputs.TextTokens", "inputs.TextTokenz")
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "w", metadata={"perceiver_kit": spec})
    (tmp_path / "w").rename(tmp_path / "model.safetensors")
    with pytest.raises(kit.CheckpointError, match="no inputs 'TextTokenz'; did you mean 'TextTokens'"):
        kit.load(tmp_path)


def test_what_has_no_spec_is_not_saved(tmp_path: Path) -> None:
    model = small()
    model.outputs.blocks["text"].bias = nn.Parameter(torch.zeros(3))
    with pytest.raises(kit.AssemblyError, match="not what its blocks' arguments make"):
        kit.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_where_nothing_can_be_written_the_error_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(kit.CheckpointError, match=r"cannot save to .*file"):
        kit.save(small(), tmp_path / "file")


# ---- whole at every moment


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("nth", [0, 1])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt("stop")], ids=["full", "ctrl-c"]
)
def test_an_interrupted_save_leaves_a_whole_model(
    call: str, nth: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = small(latents=4, seed=1), small(latents=5, seed=2)
    kit.save(old, tmp_path)
    calls, real = [], getattr(os, call)

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) > nth:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr(os, call, failing)
    expected = kit.CheckpointError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match=r"No space left on device|stop"):
        kit.save(new, tmp_path)
    monkeypatch.undo()
    assert same(kit.load(tmp_path), new if (call, nth) == ("replace", 1) else old)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]  # no litter
    kit.save(new, tmp_path)
    assert same(kit.load(tmp_path), new)


KILLED = """
    import os, shutil, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)  # a fork has no other threads
    import perceiver_kit as kit

    new, root, moments = kit.load(sys.argv[2]), Path(sys.argv[1]), sys.argv[3:]
    for moment in moments:
        child = os.fork()
        if child == 0:
            call, when, nth = moment.split("-")
            real, left = getattr(os, call), [int(nth)]

            def killed(*arguments, **options):
                left[0] -= 1
                if left[0] == 0 and when == "after":
                    real(*arguments, **options)
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            setattr(os, call, killed)
            kit.save(new, root / moment)
            os._exit(0)
        print(moment, os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
# In the order of time. The second rename is of config.json, which nothing depends on.
MOMENTS = {
    "fdopen-before-1": "old",  # an empty file beside
    "fsync-before-1": "old",  # written, perhaps not on the disk
    "fsync-after-1": "old",
    "fsync-before-2": "old",  # both beside
    "replace-before-1": "old",
    "replace-after-1": "new",
    "replace-before-2": "new",
    "replace-after-2": "new",
    "fsync-before-3": "new",
}


def test_a_killed_save_leaves_a_whole_model(tmp_path: Path) -> None:
    old, new = small(latents=4, seed=1), small(latents=5, seed=2)
    kit.save(new, tmp_path / "new")
    for moment in MOMENTS:
        kit.save(old, tmp_path / moment)
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(tmp_path / "new"), *MOMENTS]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{moment} 9" for moment in MOMENTS]
    for moment, left in MOMENTS.items():
        assert same(kit.load(tmp_path / moment), {"old": old, "new": new}[left]), moment
        kit.save(new, tmp_path / moment)
        assert same(kit.load(tmp_path / moment), new), moment
        assert sorted(os.listdir(tmp_path / moment)) == ["config.json", "model.safetensors"], moment


def test_a_save_half_way_through_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[: len(content) // 2])
            raise OSError(28, "No space left on device")

    old = small(seed=1)
    kit.save(old, tmp_path)
    real = os.fdopen
    monkeypatch.setattr(files.os, "fdopen", lambda *arguments: Full(real(*arguments)))
    with pytest.raises(kit.CheckpointError, match=r"cannot save to .*: No space left on device"):
        kit.save(small(seed=2), tmp_path)
    monkeypatch.undo()
    assert same(kit.load(tmp_path), old)
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("noticed", [False, True])
def test_a_model_that_is_saved_over_while_it_is_opened_is_read_again(
    noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors may see the header of one file and the tensors of another, and notices if these are too few."""
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


def saved_and_loaded(block: type, folder: Path) -> tuple[kit.PerceiverIO, kit.PerceiverIO]:
    """A model with an output of this class, which is registered for as long as it takes, and what is loaded of it."""
    registered = kit.registry._entries["outputs"]
    registered[block.__name__] = block
    try:
        model = kit.PerceiverIO(
            inputs.Inputs(points=inputs.Features(3)),
            kit.Encoder(3, num_latents=2, latent_dim=8, layers=0),
            decoder=kit.MeanPool(8, out_channels=5),
            outputs=outputs.Outputs(label=block(5)),
        )
        return model, kit.load(kit.save(model, folder))
    finally:
        del registered[block.__name__]


def test_blocks_whose_buffers_are_not_saved_make_them_themselves(tmp_path: Path) -> None:
    class Scaled(outputs.Rows):
        def __init__(self, in_channels: int) -> None:
            super().__init__(in_channels)
            self.register_buffer("ramp", torch.arange(in_channels), persistent=False)

    _, loaded = saved_and_loaded(Scaled, tmp_path)
    assert loaded.outputs.blocks["label"].ramp.tolist() == [0, 1, 2, 3, 4]


def test_two_layers_with_one_weight_have_one_again(tmp_path: Path) -> None:
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
