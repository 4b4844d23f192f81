"""Parity of single decoders, queries and outputs with Hugging Face's, also of those that only run in part."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.perceiver import modeling_perceiver as theirs

import perceiver_kit as kit
from perceiver_kit import inputs, outputs, queries
from perceiver_kit.positions import Fourier, Learned, Positions, Projected
from perceiver_kit.recipes._shared import CROSS_LAYER_NAMES as CROSS

from .reference import randomised, relative

GRID, LATENTS, WIDTH = (3, 4), 5, 16
CONFIG = transformers.PerceiverConfig(d_latents=WIDTH, num_labels=7, samples_per_patch=4)
OPTIONS = [
    {},
    dict(num_heads=2, qk_channels=8, v_channels=12, use_query_residual=True),
    dict(num_heads=4, widening_factor=3),
    dict(num_heads=2, v_channels=6, final_project=False, use_query_residual=True),
]


def numbers(reference: nn.Module) -> dict[str, Tensor]:
    """A reference decoder's parameters under the kit's names."""
    renamed = {theirs: ours for ours, theirs in CROSS.items()}
    tensors = reference.decoding_cross_attention.state_dict()
    parts = {name: name.rpartition(".") for name in tensors}
    cross = {f"cross.{renamed[path]}.{leaf}": tensors[name] for name, (path, _, leaf) in parts.items()}
    return cross | {f"project.{name}": tensor for name, tensor in reference.final_layer.state_dict().items()}


def both_decoders(
    query_channels: int, *, num_heads: int = 1, final_project: bool = True, widening_factor: int = 1, **options: int
) -> tuple[nn.Module, kit.Decoder]:
    reference = theirs.PerceiverBasicDecoder(
        CONFIG,
        output_num_channels=6,
        position_encoding_type="none",
        num_channels=query_channels,
        num_heads=num_heads,
        final_project=final_project,
        widening_factor=widening_factor,
        **options,
    )
    randomised(reference).eval()
    residual = options.pop("use_query_residual", False)
    ours = kit.Decoder(
        query_channels,
        WIDTH,
        out_channels=6 if final_project else None,
        heads=num_heads,
        widening=widening_factor,
        query_residual=residual,
        **options,
    )
    ours.load_state_dict(numbers(reference))
    return reference.double(), ours.double()


def assembled(query: queries.Query, decoder: kit.Decoder) -> kit.PerceiverIO:
    """Patches of an image on a grid, an encoder, and the query and decoder under test."""
    image = inputs.Patches((2, 2), grid=GRID, positions=Fourier(bands=2, max_resolution=(5, 6)))
    model = kit.PerceiverIO(
        kit.Inputs(image=image, min_padding=3),
        kit.Encoder(image.channels + 3, num_latents=LATENTS, latent_dim=WIDTH, layers=1, self_heads=2),
        kit.Queries(out=query, min_padding=0),
        decoder,
        kit.Outputs(out=outputs.Rows(decoder.out_channels)),
    )
    for block in (model.inputs, model.encoder, model.queries):
        randomised(block)
    return model.double().eval()


def positions_of(kind: str) -> Positions | None:
    learned, fourier = Learned(GRID, 9), Fourier(bands=4, max_resolution=(7, 9), ends="half_open")
    return {"learned": learned, "fourier": fourier, "projected": Projected(fourier, 6), "none": None}[kind]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options) or "plain")
@pytest.mark.parametrize("kind", ["learned", "fourier", "projected", "rows", "content", "content learned", "given"])
@torch.no_grad()
def test_decoders_with_any_query_match(kind: str, options: dict) -> None:
    """The test assembles the queries: the reference's content queries do not have the width that it declares."""
    content, image = 12, torch.randn(2, 3, 6, 8).double()
    match kind:
        case "rows":
            query = queries.InputQuery("image", channels=content + 2 * 5 + 3)
        case "content" | "content learned":
            positions = positions_of("learned" if kind.endswith("learned") else "fourier")
            query = queries.ContentQuery("image", content_channels=content, positions=positions)
        case "given":
            query = queries.ContentQuery("image", content_channels=content)
        case _:
            query = queries.PositionQuery(positions_of(kind), size=GRID)
    reference, decoder = both_decoders(query.channels, **options)
    model = assembled(query, decoder)
    encoded = model.encode(image)
    patches = model.inputs.blocks["image"].embed(image, "image").flatten(1, -2)
    positions = getattr(query, "positions", None)
    features = None if positions is None else positions(GRID).double().expand(2, -1, -1)
    rows = {
        "rows": lambda: model.inputs(image)[0].rows,
        "given": lambda: patches,
        "content": lambda: torch.cat([patches, features], -1),
        "content learned": lambda: torch.cat([patches, features], -1),
    }.get(kind, lambda: features)()
    wanted = reference(rows, encoded.latents).logits
    found = model.decode(encoded)["out"]
    assert relative(found, wanted) < 1e-9
    assert relative(model.decode(encoded, chunk=5)["out"], wanted) < 1e-9
    for index in (torch.tensor([11, 0, 0, 5]), torch.randint(12, (2, 7))):
        expected = torch.stack([rows[i] for rows, i in zip(wanted, index.expand(2, -1), strict=True)])
        assert relative(model.decode(encoded, at={"out": index})["out"], expected) < 1e-9
    assert relative(wanted.roll(1, 1), wanted) > 0.01, "all queries are alike: nothing was tested"


