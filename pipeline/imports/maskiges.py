"""Import the published Maskiges as a proposals cache of a clip store, shard by shard, resumable."""

from pathlib import Path

import numpy as np

from ...data.clip import Clip
from ...data.sources.maskige_tree import MaskigeTree
from ...data.store.attributes import Provenance
from ...data.store.location import Location
from ...data.store.root import create_proposals
from ...data.store.store import AT_IMPORT, ClipStore
from ..common.places import check_root_apart
from .fill import CacheReport, ClipRows, fill_store

NAME = "official-maskiges"
VERSION = "1"  # raised when a change here or in the reader changes a Maskige


def import_maskiges(root: str | Location, source: Path) -> CacheReport:
    """Write the published Maskiges of all clips of `root` into ROOT/proposals/official-maskiges-<fp>.zarr.

    source: the folder of the images, or of the data set around it; see `MaskigeTree`. Clips that were quarantined
    at import need none. Raises `BadInput`, before anything is written, that lists every missing or unfit image;
    `ComboError` for one that turns out to be broken: shards that were committed stay.
    """
    clips = ClipStore(root)
    clips.fingerprint()  # raises unless all of them were imported
    unusable = clips.quarantined()
    tree = MaskigeTree(source, [clip for clip in clips.table if clip.id not in unusable], clips.size)
    check_root_apart(root, tree.folder, source)
    resize = "nearest: crop for train, squash for val and test" if tree.resizes else "none"
    cache = create_proposals(clips, Provenance(NAME, VERSION, {"files_sha256": tree.sha256, "resize": resize}))

    def read(clip: Clip) -> ClipRows:
        rows = {"mask_count": np.zeros(clip.num_frames, np.uint16)}
        if clip.id in unusable:
            return ClipRows(rows, quarantined=AT_IMPORT)
        return ClipRows(rows | {"maskige": tree.read(clip)})

    fill_store(cache, clips, "import Maskiges", read)
    remark = "the masks behind them were not published: mask_count is 0 on every frame"
    return CacheReport(cache, len(clips.table) - len(unusable), "Maskiges", remarks=(remark,))
