"""Run tasks through Dask, or one after another in this process."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from importlib.metadata import version
from itertools import count, islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

import torch
from tqdm import tqdm

from ...data.store.store import ClipStore
from ...errors import BadInput, ComboError
from ..common.devices import worker_device
from .worker import PACKAGE, CacheJob, OtherVersion, run_shard, try_clip

if TYPE_CHECKING:
    from distributed import Client, KilledWorker

WINDOW = 1000  # tasks known to the scheduler at once: its memory does not grow with the number of shards
SECONDS_BETWEEN_CHECKS = 2.0  # of who has joined
SCHEDULER_LOST = "the Dask scheduler went away; run the same command again to continue"
DEADLY = "kills the workers that run it; their output says why (out of memory, a crash in native code)"


class Task(NamedTuple):
    """One shard of one cache."""

    job: CacheJob
    shard: int
    again: bool  # even if it is done


class Outcome(NamedTuple):
    """The result of a task: the summary of `run_shard`, or an error."""

    task: Task
    summary: dict[str, Any] | None
    error: BaseException | None


def run_here(tasks: Sequence[Task]) -> Iterator[Outcome]:
    """In this process, without Dask."""
    for task in tasks:
        try:
            yield Outcome(task, run_shard(task.job, task.shard, again=task.again), None)
        except torch.AcceleratorError as error:  # it cannot be used again by this process
            raise ComboError(f"the device failed ({error}); run the same command again to continue") from error
        except Exception as error:
            yield Outcome(task, None, error)


def run_on_workers(client: "Client", tasks: Sequence[Task]) -> Iterator[Outcome]:
    """On the workers of a cluster, which may join and leave; in the order in which tasks end.

    Shards that kill workers come last, without the clips that do so: these are quarantined.
    Raises `BadInput` when workers have another version of this package, `ComboError` when the scheduler is lost.
    """
    from distributed import KilledWorker, as_completed

    crew = _Workers(client)
    run = uuid4().hex[:8]  # keys of an earlier run may still be known to a scheduler that outlived it
    numbers = count()
    waiting = iter(tasks)
    running: dict[Any, Task] = {}  # by Dask's key
    killed: list[tuple[Task, KilledWorker]] = []
    # Results are fetched at once: those of a worker that dies would have to be computed again.
    ended = as_completed(with_results=True, raise_errors=False)

    def submit(task: Task) -> None:
        name = f"{PurePath(task.job.cache).stem}-{task.shard}-{run}-{next(numbers)}"
        future = client.submit(
            _on_worker, run_shard, task.job, task.shard, again=task.again, key=name, retries=1, pure=False
        )
        running[future.key] = task
        ended.add(future)

    for task in islice(waiting, WINDOW):
        submit(task)
    for future, result in ended:
        if isinstance(result, CancelledError):
            raise ComboError(SCHEDULER_LOST)
        error = result[1] if future.status == "error" else None
        task = running.pop(future.key)
        if isinstance(error, OtherVersion):  # of a worker that has just joined
            crew.dismiss_other_versions()
            submit(task)
            continue
        crew.check()
        for following in islice(waiting, 1):
            submit(following)
        if isinstance(error, KilledWorker):
            killed.append((task, error))
        else:
            yield Outcome(task, result if error is None else None, error)
    for task, error in killed:
        try:
            outcome = _without_deadly_clips(client, task, error)
        except CancelledError as lost:
            raise ComboError(SCHEDULER_LOST) from lost
        yield outcome


def _without_deadly_clips(client: "Client", task: Task, error: "KilledWorker") -> Outcome:
    """Do a shard that killed workers, without the clips that also kill workers when they run alone.

    If no clip does, the cause may have passed; if every clip does, the cause is not the clips.
    """
    from distributed import KilledWorker

    what = f"shard {task.shard} of {PurePath(task.job.cache).name}"
    tqdm.write(f"{what} killed {error.allowed_failures + 1} workers: trying its clips one by one", file=sys.stderr)
    clips = [clip.id for _, clip in ClipStore(task.job.root).usable_in(task.shard)]
    deadly = {}
    for clip in clips:
        died = client.submit(_on_worker, try_clip, task.job, task.shard, clip=clip, pure=False).exception()
        if isinstance(died, KilledWorker):
            deadly[clip] = DEADLY
    if len(deadly) == len(clips) > 1:
        return Outcome(task, None, error)
    rest = client.submit(_on_worker, run_shard, task.job, task.shard, again=task.again, skipped=deadly, pure=False)
    failed: Any = rest.exception()
    return Outcome(task, rest.result() if failed is None else None, failed)


class _Workers:
    """The workers of a cluster, all of this version: others end the run at its start, and are dismissed later."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._known: set[str] = set()
        self._checked = time.monotonic()
        if others := self._newcomers_of_other_versions():
            advice = f"install {PACKAGE} {version(PACKAGE)} there, and restart them"
            raise BadInput.listing("workers have another version of the package than this run:", _shown(others), advice)
        if not self._known:
            tqdm.write("no workers yet; the run begins when the first one joins", file=sys.stderr)

    def check(self) -> None:
        """Look for new workers, once in a while."""
        if time.monotonic() - self._checked > SECONDS_BETWEEN_CHECKS:
            self.dismiss_other_versions()

    def dismiss_other_versions(self) -> None:
        self._checked = time.monotonic()
        if others := self._newcomers_of_other_versions():
            self._client.retire_workers(list(others))
            tqdm.write(f"sent away, for another version of the package: {'; '.join(_shown(others))}", file=sys.stderr)

    def _newcomers_of_other_versions(self) -> dict[str, Any]:
        """Address and version, or the error where the package is missing."""
        there = set(self._client.scheduler_info(n_workers=-1)["workers"])
        new, self._known = there - self._known, there
        if not new:
            return {}
        # A function of the standard library, so that it also runs where this package is missing.
        found: Any = self._client.run(version, PACKAGE, workers=sorted(new), on_error="return")
        return {address: there for address, there in found.items() if there != version(PACKAGE)}


def _shown(versions: dict[str, Any]) -> list[str]:
    return [f"{address}: {v if isinstance(v, str) else repr(v)}" for address, v in versions.items()]


def _on_worker(function: Callable[..., Any], job: CacheJob, shard: int, **options: Any) -> Any:
    from distributed import get_worker

    try:
        return function(job, shard, str(worker_device(job.device, str(get_worker().name))), **options)
    except torch.AcceleratorError:
        # No later call could use the device from this process. Dask starts another one and tries again there.
        traceback.print_exc()
        os._exit(1)
