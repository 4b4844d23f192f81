"""Objectives: (outputs, targets) → loss and named metrics. Each recipe has one; weighted sums combine several."""

from .base import Objective, Term, combine
from .classification import Classification
from .detection import Detection
from .end_point_error import EndPointError
from .masked_reconstruction import MaskedReconstruction
from .masked_tokens import MaskedTokens
from .multi_label import MultiLabel
from .next_tokens import NextTokens
from .quantile import Quantile
from .reconstruction import Reconstruction
from .regression import Regression
from .segmentation import Segmentation
from .weighted import Weighted

__all__ = [
    "Classification",
    "Detection",
    "EndPointError",
    "MaskedReconstruction",
    "MaskedTokens",
    "MultiLabel",
    "NextTokens",
    "Objective",
    "Quantile",
    "Reconstruction",
    "Regression",
    "Segmentation",
    "Term",
    "Weighted",
    "combine",
]
