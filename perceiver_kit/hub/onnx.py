"""A model as an ONNX file, its inputs and outputs named after their modalities."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checking import writing
from ..errors import AssemblyError, MissingPackage
from ..model import PerceiverIO, RawInputs
from ..request import QueryMask, QueryTensors


def to_onnx(
    model: PerceiverIO,
    file: str | os.PathLike,
    inputs: RawInputs,
    *,
    mask: RawInputs | None = None,
    query_mask: QueryMask | None = None,
    queries: QueryTensors | None = None,
    dynamic_shapes: Any = None,
) -> Path:
    """Write a model as ONNX, for inputs like these; ``dynamic_shapes`` are those of ``torch.export.export``.

    Inputs are named ``inputs_image``, ``mask_image``, ``query_mask_image`` and ``queries_image``, outputs
    ``outputs_image``, each in alphabetical order. A file that is written without a mask takes none, and likewise for
    the other arguments of ``model``.

    Raises AssemblyError for a model in training mode, MissingPackage without onnx and onnxscript.

    >>> import tempfile, onnxruntime
    >>> model = build("masked_lm", preset="tiny").eval()
    >>> file = to_onnx(model, tempfile.mktemp(), torch.zeros(1, 9, dtype=torch.int64))
    >>> session = onnxruntime.InferenceSession(file)
    >>> [node.name for node in (*session.get_inputs(), *session.get_outputs())]
    ['inputs_text', 'outputs_text']
    """
    if model.training:
        raise AssemblyError("to_onnx: model must be in evaluation mode, got training mode; call model.eval()")
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingPackage("to_onnx needs onnx and onnxscript: pip install onnx onnxscript") from error
    given = {"inputs": inputs, "mask": mask, "query_mask": query_mask, "queries": queries}
    keywords: Any = {name: _sorted(model, tensors) for name, tensors in given.items() if tensors is not None}
    names = [f"{argument}_{name}" for argument, tensors in keywords.items() for name in tensors]
    outputs = [] if model.outputs is None else [f"outputs_{name}" for name in model.outputs.blocks]
    positional = (keywords.pop("inputs"),)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.onnx and onnxscript call what torch deprecates
        program = torch.export.export(model, positional, keywords, dynamic_shapes=dynamic_shapes)
        onnx_program = torch.onnx.export(program, dynamo=True, verbose=False, input_names=names, output_names=outputs)
    assert onnx_program is not None
    path = Path(file)
    with writing("to_onnx", path):
        onnx_program.save(path)
    return path


def _sorted(model: PerceiverIO, tensors: RawInputs) -> dict[str, Tensor]:
    if not isinstance(tensors, Mapping):
        tensors = {next(iter(model.inputs.blocks)): tensors}
    return {name: tensors[name] for name in sorted(tensors)}
