"""The unit of scores: percent wherever they are printed or written, shares of 1 where they are computed."""

from collections.abc import Mapping
from typing import Any

PERCENT = "percent"  # stands beside scores in JSON as "unit"; files of older versions have shares of 1, and no unit
SCORES = ("M_J", "M_F")


def percent(share: float | None) -> float | None:
    """A score of 0..1 in percent."""
    return None if share is None else 100 * share


def in_percent(entry: Mapping[str, Any]) -> dict[str, Any]:
    """M_J and M_F of a JSON object in percent, whichever version wrote it."""
    if entry.get("unit") == PERCENT or not set(SCORES) & set(entry):
        return dict(entry)
    return {**entry, **{key: percent(entry[key]) for key in SCORES if key in entry}, "unit": PERCENT}
