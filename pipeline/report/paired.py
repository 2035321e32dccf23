"""Compare runs or caches clip by clip: what means hide, and on which clips they differ most."""

from dataclasses import dataclass
from functools import cached_property

from ..common.statistics import Mean, mean_of_clips
from .gallery import Gallery, Item, Measure


@dataclass(frozen=True)
class Paired:
    """Differences second - first on the clips that both have, ascending."""

    first: str
    second: str
    what: str
    differences: list[float]
    measures: list[Measure]  # the difference, and its absolute value

    @cached_property
    def mean(self) -> Mean:
        """Of the differences over clips, with its 95 % interval."""
        return mean_of_clips(self.differences)

    @property
    def better(self) -> int:
        """Clips on which the second has the higher value."""
        return sum(d > 0 for d in self.differences)

    @property
    def worse(self) -> int:
        return sum(d < 0 for d in self.differences)


def compare_clips(gallery: Gallery, kinds: dict[str, str], names: list[str], opening: str) -> list[Paired]:
    """Add the measures `kind:name` that items have, sort by the kind `opening`, and compare the names in it.

    kinds: labels by kind. Every name is compared with the first; pairs that share no clip are left out.
    """
    present = {key for item in gallery.items for key in item.values}
    every = [Measure(f"{k}:{name}", f"{what}, {name}", what, name) for k, what in kinds.items() for name in names]
    gallery.measures.extend(m for m in every if m.key in present)
    gallery.sort = next((m.key for m in gallery.measures if m.key.startswith(f"{opening}:")), "")
    pairs = [_compare(gallery.items, n, opening, kinds[opening], names[0], name) for n, name in enumerate(names[1:])]
    found = [pair for pair in pairs if pair is not None]
    gallery.measures.extend(m for pair in found for m in pair.measures)
    return found


def _compare(items: list[Item], number: int, kind: str, what: str, first: str, second: str) -> Paired | None:
    """The differences become values of the items."""
    pairs = [(item, item.values.get(f"{kind}:{first}"), item.values.get(f"{kind}:{second}")) for item in items]
    both = [(item, b - a) for item, a, b in pairs if a is not None and b is not None]
    if not both:
        return None
    minus = f"{what} minus that of {first}"
    signed = Measure(f"{kind}-difference-{number}", f"{what}: {second} minus {first}", minus, second)
    size = Measure(f"{kind}-distance-{number}", f"{what}: difference between {second} and {first}")
    for item, difference in both:
        item.values[signed.key], item.values[size.key] = difference, abs(difference)
    return Paired(first, second, what, sorted(d for _, d in both), [signed, size])
