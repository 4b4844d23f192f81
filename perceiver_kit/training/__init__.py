"""Train any model for any objective, on Lightning's engine: the only place that knows Lightning."""

from ..errors import MissingPackage

try:
    import pytorch_lightning
except ImportError as error:
    raise MissingPackage("training needs Lightning: pip install 'perceiver-kit[train]'") from error

from .data import Data
from .fit import export, fit
from .module import Training
from .optimisation import checkpoint_layers, parameter_groups, rate_at

__all__ = ["Data", "Training", "checkpoint_layers", "export", "fit", "parameter_groups", "rate_at"]
