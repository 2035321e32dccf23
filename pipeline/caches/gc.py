"""Find and delete what a cache root does not need: stale or unfinished caches, and leftovers of killed writers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data.store.location import Location, files_below, location
from ...data.store.locks import lock_store
from ...data.store.root import cache_paths
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput
from ...files import is_temporary
from ..common.progress import bar
from ..common.text import megabytes


@dataclass(frozen=True)
class Rubbish:
    """Files of one store that can go. whole: the store goes with them. held: a run is writing to it, so it was kept."""

    path: Location
    why: str
    files: dict[str, int]  # bytes, by name within the store
    whole: bool
    held: bool = False

    @property
    def bytes(self) -> int:
        return sum(self.files.values())

    def to_json(self) -> dict[str, Any]:
        return {"path": str(self.path), "why": self.why, "bytes": self.bytes, "held": self.held}

    def __str__(self) -> str:
        return f"{self.path}: {self.why}, {megabytes(self.bytes)}{'; in use, kept' if self.held else ''}"


@dataclass(frozen=True)
class Cleaning:
    """What was found, and whether it was deleted."""

    found: tuple[Rubbish, ...]
    deleted: bool

    def __str__(self) -> str:
        freed = megabytes(sum(r.bytes for r in self.found if not r.held))
        end = f"{freed} deleted" if self.deleted else f"{freed} can be deleted: run it again with --delete"
        return "\n".join([*map(str, self.found), end]) if self.found else "nothing to clean"

    def to_json(self) -> dict[str, Any]:
        return {"found": [r.to_json() for r in self.found], "deleted": self.deleted}


def clean(root: str | Location, *, unfinished: bool = False, delete: bool = False) -> Cleaning:
    """Find what `plan_cleaning` finds, and delete it if asked. A store that a live run is writing to is kept."""
    found = plan_cleaning(root, unfinished=unfinished)
    return Cleaning(tuple(map(_delete, found) if delete else found), delete)


def plan_cleaning(root: str | Location, *, unfinished: bool = False) -> list[Rubbish]:
    """Caches of other clips than the root's, and temporary files that killed writers left.

    unfinished: also caches that lack shards. Raises `BadInput` without a finished clip store, since then nothing can
    be told to be stale.
    """
    root = location(root)
    fingerprint = ClipStore(root).fingerprint()
    caches = cache_paths(root)
    found = _leftovers(root / "clips.zarr")
    with bar(len(caches), "look for rubbish", "caches") as progress:
        for path in caches:
            why = _why_superfluous(path, fingerprint, unfinished=unfinished)
            found += [Rubbish(path, why, files_below(path), whole=True)] if why else _leftovers(path)
            progress.update()
    return found


def _why_superfluous(path: Location, fingerprint: str, *, unfinished: bool) -> str | None:
    try:
        cache = Cache(path)
    except BadInput:
        return None  # damaged metadata, which 'cache verify --repair' may mend
    if cache.clips_fingerprint != fingerprint:
        return "made from other clips than these"
    missing = len(cache.unfinished()) if unfinished else 0
    return f"{missing} of {cache.num_shards} shards were never finished" if missing else None


def _leftovers(path: Location) -> list[Rubbish]:
    files = {name: size for name, size in files_below(path).items() if is_temporary(name.rsplit("/", 1)[-1])}
    return [Rubbish(path, f"{len(files)} temporary files of killed writers", files, whole=False)] if files else []


def _delete(rubbish: Rubbish) -> Rubbish:
    """Delete its files, unless a run is writing to the store; `held` tells."""
    # zarr.json makes it a store, so that goes first: an interrupted deletion leaves nothing that looks like one.
    names = sorted(rubbish.files, key=lambda name: name != "zarr.json")
    try:
        with lock_store(rubbish.path):
            for name in names:
                (rubbish.path / name).unlink(missing_ok=True)
    except BadInput:
        return replace(rubbish, held=True)
    if rubbish.whole and isinstance(rubbish.path, Path):
        (rubbish.path / "_lock").unlink(missing_ok=True)
        for folder in sorted((p for p in (rubbish.path, *rubbish.path.rglob("*")) if p.is_dir()), reverse=True):
            folder.rmdir()
    return rubbish
