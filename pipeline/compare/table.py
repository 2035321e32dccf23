"""The table of `combo compare`: mean and spread of M_J and M_F over seeds, as in papers."""

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.text import columns


@dataclass(frozen=True)
class Row:
    """The scores of one variant with one sound, as fractions, by seed; seeds without scores are left out."""

    variant: str
    sound: str
    M_J: dict[int, float]
    M_F: dict[int, float]


@dataclass(frozen=True)
class Table:
    """What was compared on what, and all scores. failed: runs that broke, with the reason."""

    dataset: str
    preset: str
    overrides: tuple[str, ...]
    split: str
    protocol: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    failed: dict[str, str]

    def __str__(self) -> str:
        blocks = ["\n".join(columns(block)) for block in self._blocks()]
        return "\n\n".join([self._head(), *blocks, *(f"{name} failed: {why}" for name, why in self.failed.items())])

    def markdown(self) -> str:
        """The same for documents."""
        blocks = ["\n".join(_markdown(block)) for block in self._blocks()]
        return "\n\n".join([self._head().replace("\n", "\n\n"), *blocks]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Plain values: per row mean, standard deviation (null for one seed), n, and the values by seed."""
        rows = [{**vars(row), "M_J": summary(row.M_J), "M_F": summary(row.M_F)} for row in self.rows]
        return {**vars(self), "rows": rows}

    def row(self, variant: str, sound: str = "right") -> Row:
        """KeyError when there is none."""
        for row in self.rows:
            if (row.variant, row.sound) == (variant, sound):
                return row
        raise KeyError(f"{variant}, {sound} sound")

    def _head(self) -> str:
        changed = f" with {', '.join(self.overrides)}" if self.overrides else ""
        return (
            f"{self.dataset}, {self.split} split, preset {self.preset}{changed}; {self.protocol}\n"
            "M_J and M_F in %: mean ± standard deviation over seeds (number of seeds)"
        )

    def _blocks(self) -> Iterator[list[tuple[str, ...]]]:
        """For each sound a heading and one line per variant."""
        for sound in dict.fromkeys(row.sound for row in self.rows):
            rows = [(r.variant, spread(r.M_J.values()), spread(r.M_F.values())) for r in self.rows if r.sound == sound]
            yield [(f"{sound} sound", "M_J", "M_F"), *rows]


def has_all_scores_of(table: Table, path: Path) -> bool:
    """Whether a table may replace the compare.json at `path`: no score that stands there would be lost."""
    try:
        stored = json.loads(path.read_text())
        before = {(r["variant"], r["sound"], int(seed)) for r in stored["rows"] for seed in r["M_J"]["by_seed"]}
    except (OSError, ValueError, KeyError, TypeError):
        return True  # none, or a damaged one
    return before <= {(row.variant, row.sound, seed) for row in table.rows for seed in row.M_J}


def spread(values: Iterable[float]) -> str:
    """`60.5 ± 1.2 (3)`: mean and sample standard deviation in %, and how many; `-` for no values."""
    values = [100 * value for value in values]
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} ({len(values)})"


def summary(by_seed: dict[int, float]) -> dict[str, Any]:
    """JSON values of one cell of the table, as fractions."""
    values = list(by_seed.values())
    return {
        "mean": statistics.mean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "n": len(values),
        "by_seed": {str(seed): value for seed, value in by_seed.items()},
    }


def _markdown(block: list[tuple[str, ...]]) -> list[str]:
    head, *rows = [f"| {' | '.join(row)} |" for row in block]
    return [head, "|---" * len(block[0]) + "|", *rows]
