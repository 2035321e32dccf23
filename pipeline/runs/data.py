"""What a run is trained on: a clip store and two caches, and how they are recognised later."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from ...data.dataset import ClipDataset
from ...data.store.attributes import Provenance
from ...data.store.location import Location, absolute, location
from ...data.store.root import open_cache
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput, did_you_mean

ALLOWED = {  # names for `allow`, and what each lets differ
    "clips": ("dataset", "size", "clips_fingerprint"),
    "proposals": ("proposals", "proposals_maker"),
    "audio": ("audio", "audio_maker"),
    "left-out": ("left_out",),
}
SHOWN_CLIPS = 20  # by name, in a message


@dataclass(frozen=True)
class DataNames:
    """What to train on: a cache root, and the names of two of its caches."""

    root: str | Location
    proposals: str
    audio: str


@dataclass(frozen=True)
class RunInfo:
    """What a run was trained on. Caches are named in full."""

    root: str  # where the clips and caches are; in run.json as seen from the run folder, if both are on this machine
    dataset: str
    classes: tuple[str, ...]
    size: tuple[int, int]  # (H, W) of the frames
    clips_fingerprint: str
    proposals: str
    proposals_provenance: Annotated[Provenance, Field(alias="proposals_maker")]
    audio: str
    audio_provenance: Annotated[Provenance, Field(alias="audio_maker")]
    converted_from: str | None = None  # sha256 of a published checkpoint, if the weights were not trained here
    left_out: tuple[str, ...] | None = None  # ids of train and val that were not usable; None: not trained, or older
    absolute_root: str | None = None  # where the root was when the run was written; the second place to look

    @property
    def roots(self) -> tuple[str, ...]:
        """Where the clips and caches may be, the likelier place first."""
        return tuple(dict.fromkeys(root for root in (self.root, self.absolute_root) if root is not None))

    @classmethod
    def of_json(cls, values: Any) -> "RunInfo":
        """The inverse of `to_json`. Raises `ValueError` that names every key that is missing or wrong."""
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'all of it'}: {e['msg']}" for e in error.errors()]
            raise ValueError("; ".join(problems)) from None

    def to_json(self) -> dict[str, Any]:
        """JSON values, as in run.json. What came to it later is left out where it is not known."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name in ("left_out", "absolute_root") and value is None:
                continue
            plain = value.to_json() if isinstance(value, Provenance) else value
            values[name.replace("provenance", "maker")] = list(plain) if isinstance(plain, tuple) else plain
        return values

    def seen_from(self, folder: Path) -> "RunInfo":
        """With the root as seen from a run folder, so that both can move together; as it is if it is behind a URL."""
        root = location(self.root)
        if not isinstance(root, Path):
            return self
        relative = os.path.relpath(root.absolute(), folder.absolute())
        if os.path.realpath(folder / relative) != os.path.realpath(root):  # a link leads to the folder
            relative = os.path.relpath(root.resolve(), folder.resolve())
        return replace(self, root=relative, absolute_root=absolute(root))

    def moved(self, root: str | Location) -> "RunInfo":
        """With clips and caches in another place, and there alone."""
        return replace(self, root=absolute(location(root)), absolute_root=None)

    def found_from(self, folder: Path) -> "RunInfo":
        """The inverse of `seen_from`, wherever the folder is now. Older runs hold an absolute root."""
        if isinstance(location(self.root), Path) and not os.path.isabs(self.root):
            return replace(self, root=os.path.normpath(folder.resolve() / self.root))
        return self


