"""Which clips make a batch, in which order, and how each is augmented."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from combo_avs.data.augment import AugmentConfig, augment
from combo_avs.data.clip import Clip
from combo_avs.data.dataset import ARRAYS, Batch, ClipDataset, Sample, batch_indices, train_batch
from combo_avs.errors import BadInput

CONFIG = AugmentConfig(scale=(0.5, 1.0, 1.5))


def sample(number: int, frames: int = 5) -> Sample:
    rng = np.random.default_rng(number)
    clip = Clip(
        f"clip-{number}",
        "s4",
        "train",
        (),
        tuple(map(float, range(frames))),
        (True,) * frames,
        (True,) * frames,
        "made",
    )
    pictures = rng.integers(0, 256, (2, frames, 12, 16, 3), dtype=np.uint8)
    labels, features = rng.integers(0, 3, (frames, 12, 16), dtype=np.uint8), rng.random((frames, 4), np.float32)
    return Sample(clip, pictures[0], pictures[1], features, labels, rng.random(frames) < 0.5)


@dataclass
class Samples:
    """What `train_batch` needs of a `ClipDataset`."""

    samples: list[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


def samples(count: int) -> Any:
    return Samples([sample(i, 5 + 5 * (i % 2)) for i in range(count)])


def assert_equal_batches(one: Batch, other: Batch) -> None:
    assert (one.clip_ids, one.places, one.frames_per_clip) == (other.clip_ids, other.places, other.frames_per_clip)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


class TestOrder:
    @pytest.mark.parametrize(("count", "clips"), [(5, 3), (7, 7), (3, 8)])
    def test_a_stream_of_shuffles_is_cut_into_batches(self, count: int, clips: int) -> None:
        shuffles = [np.random.default_rng([4, epoch]).permutation(count) for epoch in range(40)]
        stream = np.concatenate(shuffles).tolist()
        for step in range(10):
            assert batch_indices(count, clips, seed=4, step=step) == stream[step * clips : (step + 1) * clips]

    def test_a_runs_order_is_this(self) -> None:
        """Runs that are resumed go on with it."""
        assert [batch_indices(5, 3, seed=4, step=s) for s in range(4)] == [[2, 4, 0], [1, 3, 1], [2, 4, 3], [0, 2, 0]]


class TestBatch:
    def test_every_clip_is_augmented_by_seed_step_and_place(self) -> None:
        dataset = samples(4)
        for seed, step in ((1, 0), (1, 5), (2, 5)):
            batch = train_batch(dataset, 3, CONFIG, seed, step)
            chosen = [dataset[i] for i in batch_indices(4, 3, seed, step)]
            assert batch.clip_ids == tuple(s.clip.id for s in chosen)
            assert batch.places == (0, 1, 2)
            assert batch.frames_per_clip == tuple(len(s.frames) for s in chosen)
            ends = np.cumsum(batch.frames_per_clip)
            for place, (s, end) in enumerate(zip(chosen, ends, strict=True)):
                of = slice(end - len(s.frames), end)
                rng = np.random.default_rng([seed, step, place])
                frames, maskiges, labels = augment(s.frames, s.maskiges, s.labels, CONFIG, rng)
                np.testing.assert_array_equal(batch.frames[of], frames)
                np.testing.assert_array_equal(batch.maskiges[of], maskiges)
                np.testing.assert_array_equal(batch.labels[of], labels)
                np.testing.assert_array_equal(batch.features[of], s.features)
                np.testing.assert_array_equal(batch.supervised[of], s.supervised)

    def test_one_clip_is_changed_differently_at_every_step_and_place(self) -> None:
        dataset: Any = Samples([sample(0)])
        seen = [train_batch(dataset, 2, AugmentConfig(), 0, step) for step in range(3)]
        assert len({frames.tobytes() for batch in seen for frames in np.split(batch.frames, 2)}) == 6

    def test_shares_are_parts_of_the_whole_batch(self) -> None:
        dataset = samples(5)
        whole = train_batch(dataset, 4, CONFIG, 3, 2)
        (first, second), (third, fourth) = (
            train_batch(dataset, 4, CONFIG, 3, 2, of).parts(1) for of in (slice(0, 2), slice(2, 4))
        )
        for one, other in zip(whole.parts(1), (first, second, third, fourth), strict=True):
            assert_equal_batches(one, other)

    def test_parts_laid_end_to_end_are_the_batch(self) -> None:
        whole = train_batch(samples(5), 5, CONFIG, 3, 2)
        parts = whole.parts(2)
        assert [len(part.clip_ids) for part in parts] == [2, 2, 1]
        assert sum((part.clip_ids for part in parts), ()) == whole.clip_ids
        assert [part.places for part in parts] == [(0, 1), (2, 3), (4,)]
        assert sum((part.frames_per_clip for part in parts), ()) == whole.frames_per_clip
        for name in ARRAYS:
            arrays = [getattr(part, name) for part in parts]
            assert [len(a) for a in arrays] == [sum(part.frames_per_clip) for part in parts]
            np.testing.assert_array_equal(np.concatenate(arrays), getattr(whole, name))


class Reads:
    """Stands for a store or cache: every array holds the numbers of its frames, plus `base` by its name."""

    path = "proposals/made"

    def __init__(self, base: dict[str, int], shards: list[int]) -> None:
        self.base, self.shards, self.table = base, shards, [sample(i).clip for i in range(4)]

    def shards_of(self, split: str) -> list[int]:
        return {"val": [0, 1]}[split]

    def receipts(self) -> dict[int, str]:
        return dict.fromkeys(self.shards, "")

    def usable_rows(self, split: str, *caches: "Reads") -> np.ndarray:
        assert (split, len(caches)) == ("val", 2)
        return np.array([1, 3])

    def span(self, row: int) -> tuple[int, int]:
        return 5 * row, 5 * row + 5

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        return np.arange(start, stop) + self.base[name]


class TestClips:
    clips: Any = Reads({"frames": 100, "labels": 200, "label_valid": -16}, [0, 1])
    proposals: Any = Reads({"maskige": 300}, [0, 1, 2])
    audio: Any = Reads({"features": 400}, [1, 0])

    def test_every_array_is_read_where_it_lies(self) -> None:
        dataset = ClipDataset(self.clips, self.proposals, self.audio, "val")
        assert len(dataset) == 2
        assert dataset.clip(1).id == "clip-3"
        found = dataset[1]
        assert found.clip.id == "clip-3"
        assert found.frames.tolist() == [115, 116, 117, 118, 119]
        assert found.maskiges.tolist() == [315, 316, 317, 318, 319]
        assert found.features.tolist() == [415, 416, 417, 418, 419]
        assert found.labels.tolist() == [215, 216, 217, 218, 219]
        assert found.supervised.tolist() == [True, False, True, True, True]  # -1, 0, 1, ...
        assert found.supervised.dtype == bool

    @pytest.mark.parametrize("lacks", ["proposals", "audio"])
    def test_a_cache_that_lacks_a_shard_is_named(self, lacks: str) -> None:
        short: Any = Reads({}, [1, 7])
        caches = {"proposals": self.proposals, "audio": self.audio} | {lacks: short}
        with pytest.raises(BadInput, match="does not cover split 'val': 1 of its 2 shards are missing"):
            ClipDataset(self.clips, split="val", **caches)
