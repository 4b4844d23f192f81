"""Untrusted sharded checkpoints: tensors and a list of shards are read, anything else is refused."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

import perceiver_kit as kit

from .evil import Evil

training = pytest.importorskip("perceiver_kit.training")


def model_of(seed: int = 0) -> kit.PerceiverIO:
    torch.manual_seed(seed)
    return kit.PerceiverIO(
        kit.Inputs(points=kit.inputs.Features(3)),
        kit.Encoder(3, num_latents=2, latent_dim=8, layers=1),
        kit.Queries(label=kit.queries.LearnedQuery(1, 4)),
        kit.Decoder(4, 8),
        kit.Outputs(label=kit.outputs.Classify(2, in_channels=4)),
    )


def write(folder: Path, change: Callable[[dict[str, Any]], None] = lambda state: None) -> Path:
    """Writes a checkpoint as FSDP2 does in one process, after a change of its state."""
    model = model_of()
    state: dict[str, Any] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    change(state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        distributed.save({"state_dict": state, "settings": {"rate": 0.1}}, checkpoint_id=folder)
    torch.save({"global_step": 1, "perceiver_kit": kit.spec(model)}, folder / "meta.pt")
    return folder


def edit_list(folder: Path, edit: Callable[[Any], Any]) -> Path:
    """Edits the list of shards."""
    path = folder / ".metadata"
    path.write_bytes(pickle.dumps(edit(pickle.loads(path.read_bytes()))))
    return folder


def move(to: Any) -> Callable[[Any], Any]:
    """An edit that changes the paths of all shards."""

    def edit(listed: Any) -> Any:
        shards = listed.storage_data.items()
        listed.storage_data = {index: replace(shard, relative_path=to(shard.relative_path)) for index, shard in shards}
        return listed

    return edit


def test_valid_checkpoints_are_loaded_exactly(tmp_path: Path) -> None:
    found, wanted = training.load_sharded(write(tmp_path)).state_dict(), model_of().state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not torch.equal(found["encoder.latents"], model_of(1).state_dict()["encoder.latents"])


def check_refused(folder: Path, message: str) -> None:
    with pytest.raises(kit.CheckpointError, match=message) as caught:
        training.load_sharded(folder)
    assert str(folder) in str(caught.value)


def test_lists_of_shards_with_other_classes_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for i, evil in enumerate([lambda _: Evil(mark), lambda listed: replace(listed, planner_data=Evil(mark))]):
        folder = edit_list(write(tmp_path / f"run{i}"), evil)
        check_refused(folder, r"its list of shards names (posix|nt)\.mkdir")
        assert not mark.exists()
        pickle.loads((folder / ".metadata").read_bytes())  # unpickling does leave the mark
        mark.rmdir()


def test_values_that_are_not_tensors_are_not_unpickled(tmp_path: Path) -> None:
    """PyTorch itself unpickles every entry listed as bytes."""
    mark = tmp_path / "mark"
    folder = write(tmp_path / "run", lambda state: state.update({"model.encoder.latents": Evil(mark)}))
    listed = pickle.loads((folder / ".metadata").read_bytes()).state_dict_metadata
    assert isinstance(listed["state_dict.model.encoder.latents"], BytesStorageMetadata)
    check_refused(folder, "Missing key in checkpoint state_dict: state_dict.model.encoder.latents")
    assert not mark.exists()
    state = {"state_dict": {"model.encoder.latents": torch.zeros(2, 8)}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        distributed.load(state, checkpoint_id=folder)  # unpickling does leave the mark
    assert mark.exists()


@pytest.mark.parametrize("to", [lambda name: f"../other/{name}", lambda name: f"/{name}", lambda name: f"a\\{name}"])
def test_shards_outside_the_folder_are_not_read(to: Callable[[str], str], tmp_path: Path) -> None:
    write(tmp_path / "other")
    check_refused(edit_list(write(tmp_path / "run"), move(to)), "it lists a shard that is not beside it")


@pytest.mark.parametrize("damaged", [b"", b"garbage", pickle.dumps({"a": 1}), pickle.dumps(None)])
def test_a_damaged_list_of_shards_is_refused(damaged: bytes, tmp_path: Path) -> None:
    (write(tmp_path) / ".metadata").write_bytes(damaged)
    check_refused(tmp_path, "is damaged or not a sharded checkpoint of this model")


def test_truncated_and_missing_shards_are_refused(tmp_path: Path) -> None:
    (shard,) = write(tmp_path).glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:-500])
    check_refused(tmp_path, "is damaged")
    shard.unlink()
    check_refused(tmp_path, "is damaged")


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    check_refused(
        write(tmp_path, lambda state: state.update({"model.encoder.latents": torch.zeros(3, 8)})), "is damaged"
    )