@dataclass(frozen=True)
class RunData:
    """The clip store and the caches that a run reads."""

    clips: ClipStore
    proposals: Cache
    audio: Cache

    def dataset(self, split: str) -> ClipDataset:
        """The usable clips of one split."""
        return ClipDataset(self.clips, self.proposals, self.audio, split)

    def learned_splits(self) -> list[str]:
        """Those of train and val that the set has: what training reads."""
        return [split for split in ("train", "val") if split in self.clips.table.splits()]

    def covers(self, split: str) -> bool:
        """Whether all shards of a split are there, of the clips and of both caches."""
        stores = (self.clips, self.proposals, self.audio)
        return all(store.receipts().keys() >= set(self.clips.shards_of(split)) for store in stores)

    def left_out(self, splits: Iterable[str] | None = None) -> tuple[str, ...]:
        """Ids of the clips that cannot be used: quarantined in the clips or in one of the caches.

        splits: None: those of `learned_splits`. Raises `BadInput` for one that a cache does not cover.
        """
        splits = self.learned_splits() if splits is None else splits
        return tuple(sorted(clip for split in splits for clip in self.dataset(split).left_out))

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

    Raises `BadInput` as `open_cache`. For a run it says of each place why they are not there: gone, or changed since.
    """
    if isinstance(names, DataNames):
        clips = ClipStore(names.root)
        caches = open_cache(clips, "proposals", names.proposals), open_cache(clips, "audio", names.audio)
        return RunData(clips, *caches)
    problems = []
    for place in names.roots:
        try:
            data = open_data(DataNames(place, names.proposals, names.audio))
        except BadInput as error:
            problems.append(str(error))
        else:
            if data.clips.fingerprint() == names.clips_fingerprint:
                return data
            problems.append(f"{data.clips.path} holds other clips than those that the run was trained on")
    advice = "Bring them back, or name the cache root that holds them with --root ROOT"
    raise BadInput.listing("clips and caches of the run are not there:", problems, advice)


def check_same_data(where: Path, old: RunInfo, new: RunInfo, allow: Collection[str]) -> None:
    """Raise `BadInput` when clips or caches are not those that `old` says, unless `allow` names them.

    Older runs do not say which clips were left out: any are accepted.
    """
    if unknown := sorted(set(allow) - ALLOWED.keys()):
        raise BadInput(f"--allow-other {unknown[0]}: there are {', '.join(ALLOWED)}{did_you_mean(unknown[0], ALLOWED)}")
    may_differ = {"root", "absolute_root", *(key for name in allow for key in ALLOWED[name])}
    may_differ |= {"left_out"} if old.left_out is None else set()
    before, now = old.to_json(), new.to_json()
    differing = [key for key in now.keys() | before.keys() if now.get(key) != before.get(key) and key not in may_differ]
    if differing:
        names = [name for name, keys in ALLOWED.items() if set(keys) & set(differing)]
        shown = sorted(key for key in differing if key != "left_out" and not key.endswith("_maker"))
        problems = [f"{key} was {before.get(key)!r}, is {now.get(key)!r}" for key in shown]
        if "left_out" in differing:
            problems += changed_clips(*_differences(old.left_out or (), new.left_out or ()))
        advice = "Name the old ones, or another folder"
        allowing = " ".join(f"--allow-other {name}" for name in names)
        advice += f"; to train on with the new ones, allow {', '.join(names)} by name: {allowing}" if names else ""
        raise BadInput.listing(f"{where} was trained on other data:", problems, advice)


def came_and_went(info: RunInfo, data: RunData) -> tuple[list[str], list[str]]:
    """Ids of the clips that the run left out and that can be used now, and of those that were used and cannot be now.

    Of the splits that are there: a root may hold the scored one alone. Both are empty for runs without a record:
    converted ones, and those of older versions.
    """
    if info.left_out is None:
        return [], []
    splits = [split for split in data.learned_splits() if data.covers(split)]
    table = data.clips.table
    there = {table[int(row)].id for split in splits for row in table.rows(split)}
    return _differences(there.intersection(info.left_out), data.left_out(splits))


def changed_clips(came: list[str], went: list[str]) -> list[str]:
    """What `came_and_went` returns in words, a sentence for each that is not empty."""
    named = {"were left out, and can be used now": came, "were used, and are left out now": went}
    return [f"clips that {what}: {_names(clips)}" for what, clips in named.items() if clips]


def _differences(before: Iterable[str], now: Iterable[str]) -> tuple[list[str], list[str]]:
    return sorted(set(before) - set(now)), sorted(set(now) - set(before))


def _names(clips: list[str]) -> str:
    more = len(clips) - SHOWN_CLIPS
    return ", ".join([*clips[:SHOWN_CLIPS], *([f"and {more} more"] if more > 0 else [])])
