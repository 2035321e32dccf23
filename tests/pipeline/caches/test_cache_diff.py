"""Two caches side by side: numbers that can be checked by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.commit import commit_shard
from combo_avs.data.store.locks import lock_store
from combo_avs.data.store.root import create_proposals
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.errors import BadInput
from combo_avs.model.foundation.interface import Proposals
from combo_avs.pipeline.caches.diff import diff_caches
from combo_avs.pipeline.precompute.masks import proposal_rows


def proposals(masks: np.ndarray) -> Proposals:
    k = len(masks)
    return Proposals(
        masks=torch.from_numpy(masks),
        predicted_iou=torch.ones(k),
        stability=torch.ones(k),
        boxes=torch.zeros((k, 4), dtype=torch.int32),
        points=torch.zeros((k, 2)),
        areas=torch.from_numpy(masks.sum((1, 2))),
    )


def write_cache(root: Path, name: str, masks_of, shards: set[int] | None = None) -> Cache:
    """A proposals cache whose frame f holds `masks_of(f)`."""
    clips = ClipStore(root)
    cache = create_proposals(clips, Provenance(name, "1", {}))
    with lock_store(cache.path):
        for shard in shards if shards is not None else range(cache.num_shards):
            lo, hi = cache.shard_range(shard)
            arrays = proposal_rows([proposals(masks_of(f)) for f in range(lo, hi)])
            commit_shard(cache, shard, arrays, counts={"frames": hi - lo}, quarantined={}, notes={})
    return cache


def halves(frame: int) -> np.ndarray:
    masks = np.zeros((2, 64, 64), bool)
    masks[0, :32], masks[1, 32:] = True, True
    return masks


def upper_quarter(frame: int) -> np.ndarray:
    """In the first clip all halves, later only the upper 16 rows."""
    if frame < 5:
        return halves(frame)
    masks = np.zeros((1, 64, 64), bool)
    masks[0, :16] = True
    return masks


def test_numbers(root: Path) -> None:
    write_cache(root, "a", halves)
    write_cache(root, "b", upper_quarter)
    found = diff_caches(root, "a", "b")
    total = ClipStore(root).frames
    rest = total - 5
    assert found.frames == total
    assert found.masks == pytest.approx((2, (10 + rest) / total))
    assert found.covered == pytest.approx((1, (5 + 0.25 * rest) / total))
    assert found.best_iou[0] == pytest.approx((10 + 0.5 * rest) / (2 * total))
    assert found.best_iou[1] == pytest.approx((10 + 0.5 * rest) / (10 + rest))
    assert len(found.clips) == 10
    assert found.clips[0][1] == pytest.approx(0.5 / 2 * 2 / 3 + 0.5 / 3)
    assert json.loads(json.dumps(found.to_json()))["frames"] == total
    assert "least similar" in str(found)


def test_nothing_against_something(root: Path) -> None:
    write_cache(root, "a", halves)
    write_cache(root, "b", lambda frame: np.zeros((0, 64, 64), bool))
    found = diff_caches(root, "a", "b", "val")
    assert found.best_iou == (0, None)
    assert found.covered == (1, 0)
    assert "none" in str(found)


def test_only_what_both_have(root: Path) -> None:
    write_cache(root, "a", halves, shards={0, 1})
    write_cache(root, "b", halves, shards={1, 2})
    found = diff_caches(root, "a", "b")
    lo, hi = ClipStore(root).shard_range(1)
    assert found.frames == hi - lo
    assert found.best_iou == (1, 1)
    assert found.maskige_pixels == 1


def test_refusals(root: Path) -> None:
    write_cache(root, "a", halves, shards={0})
    write_cache(root, "b", halves, shards={1})
    for names, message in ((("a", "b"), "no finished clip in common"), (("a", "a"), "same cache"), (("a", "c"), "'c'")):
        with pytest.raises(BadInput, match=message):
            diff_caches(root, *names)
