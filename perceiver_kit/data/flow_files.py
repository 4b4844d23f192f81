"""Files of optical flow: ``.flo`` of Middlebury and Sintel, 16-bit PNG of KITTI."""

from __future__ import annotations

import io
import struct
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from ..checking import describe_value, writing
from ..errors import InputError, MissingPackage
from .files import MAX_PIXELS

TAG = b"PIEH"
"""The float32 202021.25 of a little-endian file."""
UNKNOWN = 1e9
"""Values of ``.flo`` above this are unknown, as in Middlebury's code."""


class FlowFile(NamedTuple):
    """Flow (2, h, w) in pixels, x then y, zero where it is unknown; and where it is known (h, w)."""

    flow: Float[Tensor, "2 h w"]
    valid: Bool[Tensor, "h w"]


def read_flo(path: str | Path) -> FlowFile:
    """A ``.flo`` file: the tag, width and height as int32, then x and y of each pixel as float32, row by row.

    Raises InputError, naming the file, for another tag or byte order, and for a truncated or a longer file.

    Source: Baker et al. 2011, vision.middlebury.edu/flow/code/flow-code/README.txt.
    """
    content = _read(path)
    if content[:4] == TAG[::-1]:
        raise InputError(f"{path}: expected a little-endian .flo file, got a big-endian one; swap its bytes")
    if content[:4] != TAG or len(content) < 12:
        raise InputError(f"{path}: expected a .flo file, which starts with {TAG!r}, got {content[:4]!r}")
    width, height = struct.unpack("<ii", content[4:12])
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise InputError(f"{path}: expected at most {MAX_PIXELS:,} pixels, got {width} × {height}")
    if len(content) != 12 + 8 * width * height:
        expected = f"{12 + 8 * width * height:,} bytes for {width} × {height} pixels"
        raise InputError(f"{path}: expected {expected}, got {len(content):,}; the file is damaged")
    values = rearrange(
        np.frombuffer(content, "<f4", offset=12).astype(np.float32), "(h w xy) -> h w xy", h=height, xy=2
    )
    return _known(torch.from_numpy(values), torch.from_numpy((np.abs(values) < UNKNOWN).all(-1)))


def write_flo(path: str | Path, flow: Float[Tensor, "2 h w"], valid: Bool[Tensor, "h w"] | None = None) -> Path:
    """Write a ``.flo`` file; unknown flow, NaN or not ``valid``, is written as 1e10."""
    flow, valid = _checked(flow, valid)
    values = torch.where(valid, flow, 1e10)
    height, width = valid.shape
    content = TAG + struct.pack("<ii", width, height)
    return _write(path, content + rearrange(values, "xy h w -> h w xy").numpy().astype("<f4").tobytes())


def read_kitti_flow(path: str | Path) -> FlowFile:
    """KITTI's flow: a PNG file of 3 × 16 bits; red and green are 64 · flow + 2¹⁵, blue is 1 where flow is known.

    Raises InputError, naming the file, for any other file; MissingPackage without PyAV, which reads 16 bits a colour.

    Source: KITTI's development kit, readme.txt.
    """
    content = _read(path)
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(content) < 29:
        raise InputError(f"{path}: expected a .png file, got {content[:8]!r}")
    width, height, bits, colour = struct.unpack(">IIBB", content[16:26])
    if (bits, colour) != (16, 2):
        raise InputError(f"{path}: expected PNG of 3 × 16 bits, got colour type {colour} of {bits} bits")
    if min(width, height) < 1 or width * height > MAX_PIXELS:
        raise InputError(f"{path}: expected at most {MAX_PIXELS:,} pixels, got {width} × {height}")
    av = _av()
    try:
        with av.open(io.BytesIO(content), format="png_pipe") as file:
            frame = next(file.decode(video=0))
            values = frame.to_ndarray(format="rgb48le").astype(np.float32)
    except (av.error.FFmpegError, StopIteration, ValueError) as error:
        raise InputError(f"{path}: the file is damaged ({error or type(error).__name__})") from error
    colours = torch.from_numpy(values)
    return _known((colours[..., :2] - 2**15) / 64, colours[..., 2] > 0)


def write_kitti_flow(path: str | Path, flow: Float[Tensor, "2 h w"], valid: Bool[Tensor, "h w"] | None = None) -> Path:
    """Write KITTI's PNG; flow is rounded to 1/64 pixel. Raises InputError for flow of 512 pixels or more."""
    flow, valid = _checked(flow, valid)
    values = torch.where(valid, flow, 0)
    steps = (64 * values).round()
    if float(steps.abs().max()) >= 2**15:  # rounded: 16 bits end at 511.98
        raise InputError(f"flow must be less than 512 pixels for KITTI's files, got {float(values.abs().max()):g}")
    colours = torch.cat([steps + 2**15, rearrange(valid, "h w -> 1 h w").float()])
    colours = torch.where(valid, colours, 0)
    av = _av()
    frame = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(rearrange(colours, "c h w -> h w c").numpy().astype("<u2")), format="rgb48le"
    )
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height = frame.width, frame.height
    codec.pix_fmt, codec.time_base = "rgb48be", Fraction(1, 25)
    packets = [*codec.encode(frame.reformat(format="rgb48be")), *codec.encode(None)]
    return _write(path, b"".join(bytes(packet) for packet in packets))


def _known(flow: Float[Tensor, "h w 2"], valid: Bool[Tensor, "h w"]) -> FlowFile:
    return FlowFile(torch.where(valid, rearrange(flow, "h w xy -> xy h w"), 0.0), valid)


def _checked(flow: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    if not isinstance(flow, Tensor) or flow.ndim != 3 or flow.shape[0] != 2 or 0 in flow.shape:
        raise InputError(f"flow must be float (2, h, w), x then y, got {describe_value(flow)}")
    flow = flow.detach().cpu().float()
    known = flow.isfinite().all(0)
    if valid is not None:
        if not isinstance(valid, Tensor) or valid.dtype != torch.bool or valid.shape != known.shape:
            raise InputError(f"valid must be bool {tuple(known.shape)}, got {describe_value(valid)}")
        known = known & valid.cpu()
    return flow, known


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _write(path: str | Path, content: bytes) -> Path:
    with writing("write flow", path):
        Path(path).write_bytes(content)
    return Path(path)


def _av() -> ModuleType:
    try:
        import av
        import av.error
    except ImportError as error:
        raise MissingPackage("KITTI's 16-bit flow needs PyAV: pip install 'perceiver-kit[data]'") from error
    return av
