"""What training and evaluation read: clips of a store, with one cache of proposals and one of audio features."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import TypeVar

import numpy as np

from ..errors import BadInput
from .augment import AugmentConfig, augment
from .clip import Clip
from .store.store import Cache, ClipStore

Item = TypeVar("Item")
ARRAYS = ("frames", "maskiges", "features", "labels", "supervised")  # of a `Sample` and of a `Batch`


@dataclass(frozen=True)
class Sample:
    """One clip with all that the network and the losses need.

    frames, maskiges: uint8 [T, H, W, 3], RGB. features: float32 [T, D].
    labels: uint8 [T, H, W], class index or 255. supervised: bool [T], the frame has ground truth.
    """

    clip: Clip
    frames: np.ndarray
    maskiges: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    supervised: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Samples laid end to end along the frames, B = sum of T; nothing is padded. Arrays as in `Sample`.

    places: of the clips in the batch of all processes. With seed and step they decide all that is random about a clip.
    """

    clip_ids: tuple[str, ...]
    places: tuple[int, ...]
    frames_per_clip: tuple[int, ...]
    frames: np.ndarray
    maskiges: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    supervised: np.ndarray

    @classmethod
    def of(cls, samples: list[Sample], places: Sequence[int]) -> "Batch":
        joined = {name: np.concatenate([getattr(s, name) for s in samples]) for name in ARRAYS}
        ids = tuple(s.clip.id for s in samples)
        return cls(ids, tuple(places), tuple(s.clip.num_frames for s in samples), **joined)

    def parts(self, clips: int) -> list["Batch"]:
        """The same clips in batches of at most `clips`; the arrays are views."""
        ends = [0, *accumulate(self.frames_per_clip)]
        found = []
        for first in range(0, len(self.clip_ids), clips):
            of = slice(first, first + clips)
            lengths = self.frames_per_clip[of]
            frames = slice(ends[first], ends[first] + sum(lengths))
            arrays = {name: getattr(self, name)[frames] for name in ARRAYS}
            found.append(Batch(self.clip_ids[of], self.places[of], lengths, **arrays))
        return found


class ClipDataset:
    """The clips of one split that have proposals and audio features; quarantined ones are left out.

    Raises `BadInput` when a cache was made from other clips or does not cover the split.
    """

    def __init__(self, clips: ClipStore, proposals: Cache, audio: Cache, split: str) -> None:
        self.clips, self.proposals, self.audio, self.split = clips, proposals, audio, split
        needed = set(clips.shards_of(split))
        for cache in (proposals, audio):
            if missing := needed - cache.receipts().keys():
                raise BadInput(
                    f"{cache.path} does not cover split {split!r}: {len(missing)} of its {len(needed)} shards "
                    f"are missing; run 'combo precompute' again, it does only these"
                )
        self.rows = clips.usable_rows(split, proposals, audio)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def left_out(self) -> tuple[str, ...]:
        """Ids of the clips of the split that are not usable."""
        unusable = np.setdiff1d(self.clips.table.rows(self.split), self.rows)
        return tuple(sorted(self.clips.table[int(row)].id for row in unusable))

    def clip(self, index: int) -> Clip:
        return self.clips.table[int(self.rows[index])]

    def __getitem__(self, index: int) -> Sample:
        span = self.clips.span(int(self.rows[index]))
        return Sample(
            clip=self.clip(index),
            frames=self.clips.read("frames", *span),
            maskiges=self.proposals.read("maskige", *span),
            features=self.audio.read("features", *span),
            labels=self.clips.read("labels", *span),
            supervised=self.clips.read("label_valid", *span).astype(bool),
        )


def batch_indices(count: int, clips_per_batch: int, seed: int, step: int) -> list[int]:
    """Which of `count` clips make the batch of a step: a pure function of seed and step.

    The stream is one shuffle of all clips after another, cut into batches wherever they fall.
    """
    stream = range(step * clips_per_batch, (step + 1) * clips_per_batch)
    orders = {e: np.random.default_rng([seed, e]).permutation(count) for e in {i // count for i in stream}}
    return [int(orders[i // count][i % count]) for i in stream]


def train_batch(
    dataset: ClipDataset, clips_per_batch: int, config: AugmentConfig, seed: int, step: int, share: slice = slice(None)
) -> Batch:
    """The augmented batch of one step: a pure function of its arguments, whatever ran before.

    share: which places of the batch; shares laid end to end are the whole batch.
    """
    samples, places = [], range(clips_per_batch)[share]
    indices = batch_indices(len(dataset), clips_per_batch, seed, step)
    for place in places:
        s = dataset[indices[place]]
        rng = np.random.default_rng([seed, step, place])
        frames, maskiges, labels = augment(s.frames, s.maskiges, s.labels, config, rng)
        samples.append(Sample(s.clip, frames, maskiges, s.features, labels, s.supervised))
    return Batch.of(samples, places)


def prefetch(make: Callable[[int], Item], steps: range, depth: int = 2, threads: int = 1) -> Generator[Item]:
    """`make(step)` for every step, in order, made up to `depth` steps ahead of time by one or more threads.

    Threads, because worker processes cost more in copying than they gain with this store. Closing the generator stops
    them; an exception in `make` is raised here, at its step. With several threads `make` must stand being called by
    them at once.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        wanted, ahead = iter(steps), deque[Future[Item]]()
        try:
            for _ in steps:
                ahead.extend(pool.submit(make, step) for step in islice(wanted, depth + 1 - len(ahead)))
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
