"""The import job for published Maskiges: pictures into a proposals cache of a clip store, shard by shard, resumable."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...data.sources.maskige_tree import MaskigeTree
from ...data.store.attributes import Provenance
from ...data.store.location import Location
from ...data.store.receipts import write_shard
from ...data.store.root import create_proposals, exclusive
from ...data.store.store import AT_IMPORT, Cache, ClipStore
from ..common.progress import bar
from .clips import READ_THREADS

NAME = "official-maskiges"
VERSION = "1"  # raised when a change here or in the reader changes a Maskige


@dataclass(frozen=True)
class MaskigeReport:
    """What an import of Maskiges left behind. quarantined: clips that have none since they could not be imported."""

    cache: Cache
    clips: int
    quarantined: dict[str, str]

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.cache.path}: Maskiges of {self.clips} clips; use them with --proposals {self.cache.name}",
                "the masks behind them were not published: mask_count is 0 on every frame",
                *(f"no Maskiges of clip {clip}: {why}" for clip, why in self.quarantined.items()),
            ]
        )


def import_maskiges(root: str | Location, source: Path) -> MaskigeReport:
    """Write the published Maskiges of all clips of `root` into ROOT/proposals/official-maskiges-<fp>.zarr.

    source: the folder of the pictures, or of the data set around it; see `MaskigeTree`. Clips that were quarantined
    at import need none. Raises `BadInput`, before anything is written, that lists every missing or unfit picture;
    `ComboError` for one that turns out to be broken: what was finished is kept.
    """
    clips = ClipStore(root)
    clips.fingerprint()  # all of them are there
    quarantined = dict.fromkeys(clips.quarantined(), AT_IMPORT)
    tree = MaskigeTree(source, [clip for clip in clips.table if clip.id not in quarantined], clips.size)
    cache = create_proposals(clips, _provenance(tree))
    with exclusive(cache), ThreadPoolExecutor(READ_THREADS) as pool:
        todo = cache.unfinished()
        with bar(cache.num_shards, "import Maskiges", "shards", done=cache.num_shards - len(todo)) as progress:
            for shard in todo:
                _import_shard(clips, cache, tree, shard, pool, quarantined)
                progress.update()
    return MaskigeReport(cache, len(clips.table) - len(quarantined), cache.quarantined())


def _provenance(tree: MaskigeTree) -> Provenance:
    resize = "nearest: crop for train, squash for val and test" if tree.resizes else "none"
    return Provenance(NAME, VERSION, {"files_sha256": tree.sha256, "resize": resize})


def _import_shard(
    clips: ClipStore, cache: Cache, tree: MaskigeTree, shard: int, pool: ThreadPoolExecutor, quarantined: dict[str, str]
) -> None:
    lo, hi = cache.shard_range(shard)
    there = [(first, clip) for first, clip in clips.clips_in(shard) if clip.id not in quarantined]
    maskiges = np.zeros(cache.specs["maskige"].rows(hi - lo), np.uint8)
    for (first, clip), images in zip(there, pool.map(lambda c: tree.read(c[1]), there), strict=True):
        maskiges[first - lo : first - lo + clip.num_frames] = images
    nothing = np.full(hi - lo, b"", object)
    arrays = {
        "maskige": maskiges,
        "masks": nothing,
        "mask_stats": nothing,
        "mask_count": np.zeros(hi - lo, np.uint16),
    }
    bad = {clip.id: quarantined[clip.id] for _, clip in clips.clips_in(shard) if clip.id in quarantined}
    counts = {"frames": hi - lo, "masks": 0}
    write_shard(cache.path, shard, (lo, hi), cache.specs, arrays, counts=counts, quarantined=bad, notes={}, log={})