@pytest.mark.parametrize("kind", ["trainable", "fourier"])
@torch.no_grad()
def test_queries_of_the_reference_match(kind: str) -> None:
    fourier = dict(num_bands=4, max_resolution=(7, 9), concat_pos=True, sine_only=False)
    trainable = dict(num_channels=9, index_dims=12)
    reference = theirs.PerceiverBasicDecoder(
        CONFIG,
        output_num_channels=6,
        position_encoding_type=kind,
        output_index_dims=GRID,
        num_channels=18,
        **{f"{kind}_position_encoding_kwargs": fourier if kind == "fourier" else trainable},
    )
    rows = torch.zeros(2, 1, *GRID)  # the reference reads the grid from their shape
    if kind == "trainable":
        positions = Learned(GRID, 9)
        positions.table.copy_(reference.output_position_encodings.position_embeddings)
        wanted = reference.decoder_query(rows)
    else:
        positions = Fourier(bands=4, max_resolution=(7, 9))
        wanted = reference.decoder_query(rows)
        index = torch.tensor([11, 4, 4, 0])
        subsampled = reference.decoder_query(rows, subsampled_points=index)
        half_open = Fourier(bands=4, max_resolution=(7, 9), ends="half_open")
        assert relative(half_open(GRID, index).expand(2, -1, -1), subsampled) < 1e-6
    assert relative(positions(GRID).expand(2, -1, -1), wanted) < 1e-6


@pytest.mark.parametrize("points", [None, [0, 17, 23, 23]])
@torch.no_grad()
def test_video_decoder_matches(points: list[int] | None) -> None:
    """The reference cannot be run whole; its parts run on queries over the same grid."""
    grid = (2, 3, 4)
    options = dict(num_bands=3, max_resolution=(5, 6, 7), concat_pos=True, sine_only=False)
    reference = theirs.PerceiverBasicVideoAutoencodingDecoder(
        CONFIG,
        output_shape=[1, *grid],
        position_encoding_type="fourier",
        output_num_channels=6,
        num_channels=21,
        use_query_residual=False,
        fourier_position_encoding_kwargs=options,
    )
    randomised(reference).eval()
    model = kit.PerceiverIO(
        kit.Inputs(video=inputs.Patches((1, 1, 1), positions=Fourier(bands=2, max_resolution=grid))),
        kit.Encoder(18, num_latents=LATENTS, latent_dim=WIDTH, layers=1),
        kit.Queries(
            video=queries.PositionQuery(Fourier(bands=3, max_resolution=(5, 6, 7), ends="half_open"), size=grid)
        ),
        kit.Decoder(21, WIDTH, out_channels=6),
        kit.Outputs(video=outputs.ToPixels(3, in_channels=6)),
    ).eval()
    randomised(model)
    model.decoder.load_state_dict(numbers(reference.decoder))
    encoded = model.encode(torch.randn(2, *grid[:1], 3, *grid[1:]))
    index = torch.arange(24) if points is None else torch.tensor(points)
    query = reference.decoder_query(torch.zeros(2, 1), subsampled_points=index)
    rows = model.outputs.blocks["video"].project(reference.decoder(query, encoded.latents).logits)
    if points is None:
        wanted = rows.unflatten(1, grid).movedim(-1, 2)
        assert relative(model.decode(encoded)["video"], wanted) < 1e-5
    else:
        assert relative(model.decode(encoded, at={"video": index})["video"], rows) < 1e-5


class Instantiable(theirs.PerceiverProjectionDecoder):
    """The reference lacks an abstract method of its base and cannot be instantiated."""

    num_query_channels = 0


