"""Perfect proposals for synthetic sets: the visible pixels of every object, whether it sounds or not.

They are the upper bound for proposal generators, which cannot hear either. The labels would not do: they hold
the sounding objects only, so proposals made from them would give the answer away.
"""

from pathlib import Path

import numpy as np

from ...data.clip import Clip
from ...data.sources.synthetic.source import VERSION as SET_VERSION
from ...data.sources.synthetic.source import SyntheticSource
from ...data.store.attributes import Provenance
from ...data.store.root import create_proposals
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput
from ...model.foundation.interface import Proposals
from ..precompute.masks import proposal_rows
from .fill import ClipRows, fill_store
from .masks import proposals_of

NAME = "ground-truth"
VERSION = "1"  # raised when a change here changes a mask or what is stored about it


def write_truth_proposals(root: Path) -> Cache:
    """Write the segments of all objects of a synthetic set into ROOT/proposals/ground-truth-<fp>.zarr.

    Does only the shards that are missing. Raises `BadInput` when `root` holds no synthetic set, or one of another
    version of the generator, and when another run writes to the cache.
    """
    clips = ClipStore(root)
    source = _source(clips)
    index = {clip.id: k for k, clip in enumerate(source.clips)}

    def read(clip: Clip) -> ClipRows:
        return ClipRows(proposal_rows([object_proposals(frame) for frame in source.scene(index[clip.id]).segments]))

    cache = create_proposals(clips, Provenance(NAME, VERSION, {}))
    fill_store(cache, clips, "ground truth", read)
    return cache


def object_proposals(segments: np.ndarray) -> Proposals:
    """One mask per object of a frame, largest first, from segments, uint8 [H, W]: 0 is background."""
    kinds, areas = np.unique(segments[segments > 0], return_counts=True)
    masks = segments == kinds[np.argsort(-areas, kind="stable"), None, None]
    pixels = [np.argwhere(mask) for mask in masks]  # y, x in C order
    points = [p[len(p) // 2, ::-1] for p in pixels]
    scores = np.ones(len(masks), np.float32)
    return proposals_of(masks, scores, scores, np.array(points, np.float32).reshape(len(masks), 2))


def _source(clips: ClipStore) -> SyntheticSource:
    dataset, parameters = clips.dataset, clips.parameters
    if dataset not in ("synthetic-s4", "synthetic-ms3", "synthetic-avss"):
        raise BadInput(f"{clips.path} holds {dataset}; only synthetic sets know the segments of silent objects, too")
    if (version := parameters["version"]) != SET_VERSION:
        what = f"version {version} of the synthetic set, this is version {SET_VERSION}"
        raise BadInput(f"{clips.path} was made by {what}; import the clips again")
    return SyntheticSource(parameters["flavour"], parameters["clips"], parameters["seed"], parameters["size"])
