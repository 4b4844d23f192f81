"""Masked autoencoding of any modalities by the hierarchical Perceiver (HiP)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..activations import Activation
from ..bottleneck import LabelBottleneck
from ..checking import check_positive, check_sizes, short
from ..declarations import recipe
from ..decoders import Decoder
from ..encoders import HierarchicalEncoder
from ..errors import AssemblyError
from ..grouping import Order
from ..initialisation import deviation_by_rows
from ..inputs import Embedded, Features, Inputs, Pixels
from ..modalities import check_names
from ..model import PerceiverIO
from ..objectives import Regression, Weighted
from ..outputs import Outputs, Project, ToPixels
from ..positions import Learned, Positions, Projected
from ..queries import PositionQuery, Queries

OWNER = "hierarchical_autoencoding"
CODE = "google-deepmind/hierarchical_perceiver, perceiver_blocks.py and its table of variants"

# The two mock data sets of the repository's test: rows and channels of each modality.
MOCK = (
    dict(imagenet_image=(1024, 3), imagenet_label=(32, 1)),
    dict(audioset_audio=(128, 16), audioset_label=(16, 16)),
)

HIP_16 = dict(
    groups=(16, 4, 1, 1, 1, 4, 16),
    layers=(2, 2, 18, 2, 1, 1, 1),
    num_latents=(128, 256, 256, 64, 256, 256, 128),
    widths=(128, 256, 512, 1024, 512, 256, 128),
    self_heads=(4, 8, 16, 32, 16, 8, 4),
)
HIP_256 = dict(
    width=16,
    groups=(256, 64, 16, 4, 1, 1, 1, 4, 16, 64, 256),
    layers=(1, 1, 2, 2, 18, 2, 1, 1, 1, 1, 1),
    num_latents=(32, 64, 128, 256, 256, 64, 256, 256, 128, 64, 32),
    widths=(64, 96, 128, 256, 512, 1024, 256, 128, 64, 32, 16),
    self_heads=(1, 2, 4, 8, 16, 32, 16, 8, 4, 2, 1),
)
HIP_MINI = dict(
    groups=(16, 1, 16),
    layers=(2, 1, 1),
    num_latents=(128, 64, 128),
    widths=(128, 1024, 128),
    self_heads=(4, 32, 4),
)
HIP_16X3 = HIP_MINI | dict(layers=(2, 18, 2), num_latents=(128, 256, 128))
SMALL = dict(
    modalities=dict(image=(28, 28, 1), label=(1, 10)),
    groups=(4, 1, 4),
    layers=(1, 2, 1),
    num_latents=(16, 16, 16),
    widths=(32, 64, 32),
    self_heads=(2, 4, 2),
)


def masked_reconstruction(model: PerceiverIO | None = None) -> Weighted:
    """Squared error of the masked rows of every output; without a model, of an image and its one-hot label."""
    return Weighted({name: Regression(name) for name in (model.outputs.blocks if model else ("image", "label"))})


def _random_rows(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    """Rows (b, n, c); for a grid of several axes (b, c, h, w)."""
    data_set = _data_sets(parameters["modalities"])[0]
    shapes = {name: s if len(s) == 2 else (*s[:-3], s[-1], *s[-3:-1]) for name, s in data_set.items()}
    return {name: torch.rand(batch, *shape) for name, shape in shapes.items()}


@recipe(
    presets=dict(
        base=HIP_16,
        hip_16=HIP_16,
        hip_256=HIP_256,
        hip_mini=HIP_MINI,
        hip_16x3=HIP_16X3,
        tiny=SMALL,
        quick=SMALL | dict(order="blocks", map_positions=False),
    ),
    sources=dict(
        modalities=f"{CODE}: its mock data sets",
        labels=f"{CODE}: HiPClassBottleneck",
        width=f"{CODE}: num_embedding_channels",
        map_positions=f"{CODE}: position tables have the embedding's width and pass a square map",
        groups=f"{CODE}: num_groups",
        num_latents=f"{CODE}: z_index_dim",
        widths=f"{CODE}: num_z_channels",
        layers=f"{CODE}: num_self_attends_per_block",
        cross_heads=f"{CODE}: num_cross_attend_heads",
        self_heads=f"{CODE}: num_self_attend_heads",
        cross_widening=f"{CODE}: cross_attend_widening_factor",
        self_widening=f"{CODE}: self_attend_widening_factor",
        regroup=f"{CODE}: regroup_type",
        order=f"{CODE}: flattened rows; blocks is an option of this kit",
        activation=f"{CODE}: squared ReLU",
        dropout=f"{CODE}: none",
    ),
    group=HierarchicalEncoder,
    objective=masked_reconstruction,
    training=dict(
        steps=1500,
        batch=16,
        rate=2e-3,
        quick=dict(steps=800, optimizer="muon", rate=3e-3, weight_decay=0.05),
    ),
    data=dict(
        masked_digits="perceiver_kit.data.masked_rows:masked_digits",
        masked_clip="perceiver_kit.data.masked_rows:masked_clip",
        path="perceiver_kit.data.masked_rows:masked_pictures",
    ),
    random_inputs=_random_rows,
    processor="perceiver_kit.processors.recipes:reconstruct",
)
def hierarchical_autoencoding(
    *,
    modalities: Mapping[str, tuple[int, ...]] | Sequence[Mapping[str, tuple[int, ...]]] = MOCK,
    labels: Sequence[str] = (),
    width: int = 32,
    map_positions: bool = True,
    order: Order = "rows",
    activation: Activation = "squared_relu",
    **encoder,
) -> PerceiverIO:
    """Masked autoencoding of any modalities by the hierarchical Perceiver (Carreira et al. 2022).

    ``modalities`` maps each to the grid of its rows and their channels. Rows (n, c) enter as (b, n, c); a grid (h, w,
    c) or (t, h, w, c) as (b, c, h, w) or (b, t, c, h, w). Each is returned in the same form. Masked rows (``mask``,
    False) are not read: training reconstructs them from the others. Several data sets pass through one model by a
    list of such mappings: any modality may then be left out, and ``at`` names the outputs of a call.

    ``labels`` names modalities that enter and leave at the middle level (``LabelBottleneck``).

    >>> model = kit.build("hierarchical_autoencoding", preset="tiny")
    >>> rows = {"image": torch.rand(2, 1, 28, 28), "label": torch.rand(2, 1, 10)}
    >>> {name: tuple(value.shape) for name, value in model(rows, mask={"label": torch.zeros(2, 1) > 0}).items()}
    {'image': (2, 1, 28, 28), 'label': (2, 1, 10)}
    """
    check_positive(OWNER, width=width)
    data_sets = _data_sets(modalities)
    sizes = {name: size for data_set in data_sets for name, size in data_set.items()}
    if not isinstance(labels, list | tuple):
        raise AssemblyError(f"{OWNER}: labels must be a tuple of names, got {short(labels)}")
    check_names(f"{OWNER}: labels", labels, sizes)
    trunk = HierarchicalEncoder(width, order=order, activation=activation, **encoder)
    own = [{name: data_set[name] for name in data_set if name not in labels} for data_set in data_sets]
    for data_set in own:
        if not 1 <= len(data_set) <= trunk.groups[0]:
            expected = f"1 to {trunk.groups[0]} modalities besides labels, one a group"
            raise AssemblyError(f"{OWNER}: expected {expected}, got {', '.join(data_set) or 'none'}")
    parts = _parts(own, width, map_positions)
    decoder = Decoder(width, trunk.latent_dim, groups=trunk.groups[-1], order=order, activation=activation)
    if not labels:
        return PerceiverIO(parts[0], trunk, parts[1], decoder, parts[2])
    middle = len(trunk.groups) // 2
    label_width = trunk.widths[middle - 1]
    label_parts = _parts([{name: sizes[name] for name in labels}], label_width, False)
    return LabelBottleneck(
        parts[0],
        trunk,
        parts[1],
        decoder,
        parts[2],
        label_inputs=label_parts[0],
        label_queries=label_parts[1],
        label_decoder=Decoder(label_width, trunk.widths[middle], activation=activation),
        label_outputs=label_parts[2],
    )


def _data_sets(modalities: Any) -> list[dict[str, tuple[int, ...]]]:
    """The sizes of the modalities of each data set; AssemblyError for anything else."""
    data_sets = [modalities] if isinstance(modalities, Mapping) else modalities
    expected = "a mapping of names to (rows, channels), (h, w, channels) or (t, h, w, channels), or a list of them"
    if not isinstance(data_sets, Sequence) or not data_sets or not all(isinstance(d, Mapping) for d in data_sets):
        raise AssemblyError(f"{OWNER}: modalities must be {expected}, got {short(modalities)}")
    names = [name for data_set in data_sets for name in data_set]
    if len(names) > len({*names}):
        raise AssemblyError(f"{OWNER}: modalities of different data sets must have different names, got {names}")
    for data_set in data_sets:
        for name, size in data_set.items():
            if not 2 <= len(check_sizes(OWNER, f"modalities {name}", size)) <= 4:
                raise AssemblyError(f"{OWNER}: modalities must be {expected}, got {name}: {size}")
    return [{name: tuple(size) for name, size in data_set.items()} for data_set in data_sets]


def _parts(
    data_sets: Sequence[Mapping[str, tuple[int, ...]]], width: int, mapped: bool
) -> tuple[Inputs, Queries, Outputs]:
    """Inputs, queries and outputs of some modalities; a query is the position that its input has.

    The first modalities of all data sets share one map of positions, the second ones another, and so on: the original
    names the maps by their order in a call.
    """
    inputs, queries, outputs = {}, {}, {}
    maps: list[Projected] = []
    for data_set in data_sets:
        for i, (name, (*grid, channels)) in enumerate(data_set.items()):
            positions: Positions = Learned((*grid,), width, deviation=deviation_by_rows(math.prod(grid)))
            if mapped:
                positions = Projected(positions, width, bias=False, like=maps[i] if i < len(maps) else None)
                maps += [positions] if i == len(maps) else []
            rows = len(grid) == 1
            own = (*grid,)
            content = Features(channels, grid=own) if rows else Pixels((1,) * len(grid), channels=channels, grid=own)
            inputs[name] = Embedded(content, width, positions=positions, combine="add")
            queries[name] = PositionQuery(positions, follows=name)
            outputs[name] = (Project if rows else ToPixels)(channels, in_channels=width, zero=True)
    return Inputs(inputs, optional=[*inputs] if len(data_sets) > 1 else []), Queries(queries), Outputs(outputs)
