"""Freezing by stage."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from .errors import AssemblyError, UnknownName, nearest

STAGES = ("inputs", "encoder", "queries", "decoder", "outputs")

Model = TypeVar("Model", bound=nn.Module)


def freeze(model: Model, *stages: str) -> Model:
    """Keep the parameters of these stages as they are in training; returns the model.

    A stage is ``"inputs"``, ``"encoder"``, ``"queries"``, ``"decoder"`` or ``"outputs"``. Weights that several stages
    share, such as a tied embedding, are frozen with any of them.

    >>> model = freeze(build("masked_lm", preset="tiny"), "inputs", "encoder")
    >>> any(parameter.requires_grad for parameter in model.encoder.parameters())
    False
    """
    return _require_grad("freeze", model, stages, False)


def unfreeze(model: Model, *stages: str) -> Model:
    """Train the parameters of these stages again; returns the model. The stages are those of ``freeze``."""
    return _require_grad("unfreeze", model, stages, True)


def _require_grad(owner: str, model: Model, stages: tuple[str, ...], wanted: bool) -> Model:
    if not stages:
        raise AssemblyError(f"{owner}: expected at least one stage of {', '.join(STAGES)}, got none")
    check_stages(owner, model, stages)
    for stage in stages:
        getattr(model, stage).requires_grad_(wanted)
    return model


def check_stages(owner: str, model: nn.Module, stages: object) -> None:
    """Raise UnknownName for a stage that the model does not have."""
    own = [stage for stage in STAGES if isinstance(getattr(model, stage, None), nn.Module)]
    for stage in stages:  # type: ignore[attr-defined]
        if stage not in own:
            raise UnknownName(f"{owner}: the model has no stage {stage!r}; {nearest(stage, own)}")
