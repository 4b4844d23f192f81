"""Objectives: (outputs, targets) → loss and named metrics. Each recipe has one; weighted sums combine several."""

from .answer_span import AnswerSpan, best_span
from .base import Objective, Term, combine
from .classification import Classification
from .contrast import Contrast
from .detection import Detection
from .end_point_error import EndPointError
from .masked_tokens import MaskedTokens
from .multi_label import MultiLabel
from .next_tokens import NextTokens
from .quantile import Quantile
from .reconstruction import Reconstruction
from .regression import Regression
from .segmentation import Segmentation
from .tags import Tags, tag_spans
from .weighted import Weighted

__all__ = [
    "AnswerSpan",
    "Classification",
    "Contrast",
    "Detection",
    "EndPointError",
    "MaskedTokens",
    "MultiLabel",
    "NextTokens",
    "Objective",
    "Quantile",
    "Reconstruction",
    "Regression",
    "Segmentation",
    "Tags",
    "Term",
    "Weighted",
    "best_span",
    "combine",
    "tag_spans",
]
