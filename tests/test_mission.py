"""Every class of Hugging Face's Perceiver and the kit's counterpart at work, one short test each.

Numbers are the rows of the project's table of goals; row 28, the task guides, are the tutorials. Row 29 is in
test_parallel.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import perceiver_kit as kit
from perceiver_kit import inputs, outputs, positions, queries

from .hub.reference import relative
from .strategies import raws, tiny


def learns(model: nn.Module, loss: Callable[[dict[str, Tensor]], Tensor], *args: object, **options: object) -> None:
    """A few steps lower the loss, and every parameter gets a finite gradient."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(6):
        optimiser.zero_grad()
        losses.append(loss(model(*args, **options)))
        losses[-1].backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        optimiser.step()
    assert losses[-1] < 0.95 * losses[0], [loss.item() for loss in losses]


def test_01_perceiver_model() -> None:
    model, raw = tiny("image_classification_fourier"), torch.randn(2, 3, 9, 11)
    encoded = model.encode(raw)
    assert encoded.latents.shape == (2, 32, 128)
    assert torch.equal(model.decode(encoded)["label"], model(raw)["label"])
    alone = kit.Encoder(5, num_latents=4, latent_dim=16, layers=2)
    rows, keep = torch.randn(2, 30, 5), torch.rand(2, 30) < 0.5
    assert alone(rows, keep).shape == (2, 4, 16)
    without_decoder = kit.PerceiverIO(kit.Inputs(rows=inputs.Features(5)), alone)
    assert torch.equal(without_decoder.encode(rows, mask=keep).latents, alone(rows, keep))


def test_02_perceiver_config() -> None:
    model = kit.build("masked_lm", preset="tiny", num_latents=7, self_widening=2, activation="gelu_tanh")
    assert model.encoder.num_latents == 7
    by_hand = kit.PerceiverIO(
        kit.Inputs(rows=inputs.Features(5)), kit.Encoder(5, num_latents=3, latent_dim=8, layers=1)
    )
    for original in (model, by_hand):
        rebuilt = kit.build(json.loads(json.dumps(kit.spec(original))))
        shapes = [[(name, p.shape) for name, p in m.named_parameters()] for m in (original, rebuilt)]
        assert shapes[0] == shapes[1]


def test_03_perceiver_tokenizer() -> None:
    ours, theirs = kit.ByteTokenizer(), transformers.PerceiverTokenizer()
    assert ours.vocab_size == len(theirs) == 262
    assert [ours.pad_id, ours.bos_id, ours.eos_id, ours.mask_id, ours.cls_id, ours.sep_id] == [0, 1, 2, 3, 4, 5]
    texts = ["Perceiver IO", "naïve café – 日本語", "[MASK] it"]
    batch = ours(texts)
    for text, ids in zip(texts, batch.ids, strict=True):
        assert ours.decode(ids, skip_special=True) == text.replace("[MASK]", "")
    wanted = theirs(texts, padding=True, return_tensors="np")
    assert np.array_equal(batch.ids, wanted["input_ids"])
    assert np.array_equal(batch.keep, wanted["attention_mask"].astype(bool))
    assert ours.encode("a question", "an answer") == theirs("a question", "an answer")["input_ids"]


def test_04_perceiver_feature_extractor_and_perceiver_image_processor() -> None:
    from PIL import Image
    from transformers.models.perceiver.image_processing_pil_perceiver import PerceiverImageProcessorPil

    picture = (np.random.default_rng(0).random((70, 51, 3)) * 255).astype(np.uint8)
    wanted = PerceiverImageProcessorPil()(picture, return_tensors="pt")["pixel_values"]
    for images in (picture, [Image.fromarray(picture)], torch.from_numpy(picture).permute(2, 0, 1)[None]):
        assert relative(kit.ImageProcessor()(images), wanted) < 1e-5


def test_05_perceiver_text_preprocessor() -> None:
    block = inputs.TextTokens(262, 8, positions=positions.Learned((20,), 8))
    tokens = block(torch.randint(262, (2, 7)), "text")
    assert tokens.rows.shape == (2, 7, 8) and tokens.layout.grid("text") == (7,)


def test_06_perceiver_image_preprocessor() -> None:
    image, video, plane, space = torch.randn(2, 3, 12, 8), torch.randn(2, 4, 3, 12, 8), (64, 64), (8, 64, 64)
    for raw, axes, resolution in ((image, 2, plane), (video, 3, space)):
        one, two = (1,) * axes, (2,) * axes
        fourier = positions.Fourier(bands=3, max_resolution=resolution)
        for block, grid in (
            (inputs.Pixels(two, positions=fourier), (2, 6, 4)),
            (inputs.Conv1x1(7, stride=two, positions=positions.Projected(fourier, 7), combine="add"), (2, 6, 4)),
            (inputs.ConvStem(7, axes=axes, positions=fourier), (4, 3, 2)),
            (inputs.Patches(two, positions=positions.Learned((2, 6, 4)[-axes:], 5)), (2, 6, 4)),
            (inputs.Patches(one, out_channels=7, positions=fourier), (4, 12, 8)),
        ):
            tokens = block(raw, "raw")
            assert tokens.layout.grid("raw") == grid[-axes:] and tokens.rows.shape[2] == block.channels


