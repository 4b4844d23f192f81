"""Images, video and sound as rows, compared with plain NumPy and with Hugging Face, for all strides and positions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.models.perceiver import modeling_perceiver as theirs

from perceiver_kit import inputs
from perceiver_kit.positions import Fourier, Learned, Positions, Projected

from ..hub.reference import randomised, relative
from . import restated

pytestmark = pytest.mark.usefixtures("checked")

KINDS = ["Pixels", "Conv1x1", "ConvStem", "Patches", "Patches + linear", "Neighbourhoods", "AudioPatches"]
POSITIONS = ["none", "Fourier", "Learned", "Projected Fourier", "Projected Learned"]
# ([frames,] height, width), distinct so that swapped axes are noticed.
STRIDES = {2: [(1, 1), (2, 3), (3, 1)], 3: [(1, 1, 1), (2, 1, 3), (1, 3, 2), (2, 2, 2)]}
GRIDS = {1: (5,), 2: (3, 4), 3: (2, 3, 4)}
WIDTH, CHANNELS = 12, 6  # divisible by one, two and three axes


def widths(axes: int) -> list[tuple[int, ...]]:
    return STRIDES.get(axes, [(4,)])


COMBINATIONS = [
    pytest.param(kind, axes, stride, positions, combine, id=f"{kind}-{stride}-{positions}-{combine}")
    for kind, axes in itertools.product(KINDS, (1, 2, 3))
    if axes in {"AudioPatches": (1,), "Neighbourhoods": (2,)}.get(kind, (2, 3))
    for stride in widths(axes)[: 1 if kind in ("ConvStem", "Neighbourhoods") else None]
    for positions, combine in itertools.product(POSITIONS, ("concat", "add"))
    if positions != "none" or combine == "add"
]


def some_positions(kind: str, grid: tuple[int, ...], width: int | None) -> Positions | None:
    """Positions of this kind; with ``width``, they can be added to content of this width."""
    axes = len(grid)
    resolution = tuple(size + 3 for size in grid)
    if width is None:
        fourier, learned = Fourier(bands=3, max_resolution=resolution), Learned(grid, 5)
    else:
        bands = width // axes
        fourier = Fourier(bands=bands, max_resolution=resolution, coordinates=False, sine_only=True)
        learned = Learned(grid, width)
    plain = {"none": None, "Fourier": fourier, "Learned": learned}
    return plain[kind] if kind in plain else Projected(plain[kind.removeprefix("Projected ")], width or 7)


def make(kind: str, axes: int, stride: tuple[int, ...], positions: str, combine: str) -> tuple[inputs.Input, Tensor]:
    """A block, and a raw tensor that fills its grid exactly."""
    grid = GRIDS[axes]
    content = {
        "Pixels": CHANNELS,
        "Patches": CHANNELS * math.prod(stride),
        "AudioPatches": stride[0],
    }.get(kind, WIDTH)
    given = dict(combine=combine, positions=some_positions(positions, grid, content if combine == "add" else None))
    size = tuple(n * s for n, s in zip(grid, stride, strict=True))
    match kind:
        case "AudioPatches":
            return inputs.AudioPatches(*stride, **given), torch.randn(2, *size)
        case "Neighbourhoods":
            return inputs.Neighbourhoods(WIDTH, channels=2, **given), torch.randn(2, 2, 2, *size)
        case "Pixels":
            block = inputs.Pixels(stride, channels=CHANNELS, **given)
            # The stride need not divide the size.
            size = tuple(n - s + 1 for n, s in zip(size, stride, strict=True))
        case "Conv1x1":
            block = inputs.Conv1x1(WIDTH, stride=stride, channels=CHANNELS, **given)
            size = tuple(n - s + 1 for n, s in zip(size, stride, strict=True))
        case "ConvStem":
            block = inputs.ConvStem(WIDTH, axes=axes, channels=CHANNELS, **given)
            size = (*size[:-2], 4 * size[-2] - 1, 4 * size[-1] - 3)
        case _:
            linear = WIDTH if kind.endswith("linear") else None
            block = inputs.Patches(stride, channels=CHANNELS, out_channels=linear, **given)
    return block, torch.randn(2, *size[:-2], CHANNELS, *size[-2:])


@pytest.mark.parametrize(("kind", "axes", "stride", "positions", "combine"), COMBINATIONS)
@torch.no_grad()
def test_rows_equal_plain_numpy(kind: str, axes: int, stride: tuple[int, ...], positions: str, combine: str) -> None:
    block, raw = make(kind, axes, stride, positions, combine)
    randomised(block).eval()
    tokens = block(raw, "raw")
    assert tokens.layout.segments == (("raw", GRIDS[axes]),) and tokens.mask is None
    assert tokens.rows.shape == (2, math.prod(GRIDS[axes]), block.channels)
    wanted = torch.from_numpy(restated.placed(block, raw))
    assert relative(tokens.rows.double(), wanted) < 1e-5
    if positions != "none":
        without = torch.from_numpy(restated.content(block, raw)).flatten(1, -2)
        assert relative(block.embed(raw, "raw").flatten(1, -2).double(), without) < 1e-5


# ---- the references


def both_positions(kind: str, grid: tuple[int, ...], width: int, combine: str) -> tuple[Positions, dict]:
    """Positions without projection, and the reference's arguments for the same."""
    axes = len(grid)
    if kind.endswith("Learned"):
        options = dict(num_channels=width, index_dims=math.prod(grid))
        return Learned(grid, width), dict(
            position_encoding_type="trainable", trainable_position_encoding_kwargs=options
        )
    coordinates = combine == "concat"
    bands, resolution = width // axes - coordinates, tuple(size + 3 for size in grid)
    ours = Fourier(bands=bands, max_resolution=resolution, coordinates=coordinates, sine_only=True)
    options = dict(num_bands=bands, max_resolution=resolution, concat_pos=coordinates, sine_only=True)
    return ours, dict(position_encoding_type="fourier", fourier_position_encoding_kwargs=options)


