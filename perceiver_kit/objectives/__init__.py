"""Objectives: (outputs, targets) → loss and named metrics. Each recipe has one; weighted sums combine several."""

from .base import Objective, Term, combine
from .classification import Classification
from .end_point_error import EndPointError
from .masked_tokens import MaskedTokens
from .multi_label import MultiLabel
from .reconstruction import Reconstruction
from .regression import Regression
from .several import FOR_RECIPE as FOR_RECIPE
from .several import Weighted, multimodal_reconstruction, objective_for

__all__ = [
    "Classification",
    "EndPointError",
    "MaskedTokens",
    "MultiLabel",
    "Objective",
    "Reconstruction",
    "Regression",
    "Term",
    "Weighted",
    "combine",
    "multimodal_reconstruction",
    "objective_for",
]
