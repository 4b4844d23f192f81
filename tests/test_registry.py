"""Registered names: custom blocks and recipes; taken, unknown and bad names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import decoders, inputs, objectives, outputs, positions, queries, registry

from .strategies import RECIPES


@pytest.fixture(autouse=True)
def _restore_the_registry() -> Iterator[None]:
    before = {kind: dict(entries) for kind, entries in registry._entries.items()}
    yield
    for kind, entries in registry._entries.items():
        entries.clear()
        entries.update(before[kind])


def own_block() -> type:
    """A custom block, as a user would write it."""

    @kit.register("inputs")
    class Spectrum(inputs.Input):
        """Spectrum of a signal (b, samples): one row (real, imaginary) per frequency."""

        def __init__(self, *, scale: float = 1.0) -> None:
            super().__init__(2)
            self.scale = scale

        def embed(self, raw: Tensor, name: str) -> Tensor:
            return torch.view_as_real(torch.fft.rfft(raw)) * self.scale

    return Spectrum


def own_recipe(block: type):
    @kit.recipe(presets=dict(tiny=dict(latent_dim=8)), sources=dict(latent_dim="an example"))
    def spectra(*, latent_dim: int = 16, labels: int = 3) -> kit.PerceiverIO:
        """Classes of signals."""
        every = inputs.Inputs(signal=block(scale=0.5))
        return kit.PerceiverIO(
            every,
            kit.Encoder(every.channels, num_latents=4, latent_dim=latent_dim, layers=1),
            queries.Queries(label=queries.LearnedQuery(1, 8)),
            decoders.Decoder(8, latent_dim),
            outputs.Outputs(label=outputs.Classify(labels, in_channels=8)),
        )

    return spectra


def test_custom_blocks_and_recipes_work_like_the_kits_own(tmp_path: Path) -> None:
    recipe = own_recipe(own_block())
    assert "Spectrum" in kit.list("inputs")
    assert kit.list() == sorted([*RECIPES, "spectra"])

    torch.manual_seed(0)
    model = kit.build("spectra", preset="tiny", labels=5).eval()
    assert model.encoder.latent_dim == 8
    signal = torch.randn(2, 20)
    assert model(signal)["label"].shape == (2, 5)
    assert recipe().encoder.latent_dim == 16
    assert kit.spec(recipe(labels=5)) == kit.spec(kit.build("spectra", labels=5))

    described = kit.describe("spectra", preset="tiny")
    assert described.splitlines()[:2] == ["spectra (tiny)", "Classes of signals."]
    assert "latent_dim = 8  an example" in described
    assert "Spectrum" in described
    assert kit.describe("inputs.Spectrum").startswith("Spectrum(*, scale: float = 1.0)\n")

    spec = kit.spec(model)
    assert spec["recipe"]["name"] == "spectra"
    assert kit.spec(kit.build(spec)) == spec
    loaded = kit.load(kit.save(model, tmp_path))
    assert torch.equal(loaded(signal)["label"], model(signal)["label"])


def test_a_block_can_be_registered_under_another_name() -> None:
    @kit.register("inputs", "Better")
    class Block(inputs.Features):
        pass

    assert registry.find("inputs", "Better") is Block
    assert registry.name_of(Block) == "inputs.Better"


def test_a_taken_name_is_refused() -> None:
    own_block()
    with pytest.raises(kit.AssemblyError, match=r"inputs 'Spectrum' is taken by tests\.test_registry\.own_block"):
        own_block()
    with pytest.raises(kit.AssemblyError, match=r"inputs 'Patches' is taken by perceiver_kit.inputs.image.Patches"):
        kit.register("inputs", "Patches")(inputs.Features)

    def masked_lm() -> None: ...

    with pytest.raises(kit.AssemblyError, match="recipes 'masked_lm' is taken by perceiver_kit"):
        kit.recipe()(masked_lm)
    assert registry.find("inputs", "Patches") is inputs.Patches


def cell(source: str, module: str) -> None:
    exec(source, {"kit": kit, "__name__": module})


@pytest.mark.parametrize(
    "source",
    [
        "@kit.register('inputs')\nclass Mine(kit.inputs.Features): pass",
        "@kit.recipe()\ndef mine(*, size: int = 1): pass",
    ],
)
def test_notebook_cells_can_run_again(source: str) -> None:
    cell(source, "__main__")
    cell(source, "__main__")
    with pytest.raises(kit.AssemblyError, match=r"is taken by __main__\.[Mm]ine"):
        cell(source, "another_module")


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [("a_library", "a_library", "Mine"), ("a_library", "__main__", "Mine"), ("__main__", "__main__", "Other")],
)
def test_taken_names_are_refused_in_modules_and_for_other_classes(first: str, second: str, name: str) -> None:
    source = "@kit.register('inputs', 'Mine')\nclass {}(kit.inputs.Features): pass"
    cell(source.format("Mine"), first)
    with pytest.raises(kit.AssemblyError, match=rf"is taken by {first}\.Mine"):
        cell(source.format(name), second)


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (lambda: kit.register("inputs")(nn.Linear), "Linear must be a class derived from kit.Block"),
        (lambda: kit.register("outputs")(lambda: 0), "must be a class derived from kit.Block"),
        (lambda: kit.register("recipes"), "register a recipe with @kit.recipe"),
        (lambda: kit.recipe()(lambda size=1: 0), "'size' must be keyword-only with a default"),
        (lambda: kit.recipe()(lambda *, size: 0), "'size' must be keyword-only with a default"),
        (lambda: kit.recipe()(lambda **sizes: 0), "'sizes' must be keyword-only with a default"),
        (lambda: kit.recipe(group=kit.Encoder)(lambda *, size=1: 0), r"group Encoder needs a \*\* parameter"),
        (lambda: kit.recipe(group=kit.Encoder)(lambda **e: 0), "Encoder needs 'num_latents': give it in preset base"),
        (
            lambda: kit.recipe(presets=dict(tiny=dict(sise=1)))(lambda *, size=0: 0),
            "tiny names 'sise'; did you mean 'size'",
        ),
        (
            lambda: kit.recipe(presets=dict(base=dict(sise=1)))(lambda *, size=0: 0),
            "base names 'sise'; did you mean 'size'",
        ),
        (
            lambda: kit.recipe(sources=dict(sise=""))(lambda *, size=0: 0),
            "sources names 'sise'; did you mean 'size'",
        ),
    ],
)
def test_bad_registrations_are_refused(register, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        register()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kit.build("optical_flo"), "no recipe 'optical_flo'; did you mean 'optical_flow'"),
        (lambda: kit.build("zoo:clip"), r"kit.load\('zoo:clip'\) opens it"),
        (lambda: kit.describe("zoo:clip"), r"kit.load\('zoo:clip'\) opens it"),
        (lambda: kit.build("zzz"), "no recipe 'zzz'; There are: audio_classification, "),
        (lambda: kit.build("masked_lm", preset="bass"), "masked_lm has no preset 'bass'; did you mean 'base'"),
        (lambda: kit.build("masked_lm", layer=3), "masked_lm has no parameter 'layer'; did you mean 'layers'"),
        (lambda: kit.describe("masked_ml"), "no recipe 'masked_ml'; did you mean 'masked_lm'"),
        (lambda: kit.describe("inputs.Patch"), "no input block 'Patch'; did you mean 'Patches'"),
        (lambda: kit.describe("input.Patches"), "no kind 'input'; did you mean 'inputs'"),
        (lambda: kit.list("recipe"), "no kind 'recipe'; did you mean 'recipes'"),
        (lambda: kit.register("input"), "no kind 'input'; did you mean 'inputs'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(call, message: str) -> None:
    with pytest.raises(kit.UnknownName, match=message):
        call()


@pytest.mark.parametrize("what", [3, None, nn.Linear(2, 2), ["masked_lm"]])
def test_build_takes_a_name_or_a_spec(what: object) -> None:
    got = "None" if what is None else f"an? {type(what).__name__}"
    with pytest.raises(kit.AssemblyError, match=rf"build takes a recipe's name or a spec \(a dict\), got {got}"):
        kit.build(what)


def test_specs_take_no_preset_and_no_overrides() -> None:
    spec = kit.spec(kit.build(RECIPES[0], preset="tiny"))
    for options in (dict(preset="tiny"), dict(layers=3)):
        with pytest.raises(kit.AssemblyError, match="takes no preset and no overrides: a spec is complete"):
            kit.build(spec, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: inputs.OneHot(), "OneHot: missing a required argument: 'classes'; it takes classes"),
        (lambda: inputs.OneHot(2, 3), "OneHot: too many positional arguments; it takes classes"),
        (lambda: inputs.OneHot(2, clases=3), "unexpected keyword argument 'clases'; did you mean 'classes'"),
        (lambda: inputs.OneHot(clases=3), "unexpected keyword argument 'clases'; did you mean 'classes'"),
        (lambda: queries.NoQuery(1), "NoQuery: too many positional arguments; it takes nothing"),
    ],
)
def test_blocks_refuse_unknown_arguments(make, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        make()


def test_blocks_record_copies_of_their_arguments() -> None:
    hide = {"label": 1.0}
    block = inputs.Inputs(label=inputs.OneHot(3), hide=hide)
    hide["label"] = 0.0
    assert block.recorded["hide"] == {"label": 1.0}
    assert inputs.Patches((2, 2)).arguments()["channels"] == 3  # defaults too: they may change in a later version


def test_children_must_be_attributes_with_the_name_of_their_argument() -> None:
    """Otherwise the spec would lack the child, and no parameter shows it if the child has none."""

    class Elsewhere(kit.Block):
        def __init__(self, positions: positions.Positions) -> None:
            super().__init__()
            self.places = positions

    with pytest.raises(kit.AssemblyError, match="Elsewhere: its argument 'positions' is a module, so keep it as self"):
        Elsewhere(positions.Fourier(bands=1, max_resolution=(4,))).arguments()


@pytest.mark.parametrize("recipe", RECIPES)
def test_presets_override_defaults_and_overrides_override_presets(recipe: str) -> None:
    entry = registry.find("recipes", recipe)
    base, tiny = entry.parameters("base", {}), entry.parameters("tiny", {})
    assert tiny == base | dict(entry.presets["tiny"]) != base
    asked = {name: not value if isinstance(value, bool) else "asked" for name, value in base.items()}
    assert entry.parameters("tiny", asked) == asked


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recorded_recipe_rebuilds_the_model(recipe: str) -> None:
    with torch.device("meta"):
        model = kit.build(recipe, preset="tiny", layers=1)
        assert model.recipe["name"] == recipe and model.recipe["preset"] == "tiny"
        again = kit.build(recipe, **model.recipe["parameters"])
    assert kit.spec(again)["model"] == kit.spec(model)["model"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("preset", ["base", "tiny"])
def test_every_recipe_is_described(recipe: str, preset: str) -> None:
    described = kit.describe(recipe, preset=preset)
    assert described.startswith(f"{recipe} ({preset})\n")
    with torch.device("meta"):
        model = kit.build(recipe, preset=preset)
    assert described.endswith(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    assert kit.describe(model) in described
    for name, value in model.recipe["parameters"].items():
        assert f"{name} = {value}" in described
    for name in (*model.inputs.blocks, *model.outputs.blocks):
        assert name in described


def test_models_without_outputs_and_single_blocks_are_described() -> None:
    encoder = kit.Encoder(3, num_latents=4, latent_dim=8, layers=2)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    line = "Encoder(4 latents × 8, 1 blocks × 2 layers)"
    assert kit.describe(encoder).splitlines() == [line, f"{parameters:,} parameters"]
    described = kit.describe(kit.PerceiverIO(inputs.Inputs(points=inputs.Features(3)), encoder)).splitlines()
    assert [line.split()[0] for line in described[:-1]] == ["input", "Inputs", "encoder"]
    assert described[-1] == f"{parameters:,} parameters"


@pytest.mark.parametrize(
    ("base", "call", "method"),
    [
        (inputs.Input, lambda mine: mine(3)(torch.zeros(1, 3)), r"embed\(raw, name\)"),
        (positions.Positions, lambda mine: mine()((4,)), r"forward\(grid, index\)"),
        (queries.Query, lambda mine: mine()((4,), None, None), r"forward\(grid, index, encoded\)"),
        (outputs.Output, lambda mine: mine()(torch.zeros(1, 2, 3)), r"forward\(rows\)"),
        (objectives.Objective, lambda mine: mine().loss_sum(None, None, None), r"loss_sum\(output, target, targets\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_missing_methods_are_named(base: type, call, method: str) -> None:
    class Mine(base):
        pass

    with pytest.raises(kit.AssemblyError, match=f"^Mine must define {method}"):
        call(Mine)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_numbers_of_a_recipe_have_sources(recipe: str) -> None:
    entry = registry.find("recipes", recipe)
    parameters = entry.parameters("base", {})
    assert {name for name in parameters if not entry.sources.get(name)} == set()
    assert "tiny" in entry.presets


KINDS = [kind for kind in registry.KINDS if kind not in ("recipes", "objectives")]


@pytest.mark.parametrize("name", [f"{kind}.{name}" for kind in KINDS for name in kit.list(kind)])
def test_every_block_is_described_and_known_by_its_class(name: str) -> None:
    kind, _, label = name.partition(".")
    block = registry.find(kind, label)
    assert registry.name_of(block) == name
    assert kit.describe(name).startswith(f"{label}(")
    assert block.__doc__
    assert block.__doc__ in kit.describe(name) or block.__doc__.split("\n")[0] in kit.describe(name)
