"""The hierarchical Perceiver: published totals, groups, the grouped decoder, labels at the middle level."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import perceiver_kit as kit
from perceiver_kit.bottleneck import LabelBottleneck
from perceiver_kit.grouping import Group, block_order, groups_of, share_groups
from perceiver_kit.inputs import Features
from perceiver_kit.outputs import Project
from perceiver_kit.positions import Learned
from perceiver_kit.queries import LearnedQuery, PositionQuery

from .strategies import assert_close, noisy

# The repository's own test states the first three, and the first one with labels at the middle level.
TOTALS = {
    ("hip_16", False): 99_224_996,
    ("hip_256", False): 95_585_188,
    ("hip_mini", False): 18_709_668,
    ("hip_mini", True): 21_114_788,
    ("hip_16x3", False): 233_240_356,
    ("hip_16", True): 102_943_012,
}


@pytest.mark.parametrize(("preset", "bottleneck"), TOTALS)
def test_parameter_totals_are_the_published(preset: str, bottleneck: bool) -> None:
    labels = ("imagenet_label", "audioset_label") if bottleneck else ()
    with torch.device("meta"):
        model = kit.build("hierarchical_autoencoding", preset=preset, labels=labels)
    assert sum(parameter.numel() for parameter in model.parameters()) == TOTALS[preset, bottleneck]


# ---- groups


def test_further_groups_go_to_the_modality_with_most_rows_a_group() -> None:
    assert share_groups([22], 4) == [4]
    assert share_groups([29, 10], 4) == [3, 1]
    assert share_groups([8, 8, 8], 5) == [2, 2, 1]  # the first one on a tie
    assert share_groups([50176, 1], 16) == [15, 1]


@pytest.mark.parametrize("order", ["rows", "blocks"])
@pytest.mark.parametrize(("grid", "count"), [((5, 7), 4), ((4, 4), 16), ((9,), 2), ((3, 4, 5), 3), ((2,), 3)])
def test_split_and_join_are_inverse_and_agree_with_of(grid: tuple[int, ...], count: int, order: str) -> None:
    group, rows = Group(2, count, grid, order), math.prod(grid)
    values = torch.arange(1.0, rows + 1).view(1, rows, 1)
    split = group.split(values)
    assert split.shape[1] == count
    assert torch.equal(group.join(split), values)
    found = {int(value): place for place, part in enumerate(split[0]) for value in part[:, 0] if value}
    assert [found[row + 1] + 2 for row in range(rows)] == group.of(torch.arange(rows)).tolist()


def test_blocks_are_compact_and_nest() -> None:
    places = block_order((8, 8)).view(4, 16)
    for block in places:  # quarters of the grid
        rows, columns = block // 8, block % 8
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 3
    assert sorted(places.flatten().tolist()) == [*range(64)]


# ---- the encoder


def encoder(**options: object) -> kit.HierarchicalEncoder:
    sizes = dict(groups=(4, 2, 1, 2, 4), num_latents=(4, 6, 6, 6, 4), widths=(16, 12, 20, 12, 10), layers=1)
    return noisy(kit.HierarchicalEncoder(8, **(sizes | options)), 0.3).double()


def model(order: str = "rows") -> kit.PerceiverIO:
    """Two modalities with learned positions as queries, and a query that follows no input."""
    tables = {"a": Learned((5, 6), 8, deviation=1.0), "b": Learned((7,), 8, deviation=1.0)}
    inputs = {n: Features(8, axes=len(t.grid), positions=t, combine="add") for n, t in tables.items()}
    trunk = encoder(order=order)
    queries = {name: PositionQuery(table, follows=name) for name, table in tables.items()}
    decoder = kit.Decoder(8, trunk.latent_dim, groups=4, order=order)
    outputs = kit.Outputs(a=Project(3, in_channels=8), b=Project(2, in_channels=8), c=Project(1, in_channels=8))
    asked = kit.Queries(queries | {"c": LearnedQuery(1, 8)})
    return noisy(kit.PerceiverIO(kit.Inputs(inputs, optional=["a", "b"]), trunk, asked, decoder, outputs)).double()


def raw() -> dict[str, Tensor]:
    return {"a": torch.randn(2, 5, 6, 8).double(), "b": torch.randn(2, 7, 8).double()}


def test_the_order_of_blocks_is_never_that_of_a_trace() -> None:
    """An exported model, or one of a fake mode, leaves eager models as they are."""

    class Ordered(nn.Module):
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return rows[block_order((3, 7))]

    exported = torch.export.export(Ordered(), (torch.arange(21),), strict=False).module()
    with FakeTensorMode():
        assert type(block_order((5, 3))) is not torch.Tensor
    for grid in ((3, 7), (5, 3)):
        assert type(block_order(grid)) is torch.Tensor
        assert sorted(block_order(grid).tolist()) == [*range(grid[0] * grid[1])]
    assert exported(torch.arange(21)).equal(block_order((3, 7)))


@pytest.mark.parametrize("order", ["rows", "blocks"])
def test_a_query_reads_the_latents_of_its_own_group_only(order: str) -> None:
    io, given = model(order), raw()
    encoded = io.encode(given)
    wanted = io.decode(encoded)
    group = groups_of(encoded.layout, 4, order)["a"]
    owner = group.of(torch.arange(30))
    for number in range(4):
        latents = encoded.latents.clone()
        latents[:, 4 * number : 4 * number + 4] *= torch.randn(4, latents.shape[2])  # a norm undoes a shift
        found = io.decode(kit.Encoded(latents, encoded.layout, encoded.given))
        changed = (found["a"] - wanted["a"]).abs().amax((0, 2)) > 1e-9
        assert torch.equal(changed, owner == number)
        assert (found["c"] - wanted["c"]).abs().max() > 1e-9  # follows no input: it reads all groups


@pytest.mark.parametrize("order", ["rows", "blocks"])
def test_captured_maps_show_all_groups_and_change_nothing(order: str) -> None:
    io, given = model(order), raw()
    wanted = io(given)
    with kit.capture_attention(io) as maps:
        found = io(given)
    for name, value in found.items():
        assert_close(value, wanted[name], 1e-12)
    assert maps["decoder.cross"][0].shape == (2, 1, 38, 16)
    assert maps["encoder.levels.0.cross"][0].shape == (8, 1, 4, 10)


def test_a_query_mask_works_in_groups() -> None:
    io, given = model(), raw()
    keep = torch.rand(2, 30) < 0.5
    found = io(given, at={"a": None}, query_mask={"a": keep})["a"]
    picked = io(given, at={"a": torch.arange(30)}, query_mask={"a": keep})["a"]
    assert_close(found, picked, 1e-12)
    assert (found - io(given, at={"a": None})["a"])[keep].abs().max() < 1e-12


@pytest.mark.parametrize("given", [["a"], ["b"], ["a", "b"]])
def test_several_data_sets_pass_through_one_model(given: list[str]) -> None:
    io = model().train()
    inputs = {name: value for name, value in raw().items() if name in given}
    found = io(inputs, at=dict.fromkeys(given))
    sum(value.sum() for value in found.values()).backward()
    assert sorted(found) == given
    # Distributed training needs a gradient for each parameter of the inputs that are left out.
    assert all(p.grad is not None for p in io.inputs.parameters() if p.requires_grad)


def test_left_out_modalities_free_their_groups() -> None:
    io = model()
    layouts = [io.encode({name: raw()[name] for name in names}).layout for names in (["a"], ["a", "b"])]
    assert [groups_of(layout, 4, "rows")["a"].count for layout in layouts] == [4, 3]


# ---- labels at the middle level


def test_labels_meet_the_others_at_the_middle_level_only() -> None:
    io = noisy(kit.build("hierarchical_autoencoding", preset="tiny", labels=["label"])).eval()
    assert isinstance(io, LabelBottleneck)
    inputs = {"image": torch.rand(2, 1, 28, 28), "label": torch.rand(2, 1, 10)}
    found, without = io(inputs), io({"image": inputs["image"]})
    assert [*found] == ["image", "label"] and [*without] == ["image"]
    assert (found["image"] - without["image"]).abs().max() > 1e-6
    assert_close(io(inputs, at={"label": None})["label"], found["label"], 1e-6)
    twin = kit.build(kit.spec(io)).eval()
    twin.load_state_dict(io.state_dict())
    assert torch.equal(twin(inputs)["label"], found["label"])
    assert "at the middle level" in kit.describe(io)
    with pytest.raises(kit.UnknownName, match="labl"):
        io(inputs | {"labl": inputs["label"]})


# ---- refused

SIZES = dict(groups=(4, 1, 4), num_latents=(4, 4, 4), widths=8, layers=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(groups=(4, 1)), "an odd number of levels"),
        (dict(groups=(4, 2, 4)), "the middle one with one group"),
        (dict(groups=(1,)), "from 3 to 63"),
        (dict(groups=(4, 1, 2)), r"got \(2, 4\) and \(4, 4\)"),
        (dict(groups=(4, 3, 1, 3, 4), num_latents=4), r"must be divisible by the 3 groups"),
        (dict(num_latents=(4, 4)), "must have 3 numbers"),
        (dict(widths=(8, 8, 9), self_heads=2), "must be divisible by heads 2"),
        (dict(regroup="transposed"), "did you mean 'transpose'"),
        (dict(order="block"), "did you mean 'blocks'"),
    ],
)
def test_wrong_sizes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        kit.HierarchicalEncoder(8, **(SIZES | options))


def test_more_modalities_than_groups_are_refused() -> None:
    modalities = {f"m{i}": (4, 1) for i in range(5)}
    with pytest.raises(kit.AssemblyError, match="expected 1 to 4 modalities besides labels, one a group"):
        kit.build("hierarchical_autoencoding", preset="tiny", modalities=modalities)
    inputs = kit.Inputs({name: Features(8) for name in modalities})
    tokens, _ = inputs({name: torch.randn(1, 4, 8) for name in modalities})
    with pytest.raises(kit.InputError, match="4 groups hold at most as many modalities, got 5: m0"):
        kit.HierarchicalEncoder(8, **SIZES)(tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(modalities=dict(image=(4,))), "modalities must be a mapping"),
        (dict(modalities=[dict(a=(4, 1)), dict(a=(4, 1))]), "different names"),
        (dict(modalities=[]), "modalities must be"),
        (dict(labels=["lable"]), "label"),
        (dict(labels=["image", "label"]), "got none"),
    ],
)
def test_wrong_modalities_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.PerceiverKitError, match=message):
        kit.build("hierarchical_autoencoding", preset="tiny", **options)


def test_latents_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(kit.InputError, match="number of latents 6 must be divisible by groups 4"):
        kit.Decoder(8, 16, groups=4)(torch.zeros(1, 3, 8), torch.zeros(1, 6, 16))
