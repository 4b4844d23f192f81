"""A wrapper in place of any linear layer, convolution or embedding acts as the merged weight does.

The wrapper has the attributes of the layer that it wraps, as those of adapter libraries have, so that code which reads
``weight`` instead of calling the layer gives a wrong result, not an error.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import attention_backends, registry
from perceiver_kit.positions import Learned
from perceiver_kit.registry import find

from ..assemblies import Assembly, assemblies
from ..blocks import CONTAINERS, accepts, arguments, drawable, made
from ..models.holding import mixes_rows, output_grids
from ..models.properties import WHOLE
from ..strategies import RECIPES, composite, distance, noisy, raw, raws, tiny
from .attaching import LAYERS, Wrapper, wrap

Raw = dict[str, Tensor]
KINDS = ["inputs", "positions", "queries", "encoders", "decoders", "outputs"]
# Blocks that stay registered beside the tested one, so that a model can be drawn.
OTHERS = {"positions": ["Learned"], "queries": ["InputQuery"], "outputs": ["Rows"]}


def layers_of(module: nn.Module) -> list[str]:
    """One layer of each place: of the layers of a ``ModuleList``, which are alike, those of the last."""
    lists = tuple(f"{name}." for name, part in module.named_modules() if isinstance(part, nn.ModuleList))

    def place(name: str) -> str:
        for prefix in lists:
            if name.startswith(prefix):
                return prefix + name.removeprefix(prefix).partition(".")[2]
        return name

    return [*{place(name): name for name, layer in module.named_modules() if isinstance(layer, LAYERS)}.values()]


@torch.no_grad()
def merge(model: nn.Module, wrapper: Wrapper) -> None:
    """Put the layer back, with its weight changed."""
    for alias in [alias for alias, other in model.named_modules(remove_duplicate=False) if other is wrapper]:
        model.set_submodule(alias, wrapper.base)
    wrapper.base.weight += wrapper.delta


def outputs_and_gradients(model: nn.Module, tensors: Raw) -> tuple[Raw, Raw]:
    torch.manual_seed(0)  # dropout and hidden inputs
    output = model(tensors)
    model.zero_grad()
    sum((value * torch.linspace(-1, 1, value.numel()).view_as(value)).sum() for value in output.values()).backward()
    return output, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: Raw, wanted: Raw) -> None:
    assert found.keys() == wanted.keys()
    scale = max((float(value.detach().abs().max()) for value in wanted.values()), default=0.0)
    for name in wanted:
        assert ((found[name] - wanted[name]).abs() <= 1e-9 * max(scale, 1e-3)).all(), name


def acts_as_merged(model: nn.Module, tensors: Raw, name: str, at: Raw) -> bool:
    """Outputs and gradients, in training and in evaluation; some rows, chunks. True if the wrapper changes any."""

    def compute() -> list[tuple[Raw, Raw]]:
        with torch.no_grad():
            chunk = None if getattr(model.decoder, "mixes_rows", False) else 2
            without = [(model(tensors, chunk=chunk), {}), (model(tensors, at=at), {})]
        results = [*without, outputs_and_gradients(model, tensors)]
        statistics = {key: value.clone() for key, value in model.named_buffers()}
        results.append(outputs_and_gradients(model.train(), tensors))
        model.eval().load_state_dict(statistics, strict=False)
        return results

    before = model(tensors)
    wrapper = wrap(model, name)
    found = compute()
    merge(model, wrapper)
    for (output, gradients), (wanted, wanted_gradients) in zip(found, compute(), strict=True):
        assert_same(output, wanted)
        # The gradient of ``delta`` is that of the weight to which it is added.
        deltas = {key.replace(".delta", ".weight"): g for key, g in gradients.items() if key.endswith(".delta")}
        gradients = {key.replace(".base.", "."): g for key, g in gradients.items() if not key.endswith(".delta")}
        assert_same(gradients | deltas, wanted_gradients)
        assert_same(gradients, wanted_gradients)
    return any(distance(output, before[key]) > 1e-6 for key, output in model(tensors).items())


def some_rows(case: Assembly) -> Raw:
    """The first row, the last and the first again, of each output whose rows are independent."""
    sizes = output_grids(case.model, case.model.encode(case.raw))
    rows = {name: torch.Size(grid).numel() for name, grid in sizes.items() if not mixes_rows(case.model, name)}
    return {name: torch.tensor([0, count - 1, 0]) for name, count in rows.items()}


@contextlib.contextmanager
def drawing(kind: str, name: str) -> Iterator[None]:
    """Draws only this block of its kind, as far as a model can consist of it."""
    kept = {kind: [name, *OTHERS.get(kind, [])]}
    if kind == "outputs":
        kept["inputs"] = ["TextTokens"]  # which logits may be tied to
    with pytest.MonkeyPatch.context() as patch:
        for changed, names in kept.items():
            entries = {n: entry for n, entry in registry._entries[changed].items() if n in {*names, *CONTAINERS}}
            patch.setitem(registry._entries, changed, entries)
        yield


BLOCKS = [(kind, name) for kind in KINDS for name in drawable(kind)]


@pytest.mark.parametrize(("kind", "name"), BLOCKS, ids=[".".join(block) for block in BLOCKS])
def test_each_layer_of_each_block_may_be_wrapped(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_backends, "RECOMPUTE_MIN_BYTES", 0)

    @settings(WHOLE, max_examples=1)
    @given(case=assemblies())
    def each_layer(case: Assembly) -> None:
        owners = [n for n, block in case.model.named_modules() if type(block) is find(kind, name)]
        assume(owners)
        layers = [f"{owners[0]}.{layer}" for layer in layers_of(case.model.get_submodule(owners[0]))]
        moved = [acts_as_merged(case.model, case.raw, layer, some_rows(case)) for layer in layers]
        assume(any(moved) or not layers)  # else the block is hidden, or a norm of one channel follows

    with drawing(kind, name):
        each_layer()


@composite
def every_input_and_output(draw: st.DrawFn) -> tuple[nn.Module, Raw]:
    """One model with every registered input and output."""
    given = {"positions": None, "grid": None, "combine": "concat"}
    reads = {name: made("inputs", name, draw(arguments("inputs", name, given))) for name in drawable("inputs")}
    width = reads["TextTokens"].content_channels
    given = {"in_channels": width, "text": reads["TextTokens"]}
    writes = {name: made("outputs", name, draw(arguments("outputs", name, given))) for name in drawable("outputs")}
    grids = {name: next(grid for grid in ((2, 3), (1,)) if accepts(block, grid)) for name, block in writes.items()}
    queries = kit.Queries(
        {name: kit.queries.PositionQuery(Learned(grid, 4), size=grid) for name, grid in grids.items()}
    )
    inputs = kit.Inputs(reads)
    encoder = kit.Encoder(inputs.channels, num_latents=3, latent_dim=4, layers=1, self_heads=2)
    decoder = kit.Decoder(queries.channels, encoder.latent_dim, out_channels=width)
    model = noisy(kit.PerceiverIO(inputs, encoder, queries, decoder, kit.Outputs(writes))).eval()
    return model, {name: raw(block, 2) for name, block in reads.items()}


def exported_as_merged(model: nn.Module, tensors: Raw) -> None:
    """With all layers wrapped, the exported graph gives what the merged weights do."""
    model = model.double()
    tensors = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    wrappers = [wrap(model, name) for name, layer in model.named_modules() if isinstance(layer, LAYERS)]
    found = torch.export.export(model, (tensors,), strict=False).module()(tensors)
    for wrapper in wrappers:
        merge(model, wrapper)
    assert_same(found, model(tensors))


@settings(WHOLE, max_examples=1)
@given(drawn=every_input_and_output())
def test_all_layers_may_be_wrapped_at_once_and_exported(drawn: tuple[nn.Module, Raw]) -> None:
    exported_as_merged(*drawn)


OTHER_STAGES = ["causal_lm", "hierarchical_autoencoding", "object_detection", "perceiver_image_classification"]


@pytest.mark.parametrize("recipe", OTHER_STAGES)
def test_all_layers_of_other_encoders_and_decoders_may_be_wrapped_and_exported(recipe: str) -> None:
    model = copy.deepcopy(tiny(recipe)).requires_grad_()
    exported_as_merged(model, raws(model, 2))


def test_the_stages_of_every_recipe_are_wrapped_and_exported() -> None:
    exported = {kit.Encoder, kit.Decoder}
    exported |= {type(stage) for name in OTHER_STAGES for stage in (tiny(name).encoder, tiny(name).decoder)}
    for recipe in RECIPES:
        assert {type(tiny(recipe).encoder), type(tiny(recipe).decoder)} <= exported, recipe
