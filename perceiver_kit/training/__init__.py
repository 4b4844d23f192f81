"""Train any model for any objective with Lightning; no other package imports it."""

from importlib.util import find_spec

from ..errors import MissingPackage

if find_spec("pytorch_lightning") is None or find_spec("torchmetrics") is None:
    raise MissingPackage("training needs Lightning and torchmetrics: pip install 'perceiver-kit[train]'")

from .data import Data
from .fit import export, fit, load_sharded
from .module import Training
from .optimisation import checkpoint_layers, parameter_groups, rate_at
from .recipe import train_recipe

__all__ = [
    "Data",
    "Training",
    "checkpoint_layers",
    "export",
    "fit",
    "load_sharded",
    "parameter_groups",
    "rate_at",
    "train_recipe",
]
