"""Write videos and sound files."""

from __future__ import annotations

import io
import wave
from fractions import Fraction

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from ..checks import check_positive, check_tensor
from ..errors import MissingPackage


def video_bytes(
    frames: Float[Tensor, "t 3 h w"],
    *,
    fps: float = 25.0,
    audio: Float[Tensor, "samples"] | None = None,
    rate: int = 48_000,
    enlarge: int = 1,
) -> bytes:
    """An MP4 file of frames in [0, 1] with mono sound in [-1, 1]; other values are clamped.

    ``enlarge`` repeats each pixel that many times along both sides. Odd sides lose a pixel: H.264 has even ones.

    Raises InputError for other shapes, MissingPackage without PyAV.

    >>> video_bytes(torch.rand(4, 3, 32, 32), audio=torch.zeros(7680))[4:8]
    b'ftyp'
    """
    try:
        import av
    except ImportError:
        raise MissingPackage("writing video needs PyAV: pip install av") from None
    check_tensor(frames, "frames", "t 3 h w")
    check_positive("video_bytes", rate=rate, enlarge=enlarge)
    pixels = (frames.detach().cpu().float().nan_to_num().clamp(0, 1) * 255).round().byte()
    pixels = repeat(pixels, "t c h w -> t (h y) (w x) c", y=enlarge, x=enlarge).numpy()
    height, width = (side - side % 2 for side in pixels.shape[1:3])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "18"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        sound = None if audio is None else container.add_stream("aac", rate=rate, layout="mono")
        for picture in pixels:
            kept = np.ascontiguousarray(picture[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(kept, format="rgb24")))
        container.mux(stream.encode())
        if sound is not None and audio is not None:
            wave_ = rearrange(_clamped(audio), "samples -> 1 samples").numpy()
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave_), format="fltp", layout="mono")
            frame.rate = rate
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
    return buffer.getvalue()


def sound_bytes(audio: Float[Tensor, "samples"], *, rate: int = 48_000) -> bytes:
    """A WAV file of mono sound in [-1, 1], 16 bits; other values are clamped.

    Raises InputError for another shape.

    >>> sound_bytes(torch.zeros(100))[:4]
    b'RIFF'
    """
    check_tensor(audio, "audio", "samples")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((_clamped(audio) * 32767).round().short().numpy().astype("<i2").tobytes())
    return buffer.getvalue()


def _clamped(audio: Tensor) -> Tensor:
    return audio.detach().cpu().float().nan_to_num().clamp(-1, 1)
