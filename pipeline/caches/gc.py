"""What a cache root can do without: stale caches, unfinished ones if asked, and what killed writers left behind."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...data.store.location import Location, files_below, is_temporary, location
from ...data.store.locks import hold
from ...data.store.root import cache_paths
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput
from ..common.progress import bar


@dataclass(frozen=True)
class Rubbish:
    """One thing that can go. held: a run is writing to it, so it stays."""

    path: str
    why: str
    bytes: int
    held: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.why}, {self.bytes / 1e6:.1f} MB{'; in use, it stays' if self.held else ''}"


@dataclass(frozen=True)
class Cleaning:
    """What was found, and whether it was deleted."""

    found: tuple[Rubbish, ...]
    deleted: bool

    def __str__(self) -> str:
        freed = sum(r.bytes for r in self.found if not r.held) / 1e6
        end = f"{freed:.1f} MB {'deleted' if self.deleted else 'could go: run it again with --delete'}"
        return "\n".join([*map(str, self.found), end]) if self.found else "nothing to clean"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def clean(root: str | Location, unfinished: bool = False, delete: bool = False) -> Cleaning:
    """Find caches of other clips than those of the root, and temporary files that killed writers left; delete on wish.

    unfinished: caches that lack shards, too. A store that a live run writes to is never touched.
    Raises `BadInput` when there is no finished clip store, since then nothing can be told stale.
    """
    place = location(root)
    fingerprint = ClipStore(place).fingerprint()
    found = []
    paths = [place / "clips.zarr", *cache_paths(place)]
    with bar(len(paths), "clean", "stores") as progress:
        for path in paths:
            why = None if path.name == "clips.zarr" else _reason(path, fingerprint, unfinished)
            found += [_whole(path, why, delete)] if why else _leftovers(path, delete)
            progress.update()
    return Cleaning(tuple(found), delete)


def _reason(path: Location, fingerprint: str, unfinished: bool) -> str | None:
    """Why a cache can go."""
    try:
        cache = Cache(path)
    except BadInput:
        return None  # damaged metadata: 'cache verify --repair' may mend it
    if cache.clips_fingerprint != fingerprint:
        return "made from other clips than these"
    missing = len(cache.unfinished()) if unfinished else 0
    return f"{missing} of {cache.num_shards} shards were never finished" if missing else None


def _whole(path: Location, why: str, delete: bool) -> Rubbish:
    files = files_below(path)
    # Its zarr.json makes it a store, so that goes first: a clean-up that is killed leaves nothing that looks like one.
    held = delete and not _remove(path, sorted(files, key=lambda name: name != "zarr.json"))
    if delete and not held and isinstance(path, Path):
        _remove_folders(path)
    return Rubbish(str(path), why, sum(files.values()), held)


def _leftovers(path: Location, delete: bool) -> list[Rubbish]:
    files = {name: size for name, size in files_below(path).items() if is_temporary(name.rsplit("/", 1)[-1])}
    if not files:
        return []
    why = f"{len(files)} temporary files of writers that were killed"
    held = delete and not _remove(path, list(files))
    return [Rubbish(str(path), why, sum(files.values()), held)]


def _remove(path: Location, names: list[str]) -> bool:
    """Delete files of a store, unless a run is writing to it."""
    try:
        with hold(path):
            for name in names:
                (path / name).unlink(missing_ok=True)
    except BadInput:
        return False
    return True


def _remove_folders(path: Path) -> None:
    (path / "_lock").unlink(missing_ok=True)
    for folder in sorted((p for p in path.rglob("*") if p.is_dir()), reverse=True):
        folder.rmdir()
    path.rmdir()