def test_07_perceiver_one_hot_preprocessor() -> None:
    label = F.one_hot(torch.tensor([3, 0]), 5).float()
    assert torch.equal(inputs.OneHot(5)(label).rows, label[:, None])


def test_08_perceiver_audio_preprocessor() -> None:
    block = inputs.AudioPatches(16, positions=positions.Fourier(bands=4, max_resolution=(480,)))
    sound = torch.randn(2, 480)
    assert torch.equal(block(sound).rows[..., :16], sound.view(2, 30, 16))


def test_09_perceiver_multimodal_preprocessor() -> None:
    blocks = {name: inputs.Features(width) for name, width in (("a", 3), ("b", 5), ("c", 4), ("d", 2))}
    inputs_block = kit.Inputs(blocks, hide={"a": (0.5, 1.0), "d": 0.0}, min_padding=2)
    raw = {name: torch.randn(2, 6, block.channels) for name, block in blocks.items()}
    tokens, _ = inputs_block(raw, {"b": torch.rand(2, 6) < 0.5})
    assert tokens.rows.shape == (2, 24, 7) and [*tokens.layout] == ["a", "b", "c", "d"]
    token = inputs_block.eval().mask_tokens["a"].vector
    assert torch.equal(inputs_block(raw)[0]["a"], token.expand(2, 6, -1)), "evaluation hides all"


def test_10_perceiver_projection_decoder() -> None:
    model = _points(None, kit.MeanPool(16, out_channels=7), outputs.Classify(3, in_channels=7))
    assert model(torch.randn(2, 9, 4))["out"].shape == (2, 3)


def test_11_perceiver_basic_decoder() -> None:
    grid, fourier = (9,), positions.Fourier(bands=2, max_resolution=(9,))
    for query in (
        queries.LearnedQuery(9, 6),
        queries.PositionQuery(fourier, size=grid),
        queries.InputQuery("points", channels=4),
        queries.ContentQuery("points", content_channels=4, positions=fourier),
        queries.ContentQuery("points", content_channels=4),
    ):
        for width, residual in ((None, True), (5, False)):
            decoder = kit.Decoder(query.channels, 16, out_channels=width, query_residual=residual)
            model = _points(query, decoder, outputs.Rows(decoder.out_channels))
            assert model(torch.randn(2, 9, 4))["out"].shape == (2, 9, decoder.out_channels)


def test_12_perceiver_classification_decoder() -> None:
    model = _points(
        queries.LearnedQuery(1, 6), kit.Decoder(6, 16, query_residual=True), outputs.Classify(3, in_channels=6)
    )
    assert model(torch.randn(2, 9, 4))["out"].shape == (2, 3)


def test_13_perceiver_optical_flow_decoder() -> None:
    model = tiny("optical_flow")
    rows = model.encode(raws(model, 2)).rows
    assert [*rows] == ["frames"] and rows["frames"].shape == (2, 32 * 48, model.inputs.channels)
    flow = outputs.Flow(6)
    assert flow.whole(flow(torch.randn(2, 12, 6)), (3, 4)).shape == (2, 2, 3, 4)


def test_14_perceiver_basic_video_autoencoding_decoder() -> None:
    query = queries.PositionQuery(positions.Fourier(bands=2, max_resolution=(4, 8, 8)), size=(2, 3, 4))
    model = _points(query, kit.Decoder(query.channels, 16, out_channels=8), outputs.ToPixels(3, in_channels=8))
    assert model(torch.randn(2, 9, 4))["out"].shape == (2, 2, 3, 3, 4)


def test_15_perceiver_multimodal_decoder() -> None:
    model = tiny("multimodal_autoencoding")
    encoded = model.encode(raws(model, 2))
    whole = model.decode(encoded)
    index = torch.randint(4 * 32 * 32, (2, 50))
    subset = model.decode(encoded, at={"image": index, "label": None})
    pixels = whole["image"].movedim(2, -1).flatten(1, 3)
    assert subset.keys() == {"image", "label"}
    assert relative(subset["image"], torch.stack([p[i] for p, i in zip(pixels, index, strict=True)])) < 1e-5
    assert relative(model.decode(encoded, chunk=999), whole) < 1e-5


def test_16_to_18_perceiver_postprocessors() -> None:
    assert outputs.Project(3, in_channels=8)(torch.randn(2, 5, 8)).shape == (2, 5, 3)
    block, rows = outputs.ToWaveform(16, in_channels=8), torch.randn(2, 30, 8)
    assert torch.equal(block.whole(block(rows), (30,)).view(2, 30, 16), block(rows))
    block, rows = outputs.Classify(3, in_channels=8), torch.randn(2, 1, 8)
    assert torch.equal(block.whole(block(rows), (1,)), block(rows)[:, 0])


def test_19_perceiver_multimodal_postprocessor() -> None:
    found = tiny("multimodal_autoencoding")(raws(tiny("multimodal_autoencoding"), 2))
    shapes = {"audio": (2, 4 * 1920), "image": (2, 4, 3, 32, 32), "label": (2, 4)}
    assert {name: tuple(value.shape) for name, value in found.items()} == shapes