@torch.no_grad()
def test_mean_pooling_matches_the_repaired_reference() -> None:
    with pytest.raises(TypeError, match="abstract"):
        theirs.PerceiverProjectionDecoder(CONFIG)
    reference = randomised(Instantiable(CONFIG))
    model = kit.PerceiverIO(
        kit.Inputs(points=inputs.Features(4)),
        kit.Encoder(4, num_latents=LATENTS, latent_dim=WIDTH, layers=1),
        None,
        kit.MeanPool(WIDTH, out_channels=7),
        kit.Outputs(label=outputs.Rows(7)),
    ).eval()
    randomised(model)
    model.decoder.project.load_state_dict(reference.classifier.state_dict())
    encoded = model.encode(torch.randn(2, 9, 4))
    assert relative(model.decode(encoded)["label"][:, 0], reference(None, encoded.latents)) < 1e-6


@torch.no_grad()
def test_classification_decoder_matches_one_learned_query() -> None:
    reference = theirs.PerceiverClassificationDecoder(
        CONFIG,
        num_channels=WIDTH,
        use_query_residual=True,
        trainable_position_encoding_kwargs=dict(num_channels=WIDTH, index_dims=1),
    )
    randomised(reference).eval()
    query = queries.LearnedQuery(1, WIDTH)
    decoder = kit.Decoder(WIDTH, WIDTH, out_channels=7, query_residual=True)
    query.positions.table.copy_(reference.decoder.output_position_encodings.position_embeddings)
    decoder.load_state_dict(numbers(reference.decoder))
    latents = torch.randn(2, LATENTS, WIDTH)
    wanted = reference(reference.decoder_query(latents), latents).logits
    rows = decoder(query((1,), None, kit.Encoded(latents, kit.Layout(()))), latents)
    assert relative(rows[:, 0], wanted) < 1e-6


@pytest.mark.parametrize(
    ("ours", "reference", "rows", "grid"),
    [
        (outputs.Project(3, in_channels=8), theirs.PerceiverProjectionPostprocessor(8, 3), 6, (6,)),
        (outputs.ToWaveform(4, in_channels=8), theirs.PerceiverAudioPostprocessor(CONFIG, 8), 6, (6,)),
        (outputs.Classify(7, in_channels=8), theirs.PerceiverClassificationPostprocessor(CONFIG, 8), 1, (1,)),
    ],
    ids=["rows", "waveform", "classes"],
)
@torch.no_grad()
def test_outputs_match(ours: outputs.Output, reference: nn.Module, rows: int, grid: tuple) -> None:
    randomised(reference)
    ours.project.load_state_dict(reference.classifier.state_dict())
    decoded = torch.randn(2, rows, 8)
    assert relative(ours.whole(ours(decoded), grid), reference(decoded)) == 0


@torch.no_grad()
def test_text_logits_match() -> None:
    reference = randomised(theirs.PerceiverEmbeddingDecoder(transformers.PerceiverConfig()))
    text = inputs.TextTokens(262, 8)
    ours = outputs.TiedText(text)
    ours.bias.copy_(reference.bias)
    rows = torch.randn(2, 5, 8)
    assert relative(ours(rows), reference(rows, text.embedding)) < 1e-6


@pytest.mark.parametrize("hidden", [0.0, 1.0])
@torch.no_grad()
def test_several_inputs_match(hidden: float) -> None:
    """Padded to one width and concatenated in alphabetical order, the label hidden or not."""
    fourier = dict(num_bands=2, max_resolution=(6,), concat_pos=True, sine_only=False)
    reference = theirs.PerceiverMultimodalPreprocessor(
        min_padding_size=3,
        modalities={
            "sound": theirs.PerceiverAudioPreprocessor(
                CONFIG, samples_per_patch=4, fourier_position_encoding_kwargs=fourier
            ),
            "label": theirs.PerceiverOneHotPreprocessor(CONFIG),
        },
        mask_probs={"label": hidden},
    )
    randomised(reference)
    ours = kit.Inputs(
        sound=inputs.AudioPatches(4, positions=Fourier(bands=2, max_resolution=(6,))),
        label=inputs.OneHot(7),
        hide=dict(label=hidden),
        min_padding=3,
    ).eval()
    for name in ("sound", "label"):
        ours.padding[name].vector.copy_(reference.padding[name])
    ours.mask_tokens["label"].vector.copy_(reference.mask["label"])
    raw = {"sound": torch.randn(2, 24), "label": torch.rand(2, 7)}
    wanted, sizes, _ = reference(raw)
    tokens, _ = ours(raw)
    assert relative(tokens.rows, wanted) < 1e-6
    assert {name: tokens[name].shape[1] for name in tokens.layout} == sizes
