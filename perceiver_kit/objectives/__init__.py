"""Objectives: (outputs, targets) → loss and named metrics. Each recipe has one; weighted sums combine several."""

from .base import Objective, Term, combine
from .classification import Classification
from .end_point_error import EndPointError
from .masked_tokens import MaskedTokens
from .multi_label import MultiLabel
from .next_tokens import NextTokens
from .reconstruction import Reconstruction
from .regression import Regression
from .weighted import Weighted

__all__ = [
    "Classification",
    "EndPointError",
    "MaskedTokens",
    "MultiLabel",
    "NextTokens",
    "Objective",
    "Reconstruction",
    "Regression",
    "Term",
    "Weighted",
    "combine",
]
