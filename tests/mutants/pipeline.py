"""Wrong edits of training, evaluation and all that is around them."""

from .table import Mutant

MUTANTS: list[Mutant] = []
