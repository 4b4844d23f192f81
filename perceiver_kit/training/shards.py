"""Read FSDP2's sharded checkpoints without running code that a stranger may have put there."""

from __future__ import annotations

import pickle
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from ..errors import CheckpointError

# The classes that a list of shards holds; none of them has side effects.
KINDS = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}


class Shards(FileSystemReader):
    """Reads only tensors, from files beside the list of shards, which may hold only ``KINDS``.

    PyTorch's own reader unpickles any class in the list, and every value that the list does not declare a tensor.
    """

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (self.path / ".metadata").open("rb") as file:  # type: ignore[operator]
            found: Metadata = _Unpickler(file).load()
        kinds = found.state_dict_metadata
        tensors: dict[str, Any] = {
            name: kind for name, kind in kinds.items() if isinstance(kind, TensorStorageMetadata)
        }
        for shard in found.storage_data.values():
            if {"/", "\\"} & set(shard.relative_path) or shard.transform_descriptors:
                raise CheckpointError(f"it lists a shard that is not beside it: {shard.relative_path!r}")
        return Metadata(tensors, found.planner_data, found.storage_data, found.storage_meta)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        kind = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if kind or name in KINDS.get(module, ()):
            return super().find_class(module, name)
        raise CheckpointError(f"its list of shards names {module}.{name}")
