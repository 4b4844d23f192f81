"""What a model is trained for: (outputs, targets) → loss and named metrics; one a recipe, and sums of any."""

from .base import Objective, Term, combine
from .several import FOR_RECIPE as FOR_RECIPE
from .several import Weighted, multimodal_reconstruction, objective_for
from .single import Classification, EndPointError, MaskedTokens, MultiLabel, Reconstruction, Regression

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
