"""Whether numbers may stand side by side: what each was trained and scored on, and sentences where they part."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..common.choices import Sound
from ..config.tree import Config
from ..runs.checkpoints import newest_step
from ..runs.data import RunData
from ..runs.folder import read_best

MOST_NAMES = 4  # of clips in one sentence


@dataclass(frozen=True)
class DataFacts:
    """What a run reads. data: the clips, by set and fingerprint. size: H, W.

    untrained: its caches that were made with random weights. not_scored, not_trained_on: ids of the clips of its splits
    that are left out.
    """

    data: str
    size: tuple[int, int]
    untrained: tuple[str, ...]
    not_scored: tuple[str, ...]
    not_trained_on: tuple[str, ...]


@dataclass(frozen=True)
class Scoring:
    """What runs are scored on, and how. protocol: its name, see `find_protocol`."""

    split: str
    sound: Sound
    protocol: str


@dataclass(frozen=True)
class Subject:
    """One run and its number, as far as that decides what it may be compared with.

    name: that of its variant, which several seeds share. step: that it stands at, of `steps` in all; None: its weights
    come from elsewhere. weights: "best" on val, "last", or a file.
    """

    name: str
    step: int | None
    steps: int
    weights: str
    scoring: Scoring
    facts: DataFacts

    @classmethod
    def of_json(cls, values: Any) -> "Subject":
        """The inverse of `to_json`. Raises ValueError."""
        return TypeAdapter(cls).validate_python(values)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def data_facts(data: RunData, split: str) -> DataFacts:
    """split: that is scored. Raises `BadInput` when the clips are not all imported."""
    clips, caches = data.clips, (data.proposals, data.audio)

    def left_out(split: str) -> tuple[str, ...]:
        usable = set(clips.usable_rows(split, *caches).tolist())
        return tuple(clips.table[row].id for row in clips.table.rows(split).tolist() if row not in usable)

    return DataFacts(
        f"{clips.dataset} {clips.fingerprint()[:12]}",
        clips.size,
        tuple(cache.name for cache in caches if cache.provenance.untrained),
        left_out(split),
        left_out("train"),
    )


def describe(name: str, folder: Path, config: Config, scoring: Scoring, facts: DataFacts) -> Subject:
    """A run as it stands. Raises `BadInput` when its best weights are damaged."""
    best = read_best(folder)
    step = max(newest_step(folder), 0 if best is None else best["step"])
    return Subject(name, step or None, config.train.steps, "last" if best is None else "best", scoring, facts)


# What must be equal, in words, and where it stands.
_EQUAL: dict[str, Callable[[Subject], str]] = {
    "trained for different numbers of steps": lambda s: "not trained here" if s.step is None else str(s.step),
    "trained and scored on different data": lambda s: s.facts.data,
    "frames of different sizes": lambda s: "{} x {}".format(*s.facts.size),
    "trained on different clips": lambda s: _without(s.facts.not_trained_on),
    "scored on different clips": lambda s: _without(s.facts.not_scored),
    "scored on different splits": lambda s: s.scoring.split,
    "scored with different sounds": lambda s: s.scoring.sound,
    "scored by different protocols": lambda s: s.scoring.protocol,
    "scored with different weights": lambda s: s.weights,
}


def cautions(subjects: Sequence[Subject]) -> list[str]:
    """Why the numbers of these runs are not comparable, a sentence for each reason; none if they are.

    Also names runs that are not finished, and caches that an untrained model made, where it stands alone.
    """
    found = []
    for what, value in _EQUAL.items():
        if len(names := _names(subjects, value)) > 1:
            found.append(f"{what}: {'; '.join(f'{key} ({of})' for key, of in names.items())}")
    unfinished = [s for s in subjects if s.step is not None and s.step < s.steps]
    for text, of in _names(unfinished, lambda s: f"at step {s.step} of {s.steps}").items():
        found.append(f"training is not finished: {text} ({of})")
    untrained = [s for s in subjects if s.facts.untrained]
    for text, of in _names(untrained, lambda s: ", ".join(s.facts.untrained)).items():
        found.append(f"cache of an untrained model: {text} ({of})")
    return found


def _names(subjects: Sequence[Subject], value: Callable[[Subject], str]) -> dict[str, str]:
    """For each value the names of those that have it."""
    names: dict[str, list[str]] = {}
    for subject in subjects:
        names.setdefault(value(subject), []).append(subject.name)
    return {key: ", ".join(dict.fromkeys(of)) for key, of in names.items()}


def _without(ids: tuple[str, ...]) -> str:
    """Which clips are left out, in words."""
    more = f" and {len(ids) - MOST_NAMES} more" if len(ids) > MOST_NAMES else ""
    return f"without {', '.join(sorted(ids)[:MOST_NAMES])}{more}" if ids else "all"
