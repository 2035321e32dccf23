"""Wrong edits of the networks, the losses and the frozen models."""

from .table import Mutant, edits

MUTANTS: list[Mutant] = [
    *edits(
        "model/inference.py",
        "tests/model/test_inference.py",
        (
            "foreground score as a difference of logarithms",
            "return scores_BKHW[:, 1] - scores_BKHW[:, 0]",
            "return scores_BKHW[:, 1].log() - scores_BKHW[:, 0].log()",
        ),
    ),
]
