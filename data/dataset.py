"""What training and evaluation read: clips of a store, with one cache of proposals and one of audio features."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ..errors import BadInput
from .augment import AugmentConfig, augment
from .clip import Clip
from .store import Cache, ClipStore

Item = TypeVar("Item")


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
    """Samples laid end to end along the frames, B = sum of T; nothing is padded. Arrays as in `Sample`."""

    clip_ids: tuple[str, ...]
    frames_per_clip: tuple[int, ...]
    frames: np.ndarray
    maskiges: np.ndarray
    features: np.ndarray
    labels: np.ndarray
    supervised: np.ndarray

    @classmethod
    def of(cls, samples: list[Sample]) -> "Batch":
        joined = {
            name: np.concatenate([getattr(s, name) for s in samples])
            for name in ("frames", "maskiges", "features", "labels", "supervised")
        }
        ids = tuple(s.clip.id for s in samples)
        return cls(ids, tuple(s.clip.num_frames for s in samples), **joined)


class ClipDataset:
    """The clips of one split that have proposals and audio features.

    Raises `BadInput` when a cache was made from other clips or does not cover the split.
    """

    def __init__(self, clips: ClipStore, proposals: Cache, audio: Cache, split: str) -> None:
        self.clips, self.proposals, self.audio, self.split = clips, proposals, audio, split
        needed = set(clips.shards_of(split))
        for cache in (proposals, audio):
            missing = sorted(needed - cache.receipts().keys())
            if missing:
                raise BadInput(
                    f"{cache.path} does not cover split {split!r}: {len(missing)} of its {len(needed)} shards "
                    f"are missing; run 'combo precompute' again, it does only these"
                )
        self.rows = clips.usable_rows(split)

    def __len__(self) -> int:
        return len(self.rows)

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


def train_batch(dataset: ClipDataset, clips_per_batch: int, config: AugmentConfig, seed: int, step: int) -> Batch:
    """The augmented batch of one step: a pure function of its arguments, whatever ran before."""
    samples = []
    for place, index in enumerate(batch_indices(len(dataset), clips_per_batch, seed, step)):
        s = dataset[index]
        rng = np.random.default_rng([seed, step, place])
        frames, maskiges, labels = augment(s.frames, s.maskiges, s.labels, config, rng)
        samples.append(Sample(s.clip, frames, maskiges, s.features, labels, s.supervised))
    return Batch.of(samples)


def prefetch(make: Callable[[int], Item], steps: range, depth: int = 2) -> Iterator[Item]:
    """`make(step)` for every step, made ahead of time by one thread.

    A thread, because worker processes cost more in copying than they gain with this store. Closing the generator
    stops the thread; an exception in `make` is raised here, at its step.
    """
    ready: queue.Queue[Item | BaseException] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Item | BaseException) -> None:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            else:
                return

    def work() -> None:
        try:
            for step in steps:
                if stopped.is_set():
                    return
                put(make(step))
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
