"""A video read window by window, as prediction does, and through a store and caches, as training does."""

from pathlib import Path

import numpy as np

from combo_avs.data.dataset import ClipDataset
from combo_avs.data.sources.video.decoding import inspect
from combo_avs.data.sources.video.source import VideoSource
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.model.inference import label_map
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.evaluate.clip import segment
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.predict.label_maps import LabelMaps, segment_video
from combo_avs.pipeline.predict.segmenter import Segmenter


def streamed_labels(segmenter: Segmenter, video: Path, folder: Path) -> np.ndarray:
    """uint8 [F, 64, 64]: what prediction computes."""
    maps = LabelMaps(folder, inspect(video), every_frame=False, size=64)
    assert segment_video(segmenter, maps, lambda: None) == {}
    return np.stack([labels for _, labels in maps.read()])


def cached_labels(segmenter: Segmenter, video: Path, root: Path) -> np.ndarray:
    """The same of import, precompute and the network on the caches."""
    import_clips(VideoSource([video], 5, 64), root)
    plans = plan_caches(root, PrecomputeConfig(), "felzenszwalb", "logmel")
    run_plans(plans, workers=0)
    dataset = ClipDataset(ClipStore(root), *(Cache(p.path) for p in plans), split="test")
    cached = []
    for sample in map(dataset.__getitem__, range(len(dataset))):
        labels = label_map(segment(segmenter.model, sample, sample.features))
        cached.append(labels.numpy()[np.array(sample.clip.frame_valid)])
    return np.concatenate(cached)
