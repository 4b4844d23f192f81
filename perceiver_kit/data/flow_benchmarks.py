"""Sintel and KITTI: pairs of frames with measured or rendered flow, from a user's own folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Generator, Tensor

from ..checking import check_image_size
from ..errors import InputError
from ..flags import checked_flags
from .files import PICTURES, hold_out, open_picture, top_level_files
from .flow_files import FlowFile, read_flo, read_kitti_flow
from .image_processor import as_picture
from .images import to_unit
from .sampling import Samples
from .task import Task

Size = int | tuple[int, int]
RENDERINGS = ("clean", "final")


@dataclass(frozen=True)
class Pair:
    """The files of one pair: two frames, the flow of the first, and masks by name."""

    first: Path
    second: Path
    flow: Path
    masks: dict[str, Path] = field(default_factory=dict)


class FlowPairs(Samples):
    """Pairs of frames: ``frames`` float32 (2, 3, h, w) in [-1, 1] → ``flow`` (2, h, w), ``valid`` bool (h, w).

    Of Sintel, the targets ``matched`` and ``unmatched`` are True at pixels whose counterpart the second frame shows, or
    hides; of KITTI, ``noc`` at pixels that are not occluded. Masks are evaluated one by one (``kit.evaluate``).

    Args:
        pairs: their files.
        size: (h, w) of a crop, random in training and central in evaluation; None for whole frames.

    Raises InputError, naming the file, for files of different sizes, and a crop that is larger than its frames.
    """

    def __init__(self, pairs: Sequence[Pair], *, size: tuple[int, int] | None, seed: int = 0) -> None:
        if not len(pairs):
            raise InputError("FlowPairs needs at least one pair of frames")
        self.pairs, self.size, self.seed = tuple(pairs), size, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def sample(self, index: int, random: Generator, training: bool) -> dict[str, Any]:
        pair = self.pairs[index]
        frames = torch.stack([_frame(path, pair.first) for path in (pair.first, pair.second)])
        flow, valid = _read_flow(pair.flow)
        targets = {"flow": flow, "valid": valid} | {name: _mask(name, path) for name, path in pair.masks.items()}
        for name, value in targets.items():
            if value.shape[-2:] != frames.shape[-2:]:
                expected = f"the size of {pair.first.name}, {tuple(frames.shape[-2:])}"
                file = pair.masks.get(name, pair.flow)
                raise InputError(f"{file}: expected {expected}, got {tuple(value.shape[-2:])}")
        if "unmatched" in targets:
            targets["matched"] = valid & ~targets["unmatched"]
        if self.size is not None:
            part = _window(frames.shape[-2:], self.size, random if training else None, pair.first)
            frames, targets = frames[..., *part], {name: value[..., *part] for name, value in targets.items()}
        return {"inputs": {"frames": frames}, "targets": targets}


@checked_flags
def sintel(path: Path, *, image_size: Size = (368, 496), seed: int = 0, evaluation: bool = False) -> Task:
    """MPI Sintel: the folder ``training``, its parent, or ``training/final``; without one, the rendering is ``clean``.

    Scenes are held out whole: a tenth of them. With ``evaluation`` the held-out set is all pairs, as whole frames.

    Raises InputError, naming the file, for a folder without pairs and flow.
    """
    rendering = path.name if path.name in RENDERINGS else RENDERINGS[0]
    root = path.parent if path.name in RENDERINGS else _training(path)
    pairs: dict[Path, list[Pair]] = {}
    for scene in sorted(folder for folder in (root / rendering).glob("*") if folder.is_dir()):
        files = top_level_files(scene, PICTURES)
        found = []
        for first, second in pairwise(files):
            _check_next(first, second)
            name = f"{scene.name}/{first.stem}"
            masks = {"unmatched": root / "occlusions" / f"{name}.png"}
            masks = {kind: file for kind, file in masks.items() if file.is_file()}
            found.append(Pair(first, second, _there(root / "flow" / f"{name}.flo", first), masks))
        if found:
            pairs[scene] = found
    if not pairs:
        expected = f"scenes of frames in {root / rendering} and their flow in {root / 'flow'}"
        raise InputError(f"{path}: expected MPI Sintel's folder, with {expected}, got none")
    return _task(path, pairs, root, image_size, seed, evaluation)


@checked_flags
def kitti(path: Path, *, image_size: Size = (368, 496), seed: int = 0, evaluation: bool = False) -> Task:
    """KITTI 2015 or 2012: the folder ``training`` or its parent, with ``image_2`` (or ``colored_0``) and ``flow_occ``.

    Pairs are NUMBER_10.png and NUMBER_11.png; ``flow_noc`` gives the mask ``noc``. A tenth of the pairs is held out.
    With ``evaluation`` the held-out set is all pairs, as whole frames.

    Raises InputError, naming the file, for a folder without pairs and flow.
    """
    root = _training(path)
    frames = next((root / name for name in ("image_2", "colored_0", "image_0") if (root / name).is_dir()), root)
    pairs: dict[Path, list[Pair]] = {}
    for first in top_level_files(frames, (".png",)):
        if first.stem.endswith("_10"):
            second = _there(first.with_name(first.name.replace("_10.", "_11.")), first)
            masks = {"noc": root / "flow_noc" / first.name}
            masks = {kind: file for kind, file in masks.items() if file.is_file()}
            pairs[first] = [Pair(first, second, _there(root / "flow_occ" / first.name, first), masks)]
    if not pairs:
        expected = "frames NUMBER_10.png and NUMBER_11.png in image_2 or colored_0, and their flow in flow_occ"
        raise InputError(f"{path}: expected KITTI's folder, with {expected}, got none")
    return _task(path, pairs, root, image_size, seed, evaluation)


def _task(
    path: Path, groups: dict[Path, list[Pair]], root: Path, image_size: Size, seed: int, evaluation: bool
) -> Task:
    """Training and held-out pairs; those of one group are on one side."""
    size = check_image_size("flow", image_size)
    every = [pair for group in groups.values() for pair in group]
    if evaluation:
        train, held_out = every, every
    else:
        parts = hold_out([*groups], root, str(path))
        train, held_out = ([pair for group in part for pair in groups[group]] for part in parts)
    sets = FlowPairs(train, size=size, seed=seed), FlowPairs(held_out, size=None if evaluation else size, seed=seed)
    return Task(path.name, *sets, dict(image_size=size), str(path))


def _training(path: Path) -> Path:
    return path / "training" if (path / "training").is_dir() else path


def _there(file: Path, of: Path) -> Path:
    if not file.is_file():
        raise InputError(f"{of}: expected {file}, which does not exist")
    return file


def _check_next(first: Path, second: Path) -> None:
    """Raise InputError if numbered frames leave one out: the flow of a file leads to the frame after it."""
    head, number = re.fullmatch(r"(.*?)(\d*)", first.stem).groups()  # type: ignore[union-attr]
    after = f"{head}{int(number) + 1:0{len(number)}}" if number else second.stem
    if second.stem != after:
        raise InputError(f"{first}: expected {after}{first.suffix} as the next frame, got {second.name}")


def _frame(path: Path, first: Path) -> Tensor:
    pixels = rearrange(torch.from_numpy(np.array(as_picture(open_picture(path), str(path)))), "h w c -> c h w")
    if path != first and (size := open_picture(first).size) != (pixels.shape[2], pixels.shape[1]):
        raise InputError(f"{path}: expected the size of {first.name}, {size}, got {tuple(pixels.shape[:0:-1])}")
    return to_unit(pixels)


def _read_flow(path: Path) -> FlowFile:
    return read_flo(path) if path.suffix.lower() == ".flo" else read_kitti_flow(path)


def _mask(name: str, path: Path) -> Bool[Tensor, "h w"]:
    """True where an occlusion is marked, or where KITTI's flow is known."""
    if name == "noc":
        return read_kitti_flow(path).valid
    return torch.from_numpy(np.array(open_picture(path).convert("L")) > 127)


def _window(whole: Sequence[int], size: tuple[int, int], random: Generator | None, file: Path) -> tuple[slice, slice]:
    room = [have - want for have, want in zip(whole, size, strict=True)]
    if min(room) < 0:
        raise InputError(f"{file}: expected frames of at least {size}, the crop, got {tuple(whole)}; lower image_size")
    top, left = (
        int(torch.randint(free + 1, (), generator=random)) if random is not None else free // 2 for free in room
    )
    return slice(top, top + size[0]), slice(left, left + size[1])
