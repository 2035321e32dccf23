"""What a run is trained on: a clip store and two caches, and how they are recognised later."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ...data.dataset import ClipDataset
from ...data.store.attributes import Provenance
from ...data.store.location import Location, absolute
from ...data.store.root import open_cache
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput

ALLOWED = {  # names for `allow`, and what each lets differ
    "clips": ("dataset", "size", "clips_fingerprint"),
    "proposals": ("proposals", "proposals_maker"),
    "audio": ("audio", "audio_maker"),
}


@dataclass(frozen=True)
class DataNames:
    """What to train on: a cache root, and the names of two of its caches."""

    root: str | Location
    proposals: str
    audio: str


@dataclass(frozen=True)
class RunInfo:
    """What a run was trained on. Caches are named in full."""

    root: str
    dataset: str
    classes: tuple[str, ...]
    size: tuple[int, int]  # (H, W) of the frames
    clips_fingerprint: str
    proposals: str
    proposals_provenance: Annotated[Provenance, Field(alias="proposals_maker")]
    audio: str
    audio_provenance: Annotated[Provenance, Field(alias="audio_maker")]
    converted_from: str | None = None  # sha256 of a published checkpoint, if the weights were not trained here

    @classmethod
    def of_json(cls, values: Any) -> "RunInfo":
        """The inverse of `to_json`. Raises `ValueError` that names every key that is missing or wrong."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'all of it'}: {e['msg']}" for e in error.errors()]
            raise ValueError("; ".join(problems)) from None

    def to_json(self) -> dict[str, Any]:
        """As in run.json: JSON values."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            plain = value.to_json() if isinstance(value, Provenance) else value
            values[name.replace("provenance", "maker")] = list(plain) if isinstance(plain, tuple) else plain
        return values


@dataclass(frozen=True)
class RunData:
    """The clip store and the caches that a run reads."""

    clips: ClipStore
    proposals: Cache
    audio: Cache

    def dataset(self, split: str) -> ClipDataset:
        """The usable clips of one split."""
        return ClipDataset(self.clips, self.proposals, self.audio, split)

    def info(self) -> RunInfo:
        """How these data are recognised later. Raises `BadInput` when the clips are not all imported."""
        return RunInfo(
            absolute(self.clips.path.parent),
            self.clips.dataset,
            self.clips.classes,
            self.clips.size,
            self.clips.fingerprint(),
            self.proposals.name,
            self.proposals.provenance,
            self.audio.name,
            self.audio.provenance,
        )


def open_data(names: DataNames | RunInfo) -> RunData:
    """Open the clips and caches to train on, or those that a run was trained on.

    Raises `BadInput` as `open_cache`, and when the clips have changed since the run was trained.
    """
    clips = ClipStore(names.root)
    if isinstance(names, RunInfo) and clips.fingerprint() != names.clips_fingerprint:
        raise BadInput(f"{clips.path} has changed since the run was trained; bring back the clips it was trained on")
    caches = open_cache(clips, "proposals", names.proposals), open_cache(clips, "audio", names.audio)
    return RunData(clips, *caches)


def check_same_data(where: Path, old: RunInfo, new: RunInfo, allow: Collection[str]) -> None:
    """Raise `BadInput` when clips or caches are not those that `old` says, unless `allow` names them."""
    may_differ = {"root", *(key for name in allow for key in ALLOWED[name])}
    before, now = old.to_json(), new.to_json()
    differing = [key for key in now if now[key] != before[key] and key not in may_differ]
    if differing:
        names = [name for name, keys in ALLOWED.items() if set(keys) & set(differing)]
        problems = [f"{key} was {before[key]!r}, is {now[key]!r}" for key in differing if not key.endswith("_maker")]
        advice = "Name the old ones, or another folder"
        advice += f"; to continue with the new ones all the same, allow {', '.join(names)} by name" if names else ""
        raise BadInput.listing(f"{where} was trained on other data:", problems, advice)
