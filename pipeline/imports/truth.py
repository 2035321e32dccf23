"""Perfect proposals for synthetic sets: the visible pixels of every object, whether it sounds or not.

They are the upper bound for proposal generators, which cannot hear either. The labels would not do: they hold
the sounding objects only, so proposals made from them would give the answer away.
"""

from pathlib import Path

import numpy as np
import torch

from ...data.sources.synthetic.source import VERSION as SET_VERSION
from ...data.sources.synthetic.source import SyntheticSource
from ...data.store.attributes import Provenance
from ...data.store.receipts import write_shard
from ...data.store.root import create_proposals, exclusive
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput
from ...model.foundation.interface import Proposals
from ..common.progress import bar
from ..precompute.worker import proposal_rows

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
    cache = create_proposals(clips, Provenance(NAME, VERSION, {}))
    with exclusive(cache):
        todo = cache.unfinished()
        with bar(cache.num_shards, "ground truth", "shards", done=cache.num_shards - len(todo)) as progress:
            for shard in todo:
                lo, hi = cache.shard_range(shard)
                segments = [source.scene(index[clip.id]).segments for _, clip in clips.clips_in(shard)]
                found = [object_proposals(frame) for frame in np.concatenate(segments)]
                counts = {"frames": hi - lo, "masks": sum(len(p.masks) for p in found)}
                arrays = proposal_rows(found)
                write_shard(
                    cache.path, shard, (lo, hi), cache.specs, arrays, counts=counts, quarantined={}, notes={}, log={}
                )
                progress.update()
    return cache


def object_proposals(segments: np.ndarray) -> Proposals:
    """One mask per object of a frame, largest first, from segments, uint8 [H, W]: 0 is background."""
    kinds, areas = np.unique(segments[segments > 0], return_counts=True)
    order = np.argsort(-areas, kind="stable")
    masks = segments == kinds[order, None, None]
    count = len(masks)
    pixels = [np.argwhere(mask) for mask in masks]  # y, x in C order
    boxes = [(*p.min(axis=0)[::-1], *p.max(axis=0)[::-1]) for p in pixels]
    points = [p[len(p) // 2, ::-1] for p in pixels]
    return Proposals(
        masks=torch.from_numpy(masks),
        predicted_iou=torch.ones(count),
        stability=torch.ones(count),
        boxes=torch.from_numpy(np.array(boxes, np.int32).reshape(count, 4)),
        points=torch.from_numpy(np.array(points, np.float32).reshape(count, 2)),
        areas=torch.from_numpy(areas[order]),
    )


def _source(clips: ClipStore) -> SyntheticSource:
    dataset, parameters = clips.dataset, clips.parameters
    if dataset not in ("synthetic-s4", "synthetic-ms3", "synthetic-avss"):
        raise BadInput(
            f"{clips.path} holds {dataset}; only synthetic sets know the segments of all objects, also of silent ones"
        )
    if parameters["version"] != SET_VERSION:
        raise BadInput(
            f"{clips.path} was made by version {parameters['version']} of the synthetic set, this is version "
            f"{SET_VERSION}; import the clips again"
        )
    return SyntheticSource(parameters["flavour"], parameters["clips"], parameters["seed"], parameters["size"])
