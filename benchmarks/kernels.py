"""`python -m benchmarks.kernels`: how each published attention is computed fastest on this device.

For each attention of the published models: each side that may be projected, and each kernel for the weighted sum. On a
GPU (`--device cuda`) this takes two minutes. `attention_backends.py` chooses by these figures; docs/kernels.json keeps
them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right

from perceiver_kit import Attention, attention_backends, tiled_attention

from .device import clock, name_of, peak_memory

FIGURES = Path(__file__).resolve().parent.parent / "docs" / "kernels.json"


class Shape(NamedTuple):
    """Queries (b, m, cq) over rows (b, n, ck), with q and k of qk, v of v channels over all heads."""

    name: str
    m: int
    n: int
    cq: int
    ck: int
    qk: int
    v: int
    heads: int
    b: int = 1


SHAPES = (
    Shape("optical flow, encoder", 2048, 182528, 512, 322, 322, 322, 1),
    Shape("optical flow, latents", 2048, 2048, 512, 512, 512, 512, 16),
    Shape("optical flow, decoder", 182528, 2048, 322, 512, 512, 512, 1),
    Shape("images by Fourier features, encoder", 512, 50176, 1024, 261, 261, 261, 1),
    Shape("images by learned positions, encoder", 512, 50176, 1024, 512, 512, 512, 1),
    Shape("images by convolutions, encoder", 512, 3025, 1024, 322, 322, 322, 1),
    Shape("images by convolutions, encoder, batch 32", 512, 3025, 1024, 322, 322, 322, 1, b=32),
    Shape("images, latents", 512, 512, 1024, 1024, 1024, 1024, 8),
    Shape("images, latents, batch 32", 512, 512, 1024, 1024, 1024, 1024, 8, b=32),
    Shape("images, decoder", 1, 512, 1024, 1024, 1024, 1024, 1),
    Shape("text, encoder, batch 8", 256, 2048, 1280, 768, 256, 1280, 8, b=8),
    Shape("text, latents, batch 8", 256, 256, 1280, 1280, 256, 1280, 8, b=8),
    Shape("text, decoder, batch 8", 2048, 256, 768, 1280, 256, 768, 8, b=8),
    Shape("video with sound, encoder", 784, 52097, 512, 704, 704, 704, 1),
    Shape("video with sound, latents", 784, 784, 512, 512, 512, 512, 8),
    Shape("video with sound, decoder", 65408, 784, 1026, 512, 512, 512, 1),
)


def padded(width: int | None) -> Callable[..., Tensor]:
    """The kernel of torch with heads padded to a multiple of eight; ``width`` None: to one width for q, k and v."""

    def read(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        e, f = (-(-c // 8) * 8 for c in (q.shape[-1], v.shape[-1]))
        e, f = (max(e, f), max(e, f)) if width is None else (e, f)
        q, k, v_wide = (F.pad(x, (0, c - x.shape[-1])) for x, c in ((q, e), (k, e), (v, f)))
        return F.scaled_dot_product_attention(q, k, v_wide, scale=scale)[..., : v.shape[-1]]

    return read


def only(backend: SDPBackend) -> Callable[..., Tensor]:
    def read(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        with sdpa_kernel(backend):
            return padded(None)(q, k, v, scale)

    return read


def in_tiles(bytes_: int) -> Callable[..., Tensor]:
    def read(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        with mock.patch.multiple(tiled_attention, TILE_BYTES=bytes_, GPU_TILE_BYTES=bytes_):
            return tiled_attention.tiled(q, k, v, None, scale, 0.0, False)

    return read


def products(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return (q * scale @ k.mT).softmax(-1) @ v


KERNELS: dict[str, Callable[..., Tensor]] = {
    "torch": lambda q, k, v, scale: F.scaled_dot_product_attention(q, k, v, scale=scale),
    "torch, padded to eights": padded(8),
    "torch, padded to one width": padded(None),
    "efficient": only(SDPBackend.EFFICIENT_ATTENTION),
    "cuDNN": only(SDPBackend.CUDNN_ATTENTION),
    "products": products,
    "tiles of 64 MiB": in_tiles(2**26),
    "tiles of 512 MiB": in_tiles(2**29),
}
KIT = "the kit's choice"


def backend_of(q: Tensor, k: Tensor, v: Tensor, scale: float, **options: Any) -> str:
    """The backend that torch chooses for a call, asked of torch."""
    number = torch._fused_sdp_choice(q, k, v, scale=scale, **options)
    return next(name for name, value in SDPBackend.__members__.items() if int(value) == number).lower()


def sides(shape: Shape) -> tuple[str, ...]:
    return ("both", "queries", "keys") if shape.heads == 1 else ("both",)


def measured(shape: Shape, side: str, kernel: str, dtype: torch.dtype, device: torch.device, train: bool) -> dict:
    """Seconds, TFLOP/s of the definition's products, and MiB of a call of a whole attention."""
    torch.manual_seed(0)
    attention = Attention(shape.cq, shape.ck, heads=shape.heads, qk_channels=shape.qk, v_channels=shape.v).to(
        device, dtype
    )
    queries = torch.randn(shape.b, shape.m, shape.cq, device=device, dtype=dtype, requires_grad=train)
    rows = torch.randn(shape.b, shape.n, shape.ck, device=device, dtype=dtype, requires_grad=train)
    seen: dict[str, Any] = {}

    def read(q: Tensor, k: Tensor, v: Tensor, *, masks: Any, scale: float, dropout: float = 0.0) -> Tensor:
        q = q.expand(k.shape[0], -1, -1, -1)
        if kernel == "torch" and "backend" not in seen:
            seen["backend"] = backend_of(q, k, v, scale)
        return KERNELS[kernel](q, k, v, scale)

    def call() -> None:
        with torch.set_grad_enabled(train):
            result = attention(queries, rows)
            if train:
                result.square().mean().backward()

    if kernel == KIT:
        read = attention_backends.weighted_sum
    with (
        mock.patch.object(attention_backends, "choose_side", return_value=side),
        mock.patch.object(attention_backends, "weighted_sum", read),
    ):
        seconds = clock(call, device)
        memory = peak_memory(call, device)
    work = shape.b * (
        shape.m * shape.cq * (shape.qk + shape.v)
        + shape.n * shape.ck * (shape.qk + shape.v)
        + shape.m * shape.n * (shape.qk + shape.v)
    )
    tera = 2 * work * (3 if train else 1) / 1e12
    return {"milliseconds": 1e3 * seconds, "teraflops": tera / seconds, "mebibytes": memory, **seen}


