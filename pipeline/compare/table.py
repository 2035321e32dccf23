"""The table of `combo compare`: mean and spread of M_J and M_F over seeds, as in papers, and differences by seed."""

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BadInput
from ..common.percent import PERCENT, SCORES
from ..common.statistics import PairedTest, mean_of, paired_by_seed
from ..common.text import columns
from .comparable import Subject, cautions


@dataclass(frozen=True)
class Row:
    """The scores of one variant with one sound, in percent, by seed; seeds without scores are left out."""

    variant: str
    sound: str
    M_J: dict[int, float]
    M_F: dict[int, float]


@dataclass(frozen=True)
class Table:
    """What was compared on what, and all scores. failed: runs that broke, with the reason.

    subjects: the runs behind the scores, with the right sound, for `cautions`.
    """

    dataset: str
    preset: str
    overrides: tuple[str, ...]
    split: str
    protocol: str
    seeds: tuple[int, ...]
    rows: tuple[Row, ...]
    failed: dict[str, str]
    subjects: tuple[Subject, ...] = ()

    def __str__(self) -> str:
        parts = ("\n".join([*columns(block), *notes]) for block, notes in self._blocks())
        return "\n\n".join(
            [self._head(), *parts, *self._cautions(), *(f"{name} failed: {why}" for name, why in self.failed.items())]
        )

    def markdown(self) -> str:
        """The same for documents."""
        parts = ("\n\n".join(["\n".join(_markdown(block)), *notes]) for block, notes in self._blocks())
        return "\n\n".join([self._head().replace("\n", "\n\n"), *parts, *self._cautions()]) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Plain values in percent: per row the `summary` of its scores, per variant its differences from the first."""
        found = [one.to_json() for one in differences(self.rows)]
        subjects = [subject.to_json() for subject in self.subjects]
        more = {"differences": found, "subjects": subjects, "cautions": cautions(self.subjects)}
        return {"unit": PERCENT, **vars(self), "rows": rows_json(self.rows), **more}

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

    def _cautions(self) -> list[str]:
        return [f"Caution, {why}" for why in cautions(self.subjects)]

    def _blocks(self) -> Iterator[tuple[list[tuple[str, ...]], list[str]]]:
        """For each sound the table with one line per variant, and the table of differences with what it leaves out."""
        for sound in dict.fromkeys(row.sound for row in self.rows):
            rows = [(r.variant, spread(r.M_J.values()), spread(r.M_F.values())) for r in self.rows if r.sound == sound]
            yield [(f"{sound} sound", "M_J", "M_F"), *rows], []
            if found := [one for one in differences(self.rows) if one.sound == sound]:
                lines = [(f"{one.variant} - {one.first}", paired(one.M_J), paired(one.M_F)) for one in found]
                head = (f"difference, {sound} sound", "M_J", "M_F")
                yield [head, *lines], [DIFFERENCES, *(note for one in found for note in one.notes())]


@dataclass(frozen=True)
class Difference:
    """The scores of a variant less those of the first, with one sound, in points, paired by seed."""

    variant: str
    first: str
    sound: str
    M_J: PairedTest
    M_F: PairedTest

    def notes(self) -> list[str]:
        """Which seeds are left out."""
        left_out = ", ".join(map(str, self.M_J.left_out))
        return [f"{self.variant} - {self.first}: without seeds that only one of them has: {left_out}"] * bool(left_out)

    def to_json(self) -> dict[str, Any]:
        """Plain values; interval and p are null for one seed."""
        scores = {
            key: {
                "mean": test.difference.mean,
                "interval": test.difference.interval,
                "p": test.p,
                "n": test.difference.n,
                "left_out_seeds": list(test.left_out),
            }
            for key, test in (("M_J", self.M_J), ("M_F", self.M_F))
        }
        return {"variant": self.variant, "first": self.first, "sound": self.sound, **scores}


DIFFERENCES = "points: mean [95 % interval, Student's t] p of a paired t-test (seeds that both have)"


def differences(rows: Sequence[Row]) -> list[Difference]:
    """Every variant less the first one with the same sound, in the order of the rows; those that share seeds."""
    first: dict[str, Row] = {}
    pairs = [(first.setdefault(row.sound, row), row) for row in rows]
    return [found for base, row in pairs if row is not base and (found := _difference(base, row)) is not None]


def rows_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """As in compare.json."""
    return [{**vars(row), "M_J": summary(row.M_J), "M_F": summary(row.M_F)} for row in rows]


def _difference(first: Row, second: Row) -> Difference | None:
    j, f = paired_by_seed(first.M_J, second.M_J), paired_by_seed(first.M_F, second.M_F)
    return None if j is None or f is None else Difference(second.variant, first.variant, second.sound, j, f)


def has_all_scores_of(table: Table, path: Path) -> bool:
    """Whether a table may replace the compare.json at `path`: no score that stands there would be lost."""
    try:
        stored = read_table(path)["rows"]
    except (OSError, BadInput):
        return True  # none, or a damaged one
    before = {(row["variant"], row["sound"], int(seed)) for row in stored for seed in row["M_J"]["by_seed"]}
    return before <= {(row.variant, row.sound, seed) for row in table.rows for seed in row.M_J}


def read_table(path: Path) -> dict[str, Any]:
    """What `Table.to_json` wrote, in percent also where an older version wrote fractions.

    Raises `FileNotFoundError`, and `BadInput` for a damaged file.
    """
    try:
        table = json.loads(path.read_text())
        factor = 1 if table.get("unit") == PERCENT else 100
        for row in table["rows"]:
            for score in SCORES:
                by_seed = {int(seed): factor * value for seed, value in row[score]["by_seed"].items()}
                row[score] = summary(by_seed)
        subjects = [Subject.of_json(values) for values in table.get("subjects", [])]
        return {"differences": [], "cautions": [], **table, "subjects": subjects}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is damaged ({error}); run 'combo compare' again to rewrite it") from error


def spread(values: Iterable[float]) -> str:
    """`60.5 ± 1.2 (3)`: mean and sample standard deviation, and how many; `-` for no values."""
    values = list(values)
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} ({len(values)})"


def paired(test: PairedTest) -> str:
    """`-15.9 [-21.1, -10.7] p 0.006 (3)`; without interval and p for one seed."""
    found = test.difference
    interval = "" if found.interval is None else f" [{found.interval[0]:+.1f}, {found.interval[1]:+.1f}]"
    p = "" if test.p is None else " p < 0.001" if test.p < 0.001 else f" p {test.p:.3f}"
    return f"{found.mean:+.1f}{interval}{p} ({found.n})"


def summary(by_seed: dict[int, float]) -> dict[str, Any]:
    """JSON values of one cell of the table, in percent; interval: Student's t at 95 %, null for one seed."""
    values = list(by_seed.values())
    return {
        "mean": statistics.mean(values) if values else None,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "interval": mean_of(values).interval if values else None,
        "n": len(values),
        "by_seed": {str(seed): value for seed, value in by_seed.items()},
    }


def _markdown(block: list[tuple[str, ...]]) -> list[str]:
    head, *rows = [f"| {' | '.join(row)} |" for row in block]
    return [head, "|---" * len(block[0]) + "|", *rows]
