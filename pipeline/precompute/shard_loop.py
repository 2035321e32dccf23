"""Run a frozen model over the clips of a shard.

One thread reads ahead, the calling thread drives the device, and one thread packs results into rows; the queues between
them are bounded. An error in one frame quarantines its clip; an error of the device or the disk ends the shard.
"""

import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...data.clip import Clip
from ...data.dataset import prefetch

OUT_OF_MEMORY = (torch.OutOfMemoryError, MemoryError)
# After these the other frames of a shard would fail as well: they quarantine no clip.
FATAL = (*OUT_OF_MEMORY, torch.AcceleratorError)
PENDING_CLIPS = 2  # whose rows are still being packed; bounds the masks held in memory
TRACEBACK_LINES = 3  # of code, the innermost, that a quarantine reason names

Rows = dict[str, np.ndarray]  # by array of the cache, [T, ...]


class Steps(NamedTuple):
    """What is done to frames, for proposals or for audio features. Each step runs in a thread of its own."""

    read: Callable[[int, int], tuple[Tensor, ...]]  # frames lo..hi of the clip store, each [B, ...] on the CPU
    call: Callable[..., list[Any]]  # these on the device -> one result per frame
    pack: Callable[[list[Any]], Rows]  # the results of one clip's frames -> its rows


@dataclass
class Record:
    """How a shard was run. Goes to its log, not to the store, since another run may differ."""

    device: torch.device
    batch_frames: int  # frames per call; halved whenever the device runs out of memory
    busy: float = 0.0  # seconds in which the device worked
    notes: list[str] = field(default_factory=list)
    tracebacks: dict[str, str] = field(default_factory=dict)  # by clip id

    @contextmanager
    def working(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        finally:
            self.busy += time.perf_counter() - started

    def halve_batch(self, frames: int) -> None:
        """`frames` of them did not fit."""
        self.batch_frames = frames // 2
        self.notes.append(f"out of memory with {frames} frames per call, continued with {self.batch_frames}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def run_clips(steps: Steps, clips: list[tuple[int, Clip]], record: Record) -> dict[str, Rows | str]:
    """The rows of every clip by clip id, or the reason for its quarantine.

    clips: (first frame, clip), in store order. Raises what `steps.read` raises, and `FATAL` errors of the other steps.
    """
    batches = list(_batches(clips, record.batch_frames))
    results: dict[int, Any] = {}  # by frame, of clips that are not complete yet
    packing: deque[tuple[Clip, Future[Rows]]] = deque()
    outcomes: dict[str, Rows | str] = {}
    waiting = deque(clips)

    def unpack(most: int) -> None:
        while len(packing) > most:
            clip, future = packing.popleft()
            error = future.exception()
            outcomes[clip.id] = future.result() if error is None else _quarantine(clip, None, error, record)

    ahead = prefetch(lambda i: steps.read(*batches[i]), range(len(batches)))
    with ThreadPoolExecutor(1, "pack") as packer, closing(ahead):
        for (lo, hi), inputs in zip(batches, ahead, strict=True):
            results.update(zip(range(lo, hi), _results(steps, inputs, record), strict=True))
            while waiting and (end := waiting[0][0] + waiting[0][1].num_frames) <= hi:
                first, clip = waiting.popleft()
                of_clip = [results.pop(frame) for frame in range(first, end)]
                failed = next(((k, a) for k, a in enumerate(of_clip) if isinstance(a, Exception)), None)
                if failed is None:
                    packing.append((clip, packer.submit(steps.pack, of_clip)))
                    unpack(PENDING_CLIPS)
                else:
                    outcomes[clip.id] = _quarantine(clip, *failed, record)
        unpack(0)
    return outcomes


def _batches(clips: list[tuple[int, Clip]], most: int) -> Iterator[tuple[int, int]]:
    """Frames lo..hi of every call: at most `most`, without gaps, the same in every run of a shard."""
    spans = [(first, first + clip.num_frames) for first, clip in clips]
    gaps = [i for i, (a, b) in enumerate(pairwise(spans), start=1) if a[1] != b[0]]
    for i, j in pairwise([0, *gaps, len(spans)] if spans else []):
        lo, end = spans[i][0], spans[j - 1][1]
        yield from ((first, min(first + most, end)) for first in range(lo, end, most))


def _results(steps: Steps, inputs: tuple[Tensor, ...], record: Record) -> list[Any]:
    """One result per frame, or the error where the model fails on that frame alone.

    Out of memory halves the batch, for these frames and for the rest of the shard.
    """
    frames = len(inputs[0])
    size = record.batch_frames
    if frames <= size:
        try:
            with record.working(), torch.inference_mode():
                return steps.call(*(x.to(record.device) for x in inputs))
        except OUT_OF_MEMORY:
            if frames == 1:
                raise
            record.halve_batch(frames)
            size = record.batch_frames
        except torch.AcceleratorError:
            raise
        except Exception as error:
            if frames == 1:
                return [error]
            size = 1
    pieces = zip(*(x.split(size) for x in inputs), strict=True)
    return [result for piece in pieces for result in _results(steps, piece, record)]


def _quarantine(clip: Clip, frame: int | None, error: BaseException, record: Record) -> str:
    """The reason for the receipt, without folders, so that equal work has equal bytes. The log gets the traceback."""
    if isinstance(error, FATAL):
        raise error
    record.tracebacks[clip.id] = "".join(traceback.format_exception(error))
    inner = traceback.extract_tb(error.__traceback__)[-TRACEBACK_LINES:]
    lines = [f'  File "{Path(f.filename).name}", line {f.lineno}, in {f.name}' for f in inner]
    what = f"{type(error).__name__}: {error}" + ("" if frame is None else f" (frame {frame} of the clip)")
    return "\n".join([*lines, what])
