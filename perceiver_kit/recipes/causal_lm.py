"""Causal language modelling: Perceiver AR on bytes or ids."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..checking import check_choice, check_positive
from ..declarations import recipe
from ..decoders import PassThrough
from ..encoders import CausalEncoder
from ..inputs import Inputs, PastTokens, TextTokens
from ..model import PerceiverIO
from ..objectives import NextTokens
from ..outputs import Outputs, Project
from ..positions import Fourier, Learned, Positions, Sinusoidal
from ..queries import LatentQuery, Queries
from ..variants import Rotary

PAPER = "Perceiver AR (Hawthorne et al. 2022)"
CODE = "google-research/perceiver-ar"
FLAXFORMER = "google/flaxformer, perceiver_ar, base"
RUNS = f"{CODE}, experiment.py"
# Of the runs in the published code.
PUBLISHED: dict[str, Any] = dict(
    vocabulary=259,
    channels=1024,
    latent_dim=1024,
    num_latents=1024,
    cross_heads=16,
    self_heads=16,
    residual_dropout=0.1,
    positions="sinusoidal",
)


def _objective() -> NextTokens:
    return NextTokens(z_loss=1e-4)


def _random_ids(batch: int, parameters: dict[str, Any]) -> dict[str, Tensor]:
    return {"text": torch.randint(parameters["vocabulary"], (batch, parameters["context"]))}


@recipe(
    presets=dict(
        base=dict(num_latents=1024, latent_dim=768, layers=12, cross_heads=12, self_heads=12, residual_dropout=0.1),
        small=dict(channels=512, latent_dim=512, layers=6, cross_heads=8, self_heads=8),
        imagenet=PUBLISHED | dict(context=12_416, layers=60, positions="learned"),
        copy=PUBLISHED | dict(context=131_072, layers=6),
        copy_small=PUBLISHED | dict(context=32, num_latents=16, layers=1),
        tiny=dict(
            context=256,
            channels=64,
            num_latents=64,
            latent_dim=64,
            layers=2,
            cross_heads=4,
            self_heads=4,
            residual_dropout=0.0,
        ),
        quick=dict(
            context=192,
            channels=64,
            num_latents=128,
            latent_dim=64,
            layers=2,
            cross_heads=4,
            self_heads=4,
            residual_dropout=0.0,
            ngrams=(2, 3, 4, 5, 6),
            buckets=2**16,
        ),
    ),
    sources=dict(
        vocabulary=f"256 bytes and 6 special ids; {RUNS}: 256 values and 3 special ids",
        context=f"{FLAXFORMER}: 8,192 on C4; {RUNS}: imagenet 12,416, copy 131,072, copy_small 32",
        channels=f"{FLAXFORMER}: 768; small 512; {RUNS}: 1,024",
        num_latents=f"{FLAXFORMER}: 1,024; {RUNS}: 1,024, copy_small 16",
        latent_dim=f"{FLAXFORMER}: 768; small 512; {RUNS}: 1,024",
        layers=f"{FLAXFORMER}: 12; small 6; {RUNS}: imagenet 60, copy 6, copy_small 1",
        cross_heads=f"{FLAXFORMER}: 12 of 64; small 8; {RUNS}: 16",
        self_heads=f"{FLAXFORMER}: 12 of 64; small 8; {RUNS}: 16",
        cross_widening=CODE,
        self_widening=CODE,
        residual_dropout=f"{CODE}: 0.1 on residual branches",
        row_dropout=f"{CODE}: none by default",
        activation=f"{CODE}: squared ReLU",
        positions=f"{CODE}: rotary by default, on half of each head's channels; copy has sinusoidal ones, imagenet "
        "learned ones of row, column and channel, here of the place in the stream",
        rotary=f"{CODE}: wavelengths up to the context, the end included",
        count=f"{CODE} counts back from the last token, which with rotary positions changes no distance",
        query=f"{CODE}: a linear map of the row",
        buckets="as of n-grams; none published",
        ngrams="none published; quick: Byte Latent Transformer (Pagnoni et al. 2024)",
    ),
    group=CausalEncoder,
    objective=_objective,
    training=dict(
        steps=3000, batch=16, rate=1e-3, quick=dict(steps=1000, rate=2e-2, optimizer="muon", weight_decay=0.01)
    ),
    data=dict(
        bible_next="perceiver_kit.data.tasks:bible_next",
        chorales="perceiver_kit.data.chorales:chorale_ids",
        digit_pixels="perceiver_kit.data.pixels:digit_pixels",
        path="perceiver_kit.data.folders:next_bytes",
    ),
    reads=lambda parameters: {"max_length": parameters["context"], "predicted": parameters["num_latents"]},
    random_inputs=_random_ids,
    processor="perceiver_kit.processors.recipes:continue_text",
)
def causal_lm(
    *,
    vocabulary: int = 262,
    context: int = 8192,
    channels: int = 768,
    positions: Literal["rotary", "learned", "sinusoidal", "fourier", "none"] = "rotary",
    rotary: Rotary | None = None,
    ngrams: tuple[int, ...] = (),
    buckets: int = 2**16,
    **encoder,
) -> PerceiverIO:
    """Causal language modelling (Perceiver AR): each of the last ``num_latents`` tokens predicts the next one.

    Takes text (b, n) int64 with n ≤ ``context`` and returns text (b, m, vocabulary) logits: of the token after each of
    the last m = min(n, ``num_latents``) ones. ``kit.generate`` continues prompts. ``rotary`` replaces the published
    rotary positions. With ``ngrams`` each row knows the tokens before its own by hashes (``inputs.PastTokens``).

    >>> model = build("causal_lm", preset="tiny")
    >>> model({"text": torch.randint(262, (2, 200))})["text"].shape
    torch.Size([2, 64, 262])
    """
    check_positive("causal_lm", vocabulary=vocabulary, context=context, channels=channels, buckets=buckets)
    check_choice("causal_lm", "positions", positions, ("rotary", "learned", "sinusoidal", "fourier", "none"))
    added: Positions | None = {
        "learned": lambda: Learned((context,), channels),
        "sinusoidal": lambda: Sinusoidal(channels),
        "fourier": lambda: Fourier(bands=channels // 2, max_resolution=(context,), coordinates=False),
    }.get(positions, lambda: None)()
    if rotary is None and positions == "rotary":
        rotary = Rotary(float(context))
    text = (
        PastTokens(vocabulary, channels, ngrams=ngrams, buckets=buckets) if ngrams else TextTokens(vocabulary, channels)
    )
    latents = CausalEncoder(channels, context=context, positions=added, rotary=rotary, **encoder)
    return PerceiverIO(
        Inputs(text=text),
        latents,
        Queries(text=LatentQuery(latents.places, latent_dim=latents.latent_dim)),
        PassThrough(latents.latent_dim),
        Outputs(text=Project(vocabulary, in_channels=latents.latent_dim, zero=True)),
    )
