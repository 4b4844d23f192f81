"""A sharded checkpoint of a stranger is tensors and a list of where they are, or it is refused."""

from __future__ import annotations

import os
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

training = pytest.importorskip("perceiver_kit.training")


class Evil:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


def model_of(seed: int = 0) -> kit.PerceiverIO:
    torch.manual_seed(seed)
    every, ask = kit.Inputs(points=kit.inputs.Features(3)), kit.Queries(label=kit.queries.LearnedQuery(1, 4))
    encoder, decoder = kit.Encoder(3, num_latents=2, latent_dim=8, layers=1), kit.Decoder(4, 8)
    return kit.PerceiverIO(every, encoder, ask, decoder, kit.Outputs(label=kit.outputs.Classify(4, 2)))


def written(folder: Path, changed: Callable[[dict[str, Any]], None] = lambda state: None) -> Path:
    """A checkpoint as FSDP2 writes it, of one process, its content changed before."""
    model = model_of()
    state: dict[str, Any] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    changed(state)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        distributed.save({"state_dict": state, "settings": {"rate": 0.1}}, checkpoint_id=folder)
    torch.save({"global_step": 1, "perceiver_kit": kit.spec(model)}, folder / "meta.pt")
    return folder


def edited(folder: Path, edit: Callable[[Any], Any]) -> Path:
    """Its list of shards is another one."""
    path = folder / ".metadata"
    path.write_bytes(pickle.dumps(edit(pickle.loads(path.read_bytes()))))
    return folder


def moved(to: Any) -> Callable[[Any], Any]:
    """A list of shards that are elsewhere."""

    def edit(listed: Any) -> Any:
        shards = listed.storage_data.items()
        listed.storage_data = {index: replace(shard, relative_path=to(shard.relative_path)) for index, shard in shards}
        return listed

    return edit


def test_what_is_honest_is_loaded_to_the_bit(tmp_path: Path) -> None:
    found, wanted = training.load_sharded(written(tmp_path)).state_dict(), model_of().state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not torch.equal(found["encoder.latents"], model_of(1).state_dict()["encoder.latents"])


def refused(folder: Path, why: str) -> None:
    with pytest.raises(kit.CheckpointError, match=why) as caught:
        training.load_sharded(folder)
    assert str(folder) in str(caught.value)


def test_a_list_of_shards_that_names_anything_else_is_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for i, evil in enumerate([lambda _: Evil(mark), lambda listed: replace(listed, planner_data=Evil(mark))]):
        folder = edited(written(tmp_path / f"run{i}"), evil)
        refused(folder, r"its list of shards names (posix|nt)\.mkdir")
        assert not mark.exists()
        pickle.loads((folder / ".metadata").read_bytes())  # it would have been seen
        mark.rmdir()


def test_a_value_that_is_no_tensor_is_not_unpickled(tmp_path: Path) -> None:
    """PyTorch unpickles what is listed as bytes, whatever place it is for."""
    mark = tmp_path / "mark"
    folder = written(tmp_path / "run", lambda state: state.update({"model.encoder.latents": Evil(mark)}))
    listed = pickle.loads((folder / ".metadata").read_bytes()).state_dict_metadata
    assert isinstance(listed["state_dict.model.encoder.latents"], BytesStorageMetadata)
    refused(folder, "Missing key in checkpoint state_dict: state_dict.model.encoder.latents")
    assert not mark.exists()
    state = {"state_dict": {"model.encoder.latents": torch.zeros(2, 8)}}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        distributed.load(state, checkpoint_id=folder)  # it would have been seen
    assert mark.exists()


@pytest.mark.parametrize("to", [lambda name: f"../other/{name}", lambda name: f"/{name}", lambda name: f"a\\{name}"])
def test_shards_elsewhere_are_not_read(to: Callable[[str], str], tmp_path: Path) -> None:
    written(tmp_path / "other")
    refused(edited(written(tmp_path / "run"), moved(to)), "it lists a shard that is not beside it")


@pytest.mark.parametrize("damaged", [b"", b"nothing of the kind", pickle.dumps({"a": 1}), pickle.dumps(None)])
def test_a_damaged_list_of_shards_is_refused(damaged: bytes, tmp_path: Path) -> None:
    folder = written(tmp_path)
    (folder / ".metadata").write_bytes(damaged)
    refused(folder, "is damaged or not a sharded checkpoint of this model")


def test_a_shard_that_is_cut_off_or_gone_is_refused(tmp_path: Path) -> None:
    (shard,) = written(tmp_path).glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[:-500])
    refused(tmp_path, "is damaged")
    shard.unlink()
    refused(tmp_path, "is damaged")


def test_tensors_of_another_shape_are_refused(tmp_path: Path) -> None:
    refused(written(tmp_path, lambda state: state.update({"model.encoder.latents": torch.zeros(3, 8)})), "is damaged")
