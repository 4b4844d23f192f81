"""What is measured: the inputs, and each side's models as calls that give outputs by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tasks import ARCHITECTURES, KIT, PART, VIDEO, Point

Call = Callable[[], Any]
QUICK = dict(length=256, size=56, batch=1)


def inputs(recipe: str, point: Point, small: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random inputs as the kit takes them, the same on both sides."""
    torch.manual_seed(0)
    point = (QUICK if small else dict(length=2048, size=224, batch=1)) | point
    batch, size = point["batch"], point["size"]
    if recipe == "image_classification_learned":
        size = 224  # what its positions are for
    if recipe in ("masked_lm", "sequence_classification"):
        return {"text": torch.randint(6, 262, (batch, point["length"]))}
    if recipe == "optical_flow":
        height, width = (32, 48) if small else (368, 496)
        made = {"frames": torch.rand(batch, 2, 3, height, width) * 2 - 1}
    elif recipe == VIDEO:
        # Published in size even when all else is small: there is no other for the reference's parts.
        made = {"image": torch.rand(batch, 16, 3, 224, 224) * 2 - 1, "audio": torch.rand(batch, 30720) * 2 - 1}
        made["label"] = torch.zeros(batch, 700)
    else:
        made = {"image": torch.randn(batch, 3, size, size)}
    return {name: value.to(dtype) for name, value in made.items()}


def part(small: bool) -> dict[str, Tensor | None]:
    """The points of one of the reference's parts of a video, or a few of them."""
    return {name: torch.arange(15 if small else rows) for name, rows in PART.items()} | {"label": None}


def kit_model(directory: str, dtype: torch.dtype) -> nn.Module:
    import perceiver_kit as kit

    return kit.load(directory).to(dtype)


def kit_call(recipe: str, model: nn.Module, raw: dict[str, Tensor], at: Any = None) -> Call:
    return lambda: model(raw, at=at)


def reference_model(recipe: str, directory: str, dtype: torch.dtype) -> nn.Module:
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return getattr(transformers, ARCHITECTURES[recipe]).from_pretrained(directory, dtype=dtype).eval()


def reference_call(recipe: str, model: nn.Module, raw: dict[str, Tensor], at: Any = None) -> Call:
    if recipe == "optical_flow":
        # It takes 3 × 3 neighbourhoods, which its caller makes.
        frames = raw["frames"]
        around = F.unfold(frames.flatten(0, 1), 3, padding=1).unflatten(0, frames.shape[:2])
        neighbours = around.unflatten(2, (3, 9)).transpose(2, 3).flatten(2, 3).unflatten(-1, frames.shape[-2:])
        return lambda: {"flow": 20 * model(neighbours).logits.movedim(-1, 1)}
    if recipe == VIDEO:
        raw = raw | {"audio": raw["audio"][..., None]}
        return lambda: dict(model(raw, subsampled_output_points=at).logits)
    only = next(iter(raw.values()))
    if recipe == "masked_lm":
        # It decodes as many rows as the longest text has, whatever it is given.
        return lambda: {"text": model(only).logits[:, : only.shape[1]]}
    return lambda: {"label": model(only).logits}


def signature(outputs: dict[str, Tensor]) -> float:
    """A number that equal outputs share; of a video the label's, which both decode."""
    value = outputs["label"] if "label" in outputs else next(iter(outputs.values()))
    return float(value.detach().float().square().mean().sqrt())


def growing(point: Point) -> tuple[nn.Module, dict[str, Tensor]]:
    """64 channels a row, 64 latents × 128, two layers; one side of it as large as the point says."""
    import perceiver_kit as kit
    from perceiver_kit import inputs as blocks
    from perceiver_kit import outputs, positions, queries

    rows, asked = point.get("rows", 1024), point.get("queries", 1024)
    every = blocks.Inputs(rows=blocks.Features(64))
    encoder = kit.Encoder(64, num_latents=64, latent_dim=128, layers=2)
    places = positions.Fourier(bands=32, max_resolution=(65536,))
    ask = queries.Queries(rows=queries.PositionQuery(places, size=(asked,)))
    answer = outputs.Outputs(rows=outputs.Project(ask.channels, 4))
    model = kit.PerceiverIO(every, encoder, ask, kit.Decoder(ask.channels, 128), answer)
    return model.eval(), {"rows": torch.randn(1, rows, 64)}


def generic_model(side: str, small: bool) -> tuple[nn.Module, Call]:
    """What the kit and perceiver-pytorch both have: ready-made rows, latents, one query, a feed-forward layer after it.

    50,176 rows × 261 into 512 latents × 1,024, six layers of eight heads. perceiver-pytorch's feed-forward layers are
    gated and four times as wide, 12 d² multiply-adds a row: the kit's, without a gate, have as many at six times.
    """
    rows, width, latents, dim, depth = (1024, 33, 32, 64, 2) if small else (50176, 261, 512, 1024, 6)
    torch.manual_seed(0)
    read = torch.randn(1, rows, width)
    if side == KIT:
        import perceiver_kit as kit
        from perceiver_kit import inputs as blocks
        from perceiver_kit import outputs, queries

        encoder = kit.Encoder(
            width, num_latents=latents, latent_dim=dim, layers=depth, self_heads=8, cross_widening=6, self_widening=6
        )
        model = kit.PerceiverIO(
            blocks.Inputs(rows=blocks.Features(width)),
            encoder,
            queries.Queries(label=queries.LearnedQuery(1, dim)),
            kit.Decoder(dim, dim, widening=6),
            outputs.Outputs(label=outputs.Classify(dim, 1000)),
        )
        return model, lambda: model({"rows": read})
    from perceiver_pytorch.perceiver_io import PerceiverIO

    theirs = PerceiverIO(
        depth=depth,
        dim=width,
        queries_dim=dim,
        logits_dim=1000,
        num_latents=latents,
        latent_dim=dim,
        cross_heads=1,
        latent_heads=8,
        cross_dim_head=width,
        latent_dim_head=dim // 8,
        decoder_ff=True,
    )
    query = torch.randn(1, dim)
    return theirs, lambda: {"label": theirs(read, queries=query)[:, 0]}
