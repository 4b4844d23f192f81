"""The processors that ``preprocessor_config.json`` and ``tokenizer_config.json`` of a checkpoint mean.

Without these files they are those of the published checkpoints. Settings that the kit does not know do not keep a
model from loading: reading a source then says what is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, PerceiverKitError
from ..hub.files import read_json
from .base import Processor, Unsupported
from .classes import Classes
from .readers import IMAGENET, Picture
from .recipes import decode_clip
from .texts import FilledText, Text

PREPROCESSOR, TOKENIZER = "preprocessor_config.json", "tokenizer_config.json"


def classify_picture(directory: Path, parameters: Mapping[str, Any]) -> Processor:
    """The processor of an image classifier: centre crop, bicubic resize, scale, normalize."""
    path = directory / PREPROCESSOR
    try:
        reader = _picture(read_json(path)) if path.exists() else Picture(**IMAGENET)
    except (PerceiverKitError, TypeError, LookupError, AttributeError, ZeroDivisionError) as error:
        reader = Unsupported(f"{path} is not supported ({error})")
    return Processor({"image": reader}, Classes())


def classify_text(directory: Path, parameters: Mapping[str, Any]) -> Processor:
    """The processor of a text classifier."""
    return Processor({"text": _text(directory, parameters)}, Classes())


def fill_text(directory: Path, parameters: Mapping[str, Any]) -> Processor:
    """The processor of a masked language model."""
    return Processor({"text": _text(directory, parameters)}, FilledText())


def decode_clip_unsigned(directory: Path, parameters: Mapping[str, Any]) -> Processor:
    """The processor of the published autoencoder, whose pixels are in [0, 1]."""
    names = ("num_frames", "image_size", "audio_samples")
    processor = decode_clip(**{name: parameters[name] for name in names})
    reader: Any = processor.reader
    return replace(processor, readers={"clip": replace(reader, signed=False)})


def _picture(settings: Mapping[str, Any]) -> Picture:
    if not settings.get("do_resize", True) or not settings.get("do_rescale", True):
        raise CheckpointError("do_resize and do_rescale must be true")
    if settings.get("resample", 3) != 3 or abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise CheckpointError("resample must be 3 (bicubic) and rescale_factor 1/255")
    size = _pair(settings.get("size", 224))
    crop = None
    if settings.get("do_center_crop", True):
        whole = _pair(settings.get("crop_size", 256))
        crop = size[0] / whole[0]
        if size[0] != size[1] or whole[0] != whole[1] or crop > 1:
            raise CheckpointError(f"size {size} and crop_size {whole} must be square, and crop_size at least size")
    if not settings.get("do_normalize", True):
        return Picture(size, crop, (0.0,) * 3, (1.0,) * 3)
    mean, std = (settings.get(key, default) for key, default in (("image_mean", None), ("image_std", None)))
    return Picture(size, crop, _three(mean or IMAGENET["mean"]), _three(std or IMAGENET["std"]))


def _pair(size: Any) -> tuple[int, int]:
    """A size of one int, or a mapping of height and width."""
    return (size["height"], size["width"]) if isinstance(size, Mapping) else (size, size)


def _three(value: Any) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,) * 3


def _text(directory: Path, parameters: Mapping[str, Any]) -> Text | Unsupported:
    path, longest = directory / TOKENIZER, parameters["max_length"]
    try:
        settings = read_json(path) if path.exists() else {}
        kind = settings.get("tokenizer_class", "PerceiverTokenizer")
        if kind != "PerceiverTokenizer":
            raise CheckpointError(f"tokenizer_class must be PerceiverTokenizer, which reads bytes, got {kind!r}")
        limit = settings.get("model_max_length") or longest  # transformers writes 1e30 for no limit
        if not isinstance(limit, int | float):
            raise CheckpointError(f"model_max_length must be a number, got {limit!r}")
        return Text(int(min(limit, longest)))
    except (PerceiverKitError, TypeError, ValueError) as error:
        return Unsupported(f"{path} is not supported ({error})")