def copy_positions(ours: Positions, block: nn.Module) -> None:
    if isinstance(ours, Projected):
        ours.project.load_state_dict(block.positions_projection.state_dict())
        ours = ours.positions
    if isinstance(ours, Learned):
        ours.table.copy_(block.position_embeddings.position_embeddings)


# Cases that the reference supports: its strided pixels slice batch and channels, its convolutions take no video.
REFERENCED = [
    ("pixels", 2, 1, 1),
    ("pixels", 3, 1, 1),
    ("pixels", 3, 2, 2),
    ("conv1x1", 2, 1, 1),
    ("conv1x1", 2, 3, 1),
    ("conv", 2, 4, 1),
    ("patches", 2, 2, 1),
    ("patches", 3, 2, 1),
    ("patches", 3, 3, 2),
    ("patches + linear", 2, 2, 1),
    ("patches + linear", 3, 2, 2),
]


@pytest.mark.parametrize("combine", ["concat", "add"])
@pytest.mark.parametrize("positions", POSITIONS[1:])
@pytest.mark.parametrize(("kind", "axes", "space", "time"), REFERENCED)
@torch.no_grad()
def test_images_equal_the_reference(kind: str, axes: int, space: int, time: int, positions: str, combine: str) -> None:
    grid, projected = GRIDS[axes], positions.startswith("Projected")
    patches = CHANNELS * space**2 * (time if axes == 3 else 1)
    content = {"pixels": CHANNELS, "patches": patches}.get(kind, WIDTH)
    # The reference projects as many channels as its convolution has, whatever the width of the positions.
    width = WIDTH if projected or combine == "concat" else content
    target = (content if combine == "add" else 5) if projected else -1
    features, options = both_positions(positions, grid, width, combine)
    reference = theirs.PerceiverImagePreprocessor(
        transformers.PerceiverConfig(),
        prep_type=kind.removesuffix(" + linear"),
        spatial_downsample=space,
        temporal_downsample=time,
        in_channels=CHANNELS,
        out_channels=WIDTH,
        conv_after_patching=kind.endswith("linear"),
        conv_after_patching_in_channels=patches,
        concat_or_add_pos=combine,
        project_pos_dim=target,
        **options,
    )
    randomised(reference).eval()
    given = dict(positions=Projected(features, target) if projected else features, combine=combine)
    stride = (time, space, space)[-axes:]
    size = tuple(n * s for n, s in zip(grid, stride, strict=True))
    raw = torch.randn(2, *size[:-2], CHANNELS, *size[-2:])
    match kind:
        case "pixels":
            ours = inputs.Pixels(stride, channels=CHANNELS, **given)
        case "conv1x1":
            ours = inputs.Conv1x1(WIDTH, stride=stride, channels=CHANNELS, **given)
            ours.conv.load_state_dict(reference.convnet_1x1.state_dict())
        case "conv":
            ours = inputs.ConvStem(WIDTH, channels=CHANNELS, padding="huggingface", **given).eval()
            ours.convs[0].load_state_dict(reference.convnet.conv.state_dict())
            ours.norms[0].load_state_dict(reference.convnet.batchnorm.state_dict())
            raw = torch.randn(2, CHANNELS, 13, 17)  # → 7 × 9 → 3 × 4
        case _:
            linear = WIDTH if kind.endswith("linear") else None
            ours = inputs.Patches(stride, channels=CHANNELS, out_channels=linear, **given)
            if linear:
                ours.project.load_state_dict(reference.conv_after_patches.state_dict())
    copy_positions(ours.positions, reference)
    wanted, _, without = reference(raw)
    tokens = ours(raw, "raw")
    assert tokens.layout.grid("raw") == grid
    assert relative(tokens.rows, wanted) < 1e-5
    assert relative(ours.embed(raw, "raw").flatten(1, -2), without.flatten(1, -2)) < 1e-5


