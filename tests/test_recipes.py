"""Every recipe: documented shapes, a gradient for every parameter, and the published sizes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import textwrap
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit.positions import Fourier
from perceiver_kit.registry import find
from perceiver_kit.specs import assembly

from . import restated
from .strategies import RECIPES, assert_close, distance, noisy, raws, tiny

recipes = pytest.mark.parametrize("recipe", RECIPES)

# ---- documented shapes, at sizes of the user's own: parameters, inputs, outputs

IMAGE = (dict(num_labels=3), {"image": (2, 3, 20, 28)}, {"label": (2, 3)})
SHAPES = {
    "audio_classification": (dict(num_labels=3), {"audio": (2, 1280)}, {"label": (2, 3)}),
    "forecasting": (dict(series=2, quantiles=5, horizon=4), {"history": (2, 9, 3)}, {"future": (2, 4, 2, 5)}),
    "hierarchical_autoencoding": (
        dict(modalities=dict(image=(9, 7, 2), sound=(11, 4))),
        {"image": (2, 2, 9, 7), "sound": (2, 11, 4)},
        {"image": (2, 2, 9, 7), "sound": (2, 11, 4)},
    ),
    "image_classification_conv": IMAGE,
    "image_classification_fourier": IMAGE,
    "image_classification_learned": (IMAGE[0] | dict(image_size=(20, 28)), *IMAGE[1:]),
    "masked_lm": ({}, {"text": (2, 9)}, {"text": (2, 9, 262)}),
    "point_cloud_classification": (dict(num_labels=5, features=1), {"points": (2, 9, 4)}, {"label": (2, 5)}),
    "set_classification": (
        dict(num_labels=5, features=3, entity_labels=4),
        {"entities": (2, 9, 3)},
        {"label": (2, 5), "entities": (2, 9, 4)},
    ),
    "sequence_classification": (dict(num_labels=5), {"text": (2, 9)}, {"label": (2, 5)}),
    "optical_flow": (dict(image_size=(16, 24)), {"frames": (2, 2, 3, 16, 24)}, {"flow": (2, 2, 16, 24)}),
    "video_classification": (
        dict(num_frames=2, image_size=(8, 12), num_labels=3, audio_samples=320),
        {"video": (2, 2, 3, 8, 12), "audio": (2, 320)},
        {"label": (2, 3)},
    ),
    "multimodal_autoencoding": (
        dict(num_frames=2, image_size=(8, 12), num_labels=3, audio_samples=64),
        {"image": (2, 2, 3, 8, 12), "audio": (2, 64), "label": (2, 3)},
        {"image": (2, 2, 3, 8, 12), "audio": (2, 64), "label": (2, 3)},
    ),
}


def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.randint(262, shape) if name == "text" else torch.randn(shape).clamp(-1, 1)


@pytest.mark.parametrize("recipe", SHAPES)
def test_shapes_are_as_documented(recipe: str) -> None:
    parameters, given, wanted = SHAPES[recipe]
    model = kit.build(recipe, preset="tiny", **parameters)
    assert model.training
    with torch.no_grad():
        found = model({name: tensor(name, shape) for name, shape in given.items()})
    assert {name: tuple(value.shape) for name, value in found.items()} == wanted


def others(value: object, choices: tuple[str, ...] = ()) -> list:
    """Other values of a parameter, close enough to its own that a model may build."""
    match value:
        case str():
            return [choice for choice in choices if choice != value]
        case bool():
            return [not value]
        case int():
            return [number for number in (2 * value, value + 1, value // 2) if number != value]
        case float():
            return [value / 2 + 0.3]
        case ():
            return [(3,), (0,)]
        case (first, *rest):
            return [(other, *rest) for other in others(first)]
    return [
        *choices,
        kit.variants.RMSNorm(),
        64,
        32,
        ("a", "b"),
        ("label",),
        (2, 3),
    ]  # words, variants, widths, names, sizes


def words(hint: object) -> tuple[str, ...]:
    """The words of a Literal, also of an optional one."""
    return tuple(word for part in (hint, *get_args(hint)) for word in get_args(part) if isinstance(word, str))


# Initial weights only; a mapping of any form; numbers that must fit others; metadata for answers.
NOT_COMPARED = {"anchored", "modalities", "groups", "tasks", "unit", "unanswerable", "longest"}
# Numbers that others must fit: those of each level of a hierarchy.
LEVELS = {"num_latents", "widths", "labels", "layers", "self_heads"}


@recipes
def test_each_parameter_makes_another_model(recipe: str) -> None:
    hints = {name: p.annotation for name, p in find("recipes", recipe).signature.parameters.items()}
    even = dict(qk_channels=64, v_channels=64, blocks=2)  # several heads, several cross-attends
    even = {name: value for name, value in even.items() if name in tiny(recipe).recipe["parameters"]}
    even |= {"optical_flow": dict(matches=2), "causal_lm": dict(ngrams=(2,))}.get(recipe, {})  # others need them
    skipped = NOT_COMPARED | (LEVELS if "groups" in tiny(recipe).recipe["parameters"] else set())

    def made(**parameters: object) -> dict:
        return assembly(kit.build(recipe, preset="tiny", **(even | parameters)))["model"]

    with torch.device("meta"):
        wanted = made()
        for name, value in kit.build(recipe, preset="tiny", **even).recipe["parameters"].items():
            if name in skipped:
                continue
            for other in others(value, words(hints[name])):
                with contextlib.suppress(kit.PerceiverKitError):
                    assert made(**{name: other}) != wanted, f"{name} has no effect"
                    break
            else:
                pytest.fail(f"no other {name} builds")


@recipes
def test_base_is_the_default_and_its_numbers_are_the_functions_own(recipe: str) -> None:
    with torch.device("meta"):
        model, base = kit.build(recipe), kit.build(recipe, preset="base")
    assert kit.spec(model) == kit.spec(base)
    assert model.recipe["preset"] == "base"
    assert all(parameter.is_meta for parameter in model.parameters())


# ---- gradients


def tokens_without_a_choice(model: nn.Module, given: dict[str, Tensor]) -> set[str]:
    """Parameters that hiding leaves without any part in this call, whose gradient is zero and must be there.

    A modality that is given and never hidden does not use its mask token; one that is left out has no padding.
    """
    without = set()
    for name in model.inputs.hide:
        if name in given and not model.inputs.hide[name][0]:
            without.add(f"inputs.mask_tokens.{name}.vector")
        if name not in given:
            without.add(f"inputs.padding.{name}.vector")
            without |= {f"inputs.blocks.{name}.{p}" for p, _ in model.inputs.blocks[name].named_parameters()}
    return without


def _unturned(model: nn.Module, key_bias: str) -> bool:
    """Whether keys are read as they are: rotary positions turn the bias differently in each row."""
    return model.get_submodule(key_bias.removesuffix(".key.bias")).positions is None


def holds_gradients(model: nn.Module, given: dict[str, Tensor], at: dict | None = None) -> None:
    model.zero_grad()
    found = model(given, at=at)
    sum((value * torch.randn_like(value)).sum() for value in found.values()).backward()
    without = tokens_without_a_choice(model, given)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient: distributed training would stop"
        assert parameter.grad.isfinite().all(), name
        if name in without:
            assert not parameter.grad.any(), name
        elif name.endswith("attention.key.bias") and _unturned(model, name):
            # One number on all scores of a query: the softmax cancels it, to rounding.
            other = model.get_parameter(name.replace(".bias", ".weight")).grad
            assert parameter.grad.abs().max() <= 1e-3 * other.abs().max(), name
        else:
            assert parameter.grad.any(), f"the gradient of {name} is zero"


@recipes
def test_every_parameter_has_a_gradient(recipe: str) -> None:
    model = tiny(recipe, train=True)
    given = raws(model, 12 if model.inputs.hide else 3)  # of twelve, hiding half leaves some and takes some
    holds_gradients(model, given)
    for name in model.inputs.hide:  # each that may be left out
        holds_gradients(model, {key: value for key, value in given.items() if key != name})


@pytest.mark.parametrize("heads", [1, 2])
def test_every_parameter_has_a_gradient_on_each_attention_path(heads: int) -> None:
    model = noisy(kit.build("multimodal_autoencoding", preset="tiny", cross_heads=heads, qk_channels=64))
    at = {name: torch.arange(1) for name in model.outputs.blocks}  # few queries: the other side is projected
    holds_gradients(model, raws(model, 12), at)


@recipes
def test_training_steps_lower_a_loss(recipe: str) -> None:
    model = kit.build(recipe, preset="tiny")
    given = raws(model, 2)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    targets = {name: torch.randn_like(value) for name, value in model(given).items()}
    losses = []
    for _ in range(6):
        found = model(given)
        loss = sum(((found[name] - target) ** 2).mean() for name, target in targets.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


# ---- multimodal autoencoding


def test_the_label_is_hidden_in_evaluation_and_its_content_never_matters() -> None:
    model = tiny("multimodal_autoencoding")
    given = raws(model, 2)
    wanted = model(given)
    nothing = {name: value for name, value in given.items() if name != "label"}
    for other in (given | {"label": torch.full((2, 4), float("nan"))}, given | {"label": torch.zeros(2, 4)}, nothing):
        for name, value in model(other).items():
            assert torch.equal(value, wanted[name])


def test_the_label_is_half_of_the_time_seen_in_training() -> None:
    model = tiny("multimodal_autoencoding", train=True)
    given = {name: value[:1].expand(200, *value.shape[1:]) for name, value in raws(model, 1).items()}
    rows = model.inputs(given)[0]["label"][:, 0]
    hidden = (rows == model.inputs.mask_tokens["label"].vector).all(-1)
    assert 0.35 < hidden.double().mean() < 0.65


@pytest.mark.parametrize("missing", ["audio", "image", "label", ("audio", "label"), ("image", "label")])
def test_a_modality_that_is_left_out_is_still_decoded(missing: str | tuple[str, ...]) -> None:
    model = tiny("multimodal_autoencoding")
    given = raws(model, 2)
    rest = {name: value for name, value in given.items() if name not in missing}
    found, whole = model(rest), model(given)
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in whole.items()}
    assert all(value.isfinite().all() for value in found.values())
    latents = model.encode(rest).latents
    assert (distance(latents, model.encode(given).latents) > 1e-4) == (missing != "label")
    tokens, _ = model.inputs(rest)
    assert tokens.layout == model.inputs(given)[0].layout


def test_positions_of_wide_clips_follow_their_grid() -> None:
    sizes = dict(num_frames=2, image_size=(8, 12), audio_samples=64)
    model = kit.build("multimodal_autoencoding", preset="tiny", **sizes)
    audio, image = torch.zeros(1, 64), torch.zeros(1, 2, 3, 8, 12)
    for given in ({"audio": audio, "image": image}, {"audio": audio}):
        assert model.inputs(given)[0].layout.grid("image") == (2, 2, 3), "also where a mask token stands for each"
    for block, ends in ((model.inputs, "both"), (model.queries, "half_open")):
        fourier = Fourier(bands=16, max_resolution=(2, 2, 3), ends=ends)
        assert torch.equal(block.blocks["image"].positions((2, 4, 5)), fourier((2, 4, 5)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(image_size=30), r"image_size \(30, 30\) must be divisible by patch_size 4"),
        (dict(image_size=(32, 30)), r"image_size \(32, 30\) must be divisible by patch_size 4"),
        (dict(image_size=(32, 32, 3)), r"image_size is an int or \(height, width\), got \(32, 32, 3\)"),
        (dict(image_size=0), "image_size must be an int of at least 1, got 0"),
        (dict(image_size="32"), "image_size.*'32'"),
        (dict(image_size=32.0), r"image_size.*32\.0"),
        (dict(image_size=None), "image_size.*None"),
        (dict(num_frames=0), "num_frames must be an int of at least 1, got 0"),
        (dict(num_frames="4"), "num_frames must be an int of at least 1, got '4'"),
        (dict(num_frames=2.5), "num_frames must be an int of at least 1, got 2.5"),
        (dict(audio_samples=100), "audio_samples 100 must be divisible by samples_per_patch 16"),
        (dict(audio_samples=-16), "audio_samples must be an int of at least 1, got -16"),
        (dict(num_labels=0), "classes must be an int of at least 1, got 0"),
        (dict(self_heads=7), "qk_channels 64 must be divisible by heads 7"),
        (dict(hide_label=(0.5, 0.5)), "label in evaluation is all or nothing, 0.0 or 1.0, got 0.5"),
        (dict(hide_label=2.0), r"label must be a number in \[0, 1\], got 2.0"),
        (dict(dropout="no"), r"dropout must be a number in \[0, 1\], got 'no'"),
        (dict(latent_dim=None), "latent_dim must be an int of at least 1, got None"),
    ],
)
def test_wrong_numbers_are_refused(options: dict, message: str) -> None:
    with pytest.raises(kit.AssemblyError, match=message):
        kit.build("multimodal_autoencoding", preset="tiny", **options)


JUNK = [None, True, -1, 0, 1.5, "x", "", (), (1,), [], {}, {"a": 1}, object()]
# Each parameter gets every third of these, another third than its neighbour; `make fuzz` gives all.
SHARE = 1 if "FUZZ" in os.environ else 3


@recipes
def test_parameters_of_the_wrong_type_build_or_are_refused(recipe: str) -> None:
    with torch.device("meta"):
        for number, name in enumerate(kit.build(recipe, preset="tiny").recipe["parameters"]):
            for junk in JUNK[number % SHARE :: SHARE]:
                try:
                    kit.build(recipe, preset="tiny", **{name: junk})
                except kit.PerceiverKitError:
                    continue
                except Exception as error:
                    pytest.fail(f"{name}={junk!r}: {type(error).__name__}: {error}")


@pytest.fixture(scope="module")
def published() -> nn.Module:
    with torch.device("meta"):
        return kit.build("multimodal_autoencoding").eval()


def test_the_published_autoencoder_has_the_published_sizes(published: nn.Module) -> None:
    """Presets and papers: 52,097 rows of 704 into 784 × 512, and 804,737 queries of 1,026."""
    assert sum(parameter.numel() for parameter in published.parameters()) == 19_858_855
    with torch.device("meta"), torch.no_grad():
        given = {"image": torch.empty(1, 16, 3, 224, 224), "audio": torch.empty(1, 30_720)}
        given["label"] = torch.empty(1, 700)
        tokens, _ = published.inputs(given)
        assert tokens.rows.shape == (1, 52_097, 704)
        assert tokens.layout.segments == (("audio", (1920,)), ("image", (16, 56, 56)), ("label", (1,)))
        encoded = published.encode(given)
        assert encoded.latents.shape == (1, 784, 512)
        rows = {name: math.prod(published.queries.grid(name, encoded)) for name in given}
        assert rows == {"image": 802_816, "audio": 1_920, "label": 1}
        assert published.queries.channels == 1026
        shapes = {name: value.shape for name, value in published(given, chunk=200_000).items()}
    assert shapes == {name: value.shape for name, value in given.items()}


def test_the_published_autoencoder_has_the_published_positions() -> None:
    """Over both ends for what is read, half-open for what is asked, whether all or some is."""
    model = kit.build("multimodal_autoencoding", num_latents=1, latent_dim=8, layers=0, out_channels=8)
    patches, queries = model.inputs.blocks, model.queries.blocks
    for block, grid, bands, resolution in (
        (patches["image"].positions, (16, 56, 56), 32, (16, 56, 56)),
        (patches["audio"].positions, (1920,), 192, (30_720,)),
    ):
        some = torch.tensor([0, 1, 55, 56, 1919])
        wanted = torch.from_numpy(restated.fourier(grid, bands, resolution, "both", True, False, some.tolist()))
        assert_close(block(grid)[some].double(), wanted, 1e-2)  # phases up to 48,000 in float32
    for name, grid, bands, resolution in (
        ("image", (16, 224, 224), 32, (16, 56, 56)),
        ("audio", (1920,), 192, (30_720,)),
    ):
        index = torch.tensor([0, 1, 223, 224, 1919])
        found = queries[name](grid, index, kit.Encoded(torch.zeros(1, 1, 8), kit.Layout(())))
        wanted = torch.from_numpy(restated.fourier(grid, bands, resolution, "half_open", True, False, index.tolist()))
        assert_close(found[0].double(), wanted, 1e-2)


CLIP = """
    import json, re, time
    from pathlib import Path
    import torch
    import perceiver_kit as kit

    model = kit.build("multimodal_autoencoding").eval()
    clip = {"image": torch.rand(1, 16, 3, 224, 224), "audio": torch.rand(1, 30720)}
    start = time.perf_counter()
    with torch.no_grad():
        out = model(clip, at={"image": torch.arange(0, 802816, 32), "audio": None, "label": None}, chunk=8192)
    print(json.dumps({
        "seconds": time.perf_counter() - start,
        # Not getrusage: what it says begins with the most that the process that started this one ever had.
        "GiB": int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20,
        "finite": all(bool(value.isfinite().all()) for value in out.values()),
        "shapes": {name: list(value.shape) for name, value in out.items()},
    }))
"""


def test_a_published_clip_is_encoded_and_decoded_in_three_gibibytes() -> None:
    """With every 32nd pixel: chunks of all 804,737 rows, which `make bench` decodes, need no more memory."""
    # Waiting threads do not spin, which would slow the others down on a busy machine.
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-c", textwrap.dedent(CLIP)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout)
    assert found["finite"]
    assert found["shapes"] == {"audio": [1, 30_720], "image": [1, 25_088, 3], "label": [1, 700]}
    assert found["GiB"] < 3, found
