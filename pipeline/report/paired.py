"""Compare runs or caches clip by clip: what means hide, and on which clips they differ most."""

import statistics
from dataclasses import dataclass

from .gallery import Item, Measure

CONFIDENCE = 1.96  # standard errors of the mean on either side: 95 %


@dataclass(frozen=True)
class Paired:
    """Differences second - first on the clips that both have, ascending."""

    first: str
    second: str
    what: str
    differences: list[float]
    measures: list[Measure]  # the difference, and its absolute value

    @property
    def distance(self) -> str:
        """The key of the absolute difference, to sort the clips by."""
        return self.measures[-1].key

    @property
    def mean(self) -> float:
        return statistics.mean(self.differences)

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % confidence interval of the mean; 0 for a single clip."""
        n = len(self.differences)
        return CONFIDENCE * statistics.stdev(self.differences) / n**0.5 if n > 1 else 0.0

    @property
    def better(self) -> int:
        """Clips on which the second has the higher value."""
        return sum(d > 0 for d in self.differences)

    @property
    def worse(self) -> int:
        return sum(d < 0 for d in self.differences)


def compare_clips(items: list[Item], kind: str, what: str, names: list[str]) -> list[Paired]:
    """Compare the first name with each other one by the items' values `kind:name`.

    The differences become values of the items. Pairs that share no clip are left out.
    """
    found = []
    for number, (first, second) in enumerate((names[0], name) for name in names[1:]):
        keys = f"{kind}:{first}", f"{kind}:{second}"
        pairs = [(item, item.values.get(keys[0]), item.values.get(keys[1])) for item in items]
        both = [(item, b - a) for item, a, b in pairs if a is not None and b is not None]
        if not both:
            continue
        signed = Measure(
            f"{kind}-difference-{number}", f"{what}: {second} minus {first}", f"{what} minus that of {first}", second
        )
        size = Measure(f"{kind}-distance-{number}", f"{what}: difference between {second} and {first}")
        for item, difference in both:
            item.values[signed.key], item.values[size.key] = difference, abs(difference)
        found.append(Paired(first, second, what, sorted(d for _, d in both), [signed, size]))
    return found
