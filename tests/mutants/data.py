"""Wrong edits of what reads, stores and changes clips."""

from .table import Mutant, edits

MUTANTS: list[Mutant] = [
    *edits(
        "data/augment.py",
        "tests/data/test_augment.py",
        (
            "the last crop offset is never drawn",
            "rng.integers(resized[0] - height + 1)",
            "rng.integers(max(1, resized[0] - height))",
        ),
    ),
]
