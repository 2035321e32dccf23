"""Which sound a clip is scored with, value by value."""

from pathlib import Path

import numpy as np
import pytest

from combo_avs.data.clip import Clip
from combo_avs.data.dataset import ClipDataset
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BadInput
from combo_avs.pipeline.evaluate.sounds import sound_source, swap_partners


def clip(name: str, frames: int, *objects: str) -> Clip:
    times = tuple(k + 0.5 for k in range(frames))
    return Clip(name, "ms3", "test", objects, times, (True,) * frames, (True,) * frames, name)


def test_partners_are_the_next_of_the_same_length_with_other_objects() -> None:
    clips = [
        clip("a", 10, "dog"),
        clip("b", 5, "cat"),
        clip("c", 10, "dog", "cat"),
        clip("d", 10, "piano"),
        clip("e", 5, "cat"),
    ]
    assert swap_partners(clips) == [3, 4, 3, 0, 1]  # the cats have nothing but each other
    with pytest.raises(BadInput, match="clip b has no other clip of 5 frames"):
        swap_partners(clips[:4])


def test_every_sound_by_value(prepared: Path) -> None:
    clips = ClipStore(prepared)
    caches = (open_cache(clips, kind, name) for kind, name in (("proposals", "felzenszwalb"), ("audio", "logmel")))
    dataset = ClipDataset(clips, *caches, "train")
    samples = [dataset[i] for i in range(len(dataset))]
    partners = swap_partners([s.clip for s in samples])
    probes = {name: np.float32(values) for name, values in dataset.audio.control_features.items()}
    assert not np.array_equal(probes["silence"], probes["noise"])
    for index, s in enumerate(samples):
        frames = s.clip.num_frames
        expected = {
            "right": s.features,
            "swapped": samples[partners[index]].features,
            "silent": [probes["silence"][k % len(probes["silence"])] for k in range(frames)],
            "noise": [probes["noise"][k % len(probes["noise"])] for k in range(frames)],
        }
        assert not np.array_equal(expected["right"], expected["swapped"])
        for sound, features in expected.items():
            np.testing.assert_array_equal(sound_source(dataset, sound)(index, s), features, err_msg=sound)