@pytest.mark.parametrize("combine", ["concat", "add"])
@pytest.mark.parametrize("positions", POSITIONS[1:])
@torch.no_grad()
def test_sound_equals_the_reference(positions: str, combine: str) -> None:
    patch, projected = 4, positions.startswith("Projected")
    width = patch if combine == "add" and not projected else 9
    features, options = both_positions(positions, GRIDS[1], width, combine)
    reference = theirs.PerceiverAudioPreprocessor(
        transformers.PerceiverConfig(),
        samples_per_patch=patch,
        out_channels=width,
        concat_or_add_pos=combine,
        project_pos_dim=patch if projected else -1,
        **options,
    )
    randomised(reference)
    ours = inputs.AudioPatches(patch, positions=Projected(features, patch) if projected else features, combine=combine)
    copy_positions(ours.positions, reference)
    raw = torch.randn(2, patch * GRIDS[1][0])
    assert relative(ours(raw).rows, reference(raw[..., None])[0]) < 1e-5


@pytest.mark.parametrize("size", [(8, 8), (5, 12), (16, 9), (1, 3), (7, 8)], ids=str)
@torch.no_grad()
def test_interpolated_tables_equal_the_reference(size: tuple[int, int]) -> None:
    reference = theirs.PerceiverTrainablePositionEncoding((8, 8), 6)
    ours = Learned((8, 8), 6, interpolate=True)
    ours.table.copy_(reference.position_embeddings)
    wanted = reference.interpolate_pos_encoding(reference.position_embeddings, *size)
    assert relative(ours(size), wanted) == 0
    index = torch.randint(math.prod(size), (2, 7))
    assert torch.equal(ours(size, index), wanted[index])
    block = inputs.Conv1x1(4, positions=ours)
    assert block(torch.randn(1, 3, *size)).layout.grid("input") == size


# ---- the convolutional stem


@pytest.mark.parametrize("size", [(224, 224), (56, 64), (55, 63), (1, 2), (30, 7)], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_same_padding_gives_a_quarter_of_the_size_rounded_up(size: tuple[int, int], layers: int) -> None:
    stem = randomised(inputs.ConvStem(4, layers=layers)).eval()
    grid = stem(torch.randn(1, 3, *size)).layout.grid("input")
    assert grid == tuple(math.ceil(n / 4**layers) for n in size)


@torch.no_grad()
def test_the_stem_of_the_reference_has_55_rows_per_side() -> None:
    stem = inputs.ConvStem(4, padding="huggingface").eval()
    assert stem(torch.randn(1, 3, 224, 224)).layout.grid("input") == (55, 55)


@pytest.mark.parametrize(("size", "frames"), [(1, 2), (3, 1), (5, 3)])
@torch.no_grad()
def test_neighbourhoods_of_any_size_equal_plain_numpy(size: int, frames: int) -> None:
    block, raw = randomised(inputs.Neighbourhoods(4, size=size, frames=frames)), torch.randn(2, frames, 3, 4, 3)
    assert relative(block.embed(raw, "raw").double(), torch.from_numpy(restated.content(block, raw))) < 1e-5


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        *itertools.product([(32, 40), (31, 29), (27, 38)], ["same", "huggingface"]),
        *itertools.product([(1, 9), (5, 2)], ["same"]),  # too small for the other
    ],
    ids=str,
)
@pytest.mark.parametrize(("layers", "batch_norm"), [(1, True), (1, False), (2, True)])
@torch.no_grad()
def test_stems_equal_plain_numpy(size: tuple[int, int], layers: int, batch_norm: bool, padding: str) -> None:
    stem = randomised(inputs.ConvStem(3, layers=layers, batch_norm=batch_norm, padding=padding)).eval()
    raw = torch.randn(2, 3, *size)
    assert relative(stem.embed(raw, "raw").double(), torch.from_numpy(restated.content(stem, raw))) < 1e-5


def test_running_statistics_have_momentum_of_a_tenth() -> None:
    stem = inputs.ConvStem(3)
    raw = torch.randn(4, 3, 16, 16)
    seen = F.conv2d(F.pad(raw, (2, 3, 2, 3)), stem.convs[0].weight, stride=2)
    stem(raw)
    torch.testing.assert_close(stem.norms[0].running_mean, 0.1 * seen.mean((0, 2, 3)))


def test_the_numpy_helpers_equal_worked_examples() -> None:
    """SAME at stride 2 pads (2, 3) of an even size and (3, 3) of an odd one, as TensorFlow documents."""
    assert restated._same((224, 225), 7) == ((2, 3), (3, 3))
    assert restated._same((112, 113), 3) == ((0, 1), (1, 1))
    assert np.array_equal(restated._patches(np.arange(8.0).reshape(1, 1, 2, 4, 1), (2, 2))[0, 0, 0, 1], [2, 3, 6, 7])
