"""Run a frozen model over the clips of a shard: reading ahead, the network, and packing behind it, all at once.

One thread reads the next frames, the calling thread drives the device, and one thread turns what came out into rows;
the queues between them are bounded. What goes wrong for one frame costs its clip; what goes wrong with the device or
the disk ends the shard.
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
# After these the other frames of a shard would fail as well: they are never blamed on a clip.
FATAL = (*OUT_OF_MEMORY, torch.AcceleratorError)
PENDING_CLIPS = 2  # whose rows are not made yet; bounds the masks held in memory
TRACEBACK_PLACES = 3  # innermost lines of code that a quarantine reason names

Rows = dict[str, np.ndarray]  # by array of the cache, [T, ...]


class Stage(NamedTuple):
    """The three steps of stage one, for proposals or for audio features. Each runs in a thread of its own."""

    read: Callable[[int, int], tuple[Tensor, ...]]  # frames lo..hi of the clip store, each [B, ...] on the CPU
    call: Callable[..., list[Any]]  # these on the device -> one answer per frame
    rows: Callable[[list[Any]], Rows]  # the answers of one clip's frames -> its rows


@dataclass
class Record:
    """What running a shard was like. Goes to its log, since another run of it may go otherwise."""

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
        self.notes.append(f"out of memory with {frames} frames per call, went on with {self.batch_frames}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def run_clips(stage: Stage, clips: list[tuple[int, Clip]], record: Record) -> dict[str, Rows | str]:
    """The rows of every clip, or the reason why it has none, by clip id.

    clips: (first frame, clip), in store order. Raises what `stage.read` raises, and `FATAL` errors of the other steps.
    """
    batches = list(_batches(clips, record.batch_frames))
    answers: dict[int, Any] = {}  # by frame; those of clips that are not complete yet
    packing: deque[tuple[Clip, Future[Rows]]] = deque()
    outcomes: dict[str, Rows | str] = {}
    waiting = deque(clips)

    def unpack(most: int) -> None:
        while len(packing) > most:
            clip, future = packing.popleft()
            error = future.exception()
            outcomes[clip.id] = future.result() if error is None else _blame(clip, None, error, record)

    ahead = prefetch(lambda i: stage.read(*batches[i]), range(len(batches)))
    with ThreadPoolExecutor(1, "pack") as packer, closing(ahead):
        for (lo, hi), inputs in zip(batches, ahead, strict=True):
            answers.update(zip(range(lo, hi), _answers(stage, inputs, record), strict=True))
            while waiting and (end := waiting[0][0] + waiting[0][1].num_frames) <= hi:
                first, clip = waiting.popleft()
                of_clip = [answers.pop(frame) for frame in range(first, end)]
                failed = next(((k, a) for k, a in enumerate(of_clip) if isinstance(a, Exception)), None)
                if failed is None:
                    packing.append((clip, packer.submit(stage.rows, of_clip)))
                    unpack(PENDING_CLIPS)
                else:
                    outcomes[clip.id] = _blame(clip, *failed, record)
        unpack(0)
    return outcomes


def _batches(clips: list[tuple[int, Clip]], most: int) -> Iterator[tuple[int, int]]:
    """Frames lo..hi of every call: at most `most`, without gaps, and the same for every run of a shard."""
    spans = [(first, first + clip.num_frames) for first, clip in clips]
    gaps = [i for i, (a, b) in enumerate(pairwise(spans), start=1) if a[1] != b[0]]
    for i, j in pairwise([0, *gaps, len(spans)] if spans else []):
        lo, end = spans[i][0], spans[j - 1][1]
        yield from ((first, min(first + most, end)) for first in range(lo, end, most))


def _answers(stage: Stage, inputs: tuple[Tensor, ...], record: Record) -> list[Any]:
    """One answer per frame, or the error where the model fails on that frame alone.

    Out of memory: the same frames in smaller batches, and the rest of the shard as well.
    """
    frames = len(inputs[0])
    size = record.batch_frames
    if frames <= size:
        try:
            with record.working(), torch.inference_mode():
                return stage.call(*(x.to(record.device) for x in inputs))
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
    return [answer for piece in pieces for answer in _answers(stage, piece, record)]


def _blame(clip: Clip, frame: int | None, error: BaseException, record: Record) -> str:
    """The reason for the receipt, without folders, so that equal work gives equal bytes; the whole goes to the log."""
    if isinstance(error, FATAL):
        raise error
    record.tracebacks[clip.id] = "".join(traceback.format_exception(error))
    places = traceback.extract_tb(error.__traceback__)[-TRACEBACK_PLACES:]
    lines = [f'  File "{Path(p.filename).name}", line {p.lineno}, in {p.name}' for p in places]
    what = f"{type(error).__name__}: {error}" + ("" if frame is None else f" (frame {frame} of the clip)")
    return "\n".join([*lines, what])
