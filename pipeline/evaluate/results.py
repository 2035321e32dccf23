"""RUN/results/: one JSON for each evaluation of a run, which reports and comparisons read instead of scoring anew.

RUN/results/<split>-<sound>-<protocol>-<weights>.json     weights: best, last, or the sha256 of another file
"""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...data.dataset import ClipDataset
from ...data.store.checksummed_json import digest
from ...data.store.store import Store
from ...errors import BadInput
from ...files import write_atomic
from ..common.choices import Sound
from ..runs.data import RunInfo
from ..runs.open import BEST, LAST, Weights
from .scores import ScoredClip, Scores


class About(BaseModel):
    """What was scored: weights, clips and caches, with what they are recognised by.

    weights, step, steps, finished, weights_sha256: as `Weights`. clips_left_out: those of the split that some store has
    quarantined. The fingerprints of the caches are of their shards of the split. untrained: caches of random weights.
    """

    model_config = ConfigDict(frozen=True)

    run: str
    weights: str
    step: int | None
    steps: int
    finished: bool
    weights_sha256: str
    converted_from: str | None
    split: str
    sound: str
    dataset: str
    clips_fingerprint: str
    clips_left_out: int
    proposals: str
    proposals_fingerprint: str
    audio: str
    audio_fingerprint: str
    untrained: tuple[str, ...]


class Result(About):
    """One evaluation: M_J and M_F in percent, what they are of, and the numbers of every clip.

    Other fields are counts of the protocol: frames, empty_frames, ...; for AVSS classes by name, and absent ones.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    M_J: float
    M_F: float
    unit: Literal["percent"]
    protocol: str  # its name and meaning
    clips: int
    per_clip: dict[str, ScoredClip]

    @classmethod
    def of(cls, scores: Scores, about: About) -> "Result":
        return cls(**scores.summary(), **about.model_dump(), per_clip=scores.per_clip)

    def summary(self) -> dict[str, Any]:
        """JSON without the numbers of the clips."""
        values = self.model_dump(mode="json", exclude={"per_clip"})
        first = {key: values.pop(key) for key in ("M_J", "M_F", "unit", "protocol")}
        return {**first, **{key: values.pop(key) for key in About.model_fields}, **values}

    @property
    def details(self) -> dict[str, Any]:
        """The counts of the protocol, and the classes, as those of `Scores`."""
        return {"clips": self.clips, **(self.model_extra or {})}


def describe(weights: Weights, info: RunInfo, dataset: ClipDataset, sound: Sound) -> About:
    """What an evaluation of these weights on this split is of."""
    caches = {dataset.proposals.name: dataset.proposals.provenance, dataset.audio.name: dataset.audio.provenance}
    return About(
        **_identity(weights, dataset, sound),
        run=str(weights.run.absolute()),
        steps=weights.steps,
        finished=weights.finished,
        weights_sha256=weights.sha256,
        converted_from=info.converted_from,
        clips_left_out=len(dataset.clips.table.rows(dataset.split)) - len(dataset),
        untrained=tuple(name for name, provenance in caches.items() if provenance.untrained),
    )


def _identity(weights: Weights, dataset: ClipDataset, sound: Sound) -> dict[str, Any]:
    """What a kept result is recognised by besides the sha256 of its weights, wherever run and data lie."""
    shards = dataset.clips.shards_of(dataset.split)
    return {
        "weights": weights.which,
        "step": weights.step,
        "split": dataset.split,
        "sound": sound,
        "dataset": dataset.clips.dataset,
        "clips_fingerprint": dataset.clips.fingerprint(),
        "proposals": dataset.proposals.name,
        "proposals_fingerprint": contents(dataset.proposals, shards),
        "audio": dataset.audio.name,
        "audio_fingerprint": contents(dataset.audio, shards),
    }


def contents(store: Store, shards: list[int]) -> str:
    """A hash of what some shards of a store hold."""
    receipts = store.receipts()
    return digest([receipts[shard].files for shard in shards])


def write_result(run: Path, result: Result, protocol: str) -> Path:
    """Keep a result, in place of an older one of the same name; an equal one stays as it is. Raises OSError."""
    weights = result.weights if result.weights in (BEST, LAST) else result.weights_sha256[:12]
    path = _path(run, result.split, result.sound, protocol, weights)
    values = {**result.summary(), "per_clip": result.model_dump(mode="json")["per_clip"]}
    del values["run"]  # it is where the file lies
    text = json.dumps(values) + "\n"
    if not path.exists() or path.read_bytes() != text.encode():
        write_atomic(path, text)
    return path


def find_result(weights: Weights, dataset: ClipDataset, sound: Sound, protocol: str) -> Result | None:
    """The kept result of these weights, best or last, on this split; None when there is none, or only one of others.

    Its steps and finished are those of the run now: it may have trained on since.
    Raises `BadInput` for a file that is damaged.
    """
    result = read_result(_path(weights.run, dataset.split, sound, protocol, weights.which))
    identity = _identity(weights, dataset, sound)
    if result is None or any(getattr(result, key) != value for key, value in identity.items()):
        return None
    if result.weights_sha256 != weights.sha256:  # last, since it reads the whole file
        return None
    return result.model_copy(update={"steps": weights.steps, "finished": weights.finished})


def _path(run: Path, split: str, sound: str, protocol: str, weights: str) -> Path:
    return run / "results" / f"{split}-{sound}-{protocol}-{weights}.json"


def read_result(path: Path) -> Result | None:
    """None when there is no such file. Raises `BadInput` for a damaged one."""
    try:
        return Result.model_validate({**json.loads(path.read_bytes()), "run": str(path.absolute().parents[1])})
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); remove what is in its place") from error
    except ValidationError as error:
        why = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()[:1])
    except (ValueError, TypeError) as error:
        why = str(error)
    raise BadInput(f"{path} is damaged ({why}); remove it, and evaluate again")