def test_20_perceiver_model_output() -> None:
    model, ids = tiny("masked_lm"), torch.randint(262, (2, 9))
    with kit.capture_attention(model) as maps, kit.capture_hidden(model) as states:
        encoded = model.encode(ids)
        found = model.decode(encoded)
    assert found["text"].shape == (2, 9, 262) and encoded.latents.shape == (2, 32, 128)
    assert maps["encoder.cross.0"][0].shape == (2, 8, 32, 9) and maps["decoder.cross"][0].shape == (2, 8, 9, 32)
    assert torch.equal(states["encoder.transformer.1"][-1], encoded.latents)
    assert {"Classification", "MaskedTokens", "EndPointError", "Reconstruction"} <= {*kit.list("objectives")}
    objective = kit.objectives.Classification("label")
    loss, parts = objective({"label": torch.zeros(2, 3)}, {"label": torch.tensor([0, 2])})
    torch.testing.assert_close(loss, torch.tensor(3.0).log())
    assert [*parts] == ["label"]


def test_21_perceiver_for_masked_lm() -> None:
    model, ids = kit.build("masked_lm", preset="tiny"), torch.randint(6, 262, (2, 30))
    hidden = torch.where(torch.rand(2, 30) < 0.3, 3, ids)
    keep = torch.arange(30) < torch.tensor([[30], [20]])
    learns(model, lambda out: F.cross_entropy(out["text"][keep], ids[keep]), hidden, mask={"text": keep})


def test_22_perceiver_for_sequence_classification() -> None:
    ids, values = torch.randint(6, 262, (4, 12)), torch.randn(4, 3)
    for loss in (
        lambda out: F.cross_entropy(out["label"], torch.tensor([0, 1, 2, 0])),
        lambda out: F.mse_loss(out["label"], values),
        lambda out: F.binary_cross_entropy_with_logits(out["label"], (values > 0).float()),
    ):
        learns(kit.build("sequence_classification", preset="tiny", num_labels=3), loss, ids)


@pytest.mark.parametrize(
    ("recipe", "sizes"),
    [
        ("image_classification_learned", [(28, 28), (28, 20), (35, 40), (9, 9)]),
        ("image_classification_fourier", [(28, 28), (17, 30)]),
        ("image_classification_conv", [(28, 28), (31, 44)]),
    ],
)
def test_23_to_25_perceiver_for_image_classification(recipe: str, sizes: list[tuple[int, int]]) -> None:
    model, labels = kit.build(recipe, preset="tiny"), torch.tensor([7, 1])
    learns(model, lambda out: F.cross_entropy(out["label"], labels), torch.randn(2, 3, *sizes[0]))
    for size in sizes:
        assert model.eval()(torch.randn(2, 3, *size))["label"].shape == (2, 10)


def test_26_perceiver_for_optical_flow() -> None:
    frames, flow = torch.rand(1, 2, 3, 32, 48) * 2 - 1, torch.randn(1, 2, 32, 48) + 3
    model = kit.build("optical_flow", preset="tiny")
    learns(model, lambda out: (out["flow"] - flow).norm(dim=1).mean(), frames)
    for size in [(32, 48), (20, 30), (40, 60), (64, 33)]:
        with torch.no_grad():
            assert model(torch.randn(1, 2, 3, *size))["flow"].shape == (1, 2, *size)


def test_27_perceiver_for_multimodal_autoencoding() -> None:
    model = kit.build("multimodal_autoencoding", preset="tiny")
    raw, classes = raws(model, 2), torch.tensor([0, 3])
    raw["label"] = F.one_hot(classes, 4).float()
    index = {"image": torch.randint(4096, (2, 64)), "audio": torch.randint(480, (2, 32)), "label": None}
    pixels, patches = raw["image"].movedim(2, -1).flatten(1, 3), raw["audio"].unflatten(1, (-1, 16))
    wanted = {"image": pixels, "audio": patches}
    wanted = {name: torch.stack([r[i] for r, i in zip(wanted[name], index[name], strict=True)]) for name in wanted}

    def loss(out: dict[str, Tensor]) -> Tensor:
        parts = [F.l1_loss(out[name], wanted[name]) for name in wanted]
        return sum(parts) + F.cross_entropy(out["label"], classes)

    learns(model, loss, raw, at=index)
    model.eval()
    with torch.no_grad():  # as a video classifier: a given label is hidden in evaluation
        without = {name: raw[name] for name in ("image", "audio")}
        assert torch.equal(model(raw, at={"label": None})["label"], model(without, at={"label": None})["label"])


def _points(query: queries.Query | None, decoder: nn.Module, output: outputs.Output) -> kit.PerceiverIO:
    """A model from points (b, n, 4) to one output."""
    return kit.PerceiverIO(
        kit.Inputs(points=inputs.Features(4)),
        kit.Encoder(4, num_latents=5, latent_dim=16, layers=1),
        None if query is None else kit.Queries(out=query),
        decoder,
        kit.Outputs(out=output),
    )
