"""Models of each side, as calls that return outputs by name, and their inputs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .tasks import KIT, PARTS, Point, traits

Call = Callable[[], Any]
# Sizes of --quick: published widths, which Hugging Face's format needs, but few layers and latents.
SMALL: dict[str, Any] = dict(num_latents=32, layers=1)
SMALL_INPUTS = dict(length=256, size=56)


def parameters(recipe: str, small: bool) -> dict[str, Any]:
    """Parameters of the recipe."""
    return {} if not small else SMALL | ({"image_size": (32, 48)} if traits(recipe).tiled else {})


def inputs(recipe: str, point: Point, small: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random inputs as the kit takes them, the same on both sides; ``point`` may give batch, length or image size."""
    from perceiver_kit.registry import find

    torch.manual_seed(0)
    made = find("recipes", recipe).example(batch=point.get("batch", 1), **parameters(recipe, small))
    sizes = (SMALL_INPUTS if small else {}) | point
    for name, value in made.items():
        if not value.is_floating_point():
            made[name] = value[:, : sizes.get("length")]
        elif traits(recipe).any_size and "size" in sizes:
            made[name] = torch.randn(*value.shape[:-2], sizes["size"], sizes["size"]).to(dtype)
        else:
            made[name] = value.to(dtype)
    return made


def rows(model: Any) -> dict[str, int]:
    """Rows of each output of declared size."""
    return {name: math.prod(model.queries.blocks[name].size) for name in model.queries.blocks}


def part(model: Any, small: bool) -> dict[str, Tensor | None]:
    """Rows of one of the reference's parts, or 15 of them; None: all rows of a small output."""
    sizes = {name: number // PARTS for name, number in rows(model).items()}
    return {name: torch.arange(15 if small else size) if size else None for name, size in sizes.items()}


def kit_model(directory: str, dtype: torch.dtype) -> nn.Module:
    import perceiver_kit as kit

    return kit.load(directory).to(dtype)


def kit_call(recipe: str, model: nn.Module, raw: dict[str, Tensor], at: Any = None) -> Call:
    return lambda: model(raw, at=at)


@functools.cache
def structure_of(recipe: str, small: bool) -> Any:
    """The kit's model without weights."""
    import perceiver_kit as kit

    with torch.device("meta"):
        return kit.build(recipe, **parameters(recipe, small))


def reference_model(recipe: str, directory: str, dtype: torch.dtype) -> nn.Module:
    import transformers

    from perceiver_kit.registry import find

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    architecture = getattr(transformers, find("recipes", recipe).huggingface.architecture)
    return architecture.from_pretrained(directory, dtype=dtype).eval()


def reference_call(recipe: str, model: nn.Module, raw: dict[str, Tensor], at: Any = None, mask: Any = None) -> Call:
    """A call of Hugging Face's model with the kit's inputs, which returns outputs in the kit's form."""
    from tests.hub.reference import prepared

    call = prepared(recipe, model, raw, mask, at=at)
    return lambda: call()[0]


def signature(outputs: dict[str, Tensor]) -> float:
    """Root mean square of an output: the label where there is one, which both sides decode whole."""
    value = outputs["label"] if "label" in outputs else next(iter(outputs.values()))
    return float(value.detach().float().square().mean().sqrt())


def growing(point: Point) -> tuple[nn.Module, dict[str, Tensor]]:
    """64 channels a row, 64 latents × 128, two layers; the point gives the number of rows or queries.

    ``grouped_rows`` of the point: the hierarchical Perceiver instead, 16 groups of 64 such latents, and 64 between.
    """
    import perceiver_kit as kit
    from perceiver_kit import inputs as blocks
    from perceiver_kit import outputs, positions, queries
    from perceiver_kit.encoders import HierarchicalEncoder

    grouped = point.get("grouped_rows")
    rows, asked = point.get("rows", grouped or 1024), point.get("queries", 1024)
    read = blocks.Inputs(rows=blocks.Features(64))
    groups = 16 if grouped else 1
    if grouped:
        options: dict[str, Any] = dict(num_latents=64, widths=128, layers=(1, 2, 1))
        encoder = HierarchicalEncoder(64, groups=(groups, 1, groups), **options)
    else:
        encoder = kit.Encoder(64, num_latents=64, latent_dim=128, layers=2)
    places = positions.Fourier(bands=32, max_resolution=(65536,))
    ask = queries.Queries(rows=queries.PositionQuery(places, size=(asked,)))
    answer = outputs.Outputs(rows=outputs.Project(4, in_channels=ask.channels))
    model = kit.PerceiverIO(read, encoder, ask, kit.Decoder(ask.channels, 128, groups=groups), answer)
    return model.eval(), {"rows": torch.randn(1, rows, 64)}


def generic_model(side: str, small: bool) -> tuple[nn.Module, Call]:
    """A model that the kit and perceiver-pytorch share: given rows, latents, one query, an MLP after it.

    50,176 rows × 261 into 512 latents × 1,024, six layers of eight heads. perceiver-pytorch's MLPs are gated and
    four times as wide, 12 d² multiply-adds a row; the kit's, without a gate, have as many at six times.
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
            outputs.Outputs(label=outputs.Classify(1000, in_channels=dim)),
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
