"""The loop of every import: fill a store shard by shard, from the rows of each clip."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ...data.clip import Clip
from ...data.store.commit import commit_shard
from ...data.store.locks import lock_store
from ...data.store.store import Cache, ClipStore, Store
from ..common.progress import bar
from ..common.text import quarantine_lines

READ_THREADS = 4  # decoding releases the GIL; more threads than this wait for the disk


@dataclass(frozen=True)
class ClipRows:
    """What a store gets for one clip.

    rows: [T, ...] by array name; arrays that are left out keep their fill value.
    quarantined: why the clip has no data; None if it has. note: something odd about its data.
    """

    rows: dict[str, np.ndarray]
    quarantined: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class CacheReport:
    """What an import of masks or Maskiges left behind. missing: frames without a file. remarks: lines for the user."""

    cache: Cache
    clips: int  # that have them
    what: str = "masks"
    missing: int = 0
    remarks: tuple[str, ...] = ()

    @property
    def quarantined(self) -> dict[str, str]:
        """Clips without masks, because they could not be imported themselves, and the reasons."""
        return self.cache.quarantined()

    def __str__(self) -> str:
        first = f"{self.cache.path}: {self.what} of {self.clips} clips; use them with --proposals {self.cache.name}"
        missing = [f"{self.missing} frames have no file, so no {self.what}"] if self.missing else []
        quarantined = [f"no {self.what} of clip {line}" for line in quarantine_lines(self.quarantined)]
        return "\n".join([first, *self.remarks, *missing, *quarantined])


def fill_store(store: Store, clips: ClipStore, what: str, read: Callable[[Clip], ClipRows]) -> None:
    """Commit every unfinished shard of a clip store or a proposals cache, with a progress bar called `what`.

    clips: the clips of each shard; a clip store is its own. read: called once per clip, in threads; what it raises
    ends the job, and shards that were committed stay. Raises `BadInput` when another run writes to the store.
    """
    with lock_store(store.path), ThreadPoolExecutor(READ_THREADS) as pool:
        todo = store.unfinished()
        with bar(store.num_shards, what, "shards", done=store.num_shards - len(todo)) as progress:
            for shard in todo:
                _fill_shard(store, shard, clips.clips_in(shard), pool, read)
                progress.update()


def _fill_shard(
    store: Store, shard: int, clips: list[tuple[int, Clip]], pool: ThreadPoolExecutor, read: Callable[[Clip], ClipRows]
) -> None:
    lo, hi = store.shard_range(shard)
    arrays = {name: spec.empty(hi - lo) for name, spec in store.specs.items()}
    quarantined: dict[str, str] = {}
    notes: dict[str, str] = {}
    for (first, clip), made in zip(clips, pool.map(read, [clip for _, clip in clips]), strict=True):
        for name, values in made.rows.items():
            arrays[name][first - lo : first - lo + clip.num_frames] = values
        if made.quarantined:
            quarantined[clip.id] = made.quarantined
        if made.note:
            notes[clip.id] = made.note
    if store.kind == "clips":
        counts = {"clips": len(clips), "labelled_frames": int(arrays["label_valid"].sum())}
    else:
        frames = sum(clip.num_frames for _, clip in clips if clip.id not in quarantined)
        counts = {"frames": frames, "masks": int(arrays["mask_count"].sum())}
    commit_shard(store, shard, arrays, counts=counts, quarantined=quarantined, notes=notes)