def causal(device: torch.device, dtype: torch.dtype, train: bool) -> Iterator[dict]:
    """The last 1,024 of 8,192 rows read those before them: 12 heads of 64 channels (Perceiver AR's cross-attention)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    m, n = 1024, 8192
    q, k, v = (torch.randn(1, 12, rows, 64, device=device, dtype=dtype, requires_grad=train) for rows in (m, n, n))
    scale = 1 / 8
    mask = torch.ones(m, n, dtype=torch.bool, device=device).tril(n - m)
    blocks = create_block_mask(lambda b, h, i, j: j <= i + (n - m), None, None, m, n, device=device.type)
    flex = torch.compile(flex_attention)
    ways: dict[str, Callable[[], Tensor]] = {
        "torch, mask as a tensor": lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale),
        "torch, causal_lower_right": lambda: F.scaled_dot_product_attention(
            q, k, v, attn_mask=causal_lower_right(m, n), scale=scale
        ),
        "tiles of 64 MiB": lambda: tiled_attention.tiled(q, k, v, None, scale, 0.0, True),
        "flex": lambda: flex(q, k, v, block_mask=blocks, scale=scale),
    }
    for name, way in ways.items():

        def call(way: Callable[[], Tensor] = way) -> None:
            with torch.set_grad_enabled(train):
                result = way()
                if train:
                    result.square().mean().backward()

        entry: dict[str, Any] = {"shape": "causal, 1,024 of 8,192 rows", "side": "both", "kernel": name}
        try:
            entry |= {"milliseconds": 1e3 * clock(call, device), "mebibytes": peak_memory(call, device)}
        except Exception as error:  # a kernel that does not run here is a result, too
            entry["refused"] = str(error).splitlines()[0][:120]
        yield entry


def study(device: torch.device, small: bool, kernels: Sequence[str]) -> Iterator[dict]:
    for dtype in (torch.float32,) if small else (torch.bfloat16, torch.float32):
        for train in (False, True):
            known = {"dtype": str(dtype).removeprefix("torch."), "train": train}
            for shape in SHAPES[:2] if small else SHAPES:
                if small:
                    shape = shape._replace(m=min(shape.m, 64), n=min(shape.n, 64), b=1)
                for side in sides(shape):
                    for kernel in kernels:
                        entry = {"shape": shape.name, "side": side, "kernel": kernel, **known}
                        try:
                            entry |= measured(shape, side, kernel, dtype, device, train)
                        except (RuntimeError, torch.OutOfMemoryError) as error:
                            entry["refused"] = str(error).splitlines()[0][:120]
                        yield entry
            if not small and len(kernels) > 1:  # FlexAttention takes minutes to compile on a CPU
                for entry in causal(device, dtype, train):
                    yield entry | known


def best(entries: list[dict]) -> str:
    """For each attention, dtype and mode: the three fastest ways, and what torch does by itself."""
    lines, groups = [], {}
    for entry in entries:
        groups.setdefault((entry["dtype"], entry["train"], entry["shape"]), []).append(entry)
    for (dtype, train, shape), group in groups.items():
        ran = sorted((one for one in group if "refused" not in one), key=lambda one: one["milliseconds"])
        plain = [one for one in ran if one["kernel"] == "torch"]
        shown = [
            f"{one['side']}/{one['kernel']} {one['milliseconds']:.2f} ms {one['mebibytes']:.0f} MiB"
            + (f" ({one['backend']})" if "backend" in one else "")
            for one in [*ran[:3], *(one for one in plain if one not in ran[:3])]
        ]
        lines.append(f"{dtype}{', training' if train else ''}, {shape}: " + "; ".join(shown))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="small sizes, write nothing")
    parser.add_argument("--kit", action="store_true", help="only the kit's choice, beside what is known")
    parser.add_argument("--output", type=Path, default=FIGURES)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    known = json.loads(arguments.output.read_text())["entries"] if arguments.output.exists() else []
    entries = {tuple(entry[key] for key in KEYS): entry for entry in ([] if arguments.quick else known)}
    for entry in study(device, arguments.quick, [KIT] if arguments.kit else [*KERNELS, KIT]):
        entries[tuple(entry[key] for key in KEYS)] = entry
        if not arguments.quick:
            lines = ",\n".join(json.dumps(rounded(each)) for each in entries.values())
            arguments.output.write_text(f'{{"device": "{name_of(device)}", "entries": [\n{lines}\n]}}\n')
    print(best([*entries.values()]))


KEYS = ("shape", "side", "kernel", "dtype", "train")


def rounded(entry: dict[str, Any]) -> dict[str, Any]:
    """Four digits of each figure."""
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in entry.items()}


if __name__ == "__main__":
    main()
