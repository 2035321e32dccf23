"""Ground truth as proposals: exactly the objects that can be seen, whether they sound or not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fakes import NoiseSource

from combo_avs.data.masks import unpack_stats
from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.imports.truth import object_proposals, write_truth_proposals


@pytest.mark.parametrize("flavour", ["s4", "ms3", "avss"])
def test_masks_are_the_visible_objects(tmp_path: Path, flavour: str) -> None:
    source = SyntheticSource(flavour, 6, seed=3, size=48)
    import_clips(source, tmp_path, shard_frames=20)
    cache = write_truth_proposals(tmp_path)
    clips = ClipStore(tmp_path)
    index = {clip.id: k for k, clip in enumerate(source.clips)}
    silent = 0
    for shard in range(clips.num_shards):
        for first, clip in clips.clips_in(shard):
            truth = source.scene(index[clip.id])
            for k in range(clip.num_frames):
                frame = first + k, first + k + 1
                masks, stats = cache.read_masks(*frame)[0], unpack_stats(cache.read_bytes("mask_stats", *frame)[0])
                assert (masks.sum(axis=0) == (truth.segments[k] > 0)).all()
                kinds = [int(np.unique(truth.segments[k][mask]).item()) for mask in masks]
                assert sorted(kinds) == sorted(set(truth.segments[k].flat) - {0})
                silent += sum(not truth.sounding[k, kind] for kind in kinds)
                assert stats["area"].tolist() == sorted(masks.sum(axis=(1, 2)).tolist(), reverse=True)
    assert silent > 0
    assert open_cache(clips, "proposals", "ground-truth").path == cache.path


def test_boxes_and_points_lie_on_their_masks() -> None:
    segments = np.zeros((8, 9), np.uint8)
    segments[2:5, 3:8], segments[6, 1] = 4, 2
    found = object_proposals(segments)
    assert found.boxes.tolist() == [[3, 2, 7, 4], [1, 6, 1, 6]]
    assert found.areas.tolist() == [15, 1]
    for mask, (x, y) in zip(found.masks, found.points.int().tolist(), strict=True):
        assert mask[y, x]


def test_a_frame_without_objects() -> None:
    found = object_proposals(np.zeros((8, 9), np.uint8))
    assert found.masks.shape == (0, 8, 9)
    assert found.boxes.shape == (0, 4)


def test_only_missing_shards_are_made(prepared: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(prepared, tmp_path / "root"))
    cache = write_truth_proposals(root)
    before = {p: p.read_bytes() for p in (cache.path / "_done").iterdir()}
    first, *others = sorted(before)
    first.unlink()
    times = [p.stat().st_mtime_ns for p in others]
    write_truth_proposals(root)
    assert {p: p.read_bytes() for p in before} == before
    assert [p.stat().st_mtime_ns for p in others] == times


def test_other_sets_have_no_such_truth(tmp_path: Path) -> None:
    import_clips(NoiseSource(), tmp_path, shard_frames=20)
    with pytest.raises(BadInput, match="only synthetic sets"):
        write_truth_proposals(tmp_path)
