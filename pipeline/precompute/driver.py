"""Stage one: plan the shards that are missing, and have workers do them."""

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...data.audio import log_mel_examples, waveform_seconds
from ...data.store.attributes import AudioAttributes, ProposalAttributes
from ...data.store.location import Location, absolute, location
from ...data.store.locks import lock_store
from ...data.store.receipts import write_log
from ...data.store.root import (
    AGREEMENT,
    audio_attributes,
    cache_path,
    create_cache,
    done_before,
    proposal_attributes,
)
from ...data.store.store import AT_IMPORT, ClipStore
from ...errors import BadInput, ComboError
from ...model.audio import encoder
from ...model.audio.interface import AudioEncoder
from ...model.foundation import exact_parameters, generator
from ..common.devices import device_count, pick_device
from ..common.progress import bar
from ..config.precompute import PrecomputeConfig, SlurmConfig
from .cluster import local_workers, running_scheduler, slurm_workers
from .dispatch import Outcome, Task, run_here, run_on_workers
from .selection import ALL, Selection, Share, wanted_shards
from .worker import PACKAGE, CacheJob, provenance_of

if TYPE_CHECKING:
    from distributed import Client

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class Plan:
    """The work of one cache: its job, and the shards that have no valid receipt. Making a plan writes nothing."""

    clips: ClipStore
    job: CacheJob
    attributes: ProposalAttributes | AudioAttributes
    todo: tuple[int, ...]
    again: tuple[int, ...]  # those of them that are done, but have clips to be retried
    wanted: int  # shards asked for, done ones included
    share: Share | None

    @property
    def path(self) -> Location:
        return location(self.job.cache)

    def __str__(self) -> str:
        again = f", {len(self.again)} of them for their quarantined clips" if self.again else ""
        return f"{self.path}: {len(self.todo)} of {self.wanted} shards to do{again}"


def plan_caches(
    root: str | Path,
    config: PrecomputeConfig,
    proposals: str | None,
    audio: str | None,
    selection: Selection = ALL,
    *,
    untrained: bool = False,
) -> list[Plan]:
    """Build the named generator and encoder once to check them, and list what is missing in their caches.

    untrained: the generator's networks get random weights; the cache's name says so.
    Raises `BadInput` for an unfinished clip store, unknown names and clips, and bad parameters or weights.
    """
    if proposals is None and audio is None:
        raise BadInput("nothing to do: name --proposals, --audio or both")
    clips = ClipStore(root)
    shards = wanted_shards(clips, selection)
    plans = []
    if proposals is not None:
        parameters = {**config.generator, **({"untrained": True} if untrained else {})}
        job = _job(clips, "proposals", proposals, parameters, config)
        model = generator(proposals, parameters)
        plan = _plan(clips, job, proposal_attributes(clips, provenance_of(model, job.folding)), shards, selection)
        if plan.todo and exact_parameters(proposals, model.parameters) and not (plan.path / AGREEMENT).exists():
            plan = replace(plan, job=replace(plan.job, compare_on=plan.todo[0]))
        plans.append(plan)
    if audio is not None:
        job = _job(clips, "audio", audio, config.encoder, config)
        model = encoder(audio, config.encoder)
        attributes = audio_attributes(clips, provenance_of(model, None), model.dim, _control_features(model))
        plans.append(_plan(clips, job, attributes, shards, selection))
    return plans


def _job(clips: ClipStore, kind: str, name: str, parameters: dict[str, Any], config: PrecomputeConfig) -> CacheJob:
    """Paths are made absolute: workers need not run in this folder."""
    if isinstance(weights := parameters.get("weights"), str):
        parameters = {**parameters, "weights": str(Path(weights).absolute())}
    return CacheJob(
        root=absolute(clips.path.parent),
        kind=kind,
        cache="",  # its name follows from the provenance, see `_plan`
        name=name,
        parameters=json.dumps(parameters),
        device=config.device,
        batch_frames=config.batch_frames,
        max_masks=config.max_masks,
        temporal=config.temporal,
        package=version(PACKAGE),
    )


def _plan(
    clips: ClipStore,
    job: CacheJob,
    attributes: ProposalAttributes | AudioAttributes,
    shards: list[int],
    selection: Selection,
) -> Plan:
    path = cache_path(clips, attributes)
    done = done_before(path)
    again = set()
    if selection.retry_quarantined:
        again = {s for s in shards if s in done and any(why != AT_IMPORT for why in done[s].quarantined.values())}
    todo = tuple(s for s in shards if s not in done or s in again)
    job = replace(job, cache=absolute(path))
    return Plan(clips, job, attributes, todo, tuple(sorted(again)), len(shards), selection.share)


def run_plans(
    plans: Sequence[Plan], workers: int | None = None, scheduler: str | None = None, slurm: SlurmConfig | None = None
) -> dict[str, str]:
    """Do all shards of all plans. Returns the quarantined clips with their reasons.

    workers: local worker processes, one thread each; None: one per GPU, or one per core without any;
    0 runs in this process without Dask.
    scheduler: address of a running Dask scheduler; slurm: jobs to submit; either instead of local workers.
    Raises `ComboError` when the disk is full, or when shards failed (the others are finished); `BadInput` when a cache
    is in use, no scheduler answers, or a worker has another version of this package.
    """
    tasks = [Task(p.job, shard, shard in p.again) for p in plans for shard in p.todo]
    failures: list[str] = []
    busy = seconds = 0.0
    done = sum(p.wanted - len(p.todo) for p in plans)
    with ExitStack() as held:
        client = held.enter_context(running_scheduler(scheduler)) if tasks and scheduler is not None else None
        caches = [create_cache(p.clips, p.attributes) for p in plans]
        for plan, cache in zip(plans, caches, strict=True):
            held.enter_context(lock_store(cache.path, None if plan.share is None else set(plan.todo)))
        with bar(done + len(tasks), "precompute", "shards", done=done) as progress:
            for outcome in _outcomes(tasks, client, workers, slurm, held):
                if outcome.summary is None:
                    _require_room(outcome)
                    failures.append(_record_failure(outcome))
                else:
                    busy, seconds = busy + outcome.summary["busy"], seconds + outcome.summary["seconds"]
                    progress.set_postfix_str(f"device waits {1 - busy / max(seconds, 1e-9):.0%}", refresh=False)
                progress.update()
    if failures:
        headline = f"{len(failures)} of {len(tasks)} shards failed, the others are done:"
        raise ComboError("\n".join([headline, *failures[:10], "run the same command again to do only these"]))
    return {clip: why for cache in caches for clip, why in cache.quarantined().items()}


def _outcomes(
    tasks: list[Task], client: "Client | None", workers: int | None, slurm: SlurmConfig | None, held: ExitStack
) -> Iterator[Outcome]:
    """Run tasks on the cluster of `client`, or else on workers that are started here, or without any.

    Workers end with `held`, also when the run is interrupted.
    """
    if not tasks:
        return iter(())
    if client is not None:
        return run_on_workers(client, tasks)
    if slurm is not None:
        return run_on_workers(held.enter_context(slurm_workers(slurm, len(tasks))), tasks)
    device = tasks[0].job.device
    pick_device(device)
    if workers == 0:
        return run_here(tasks)
    return run_on_workers(held.enter_context(local_workers(min(len(tasks), workers or device_count(device)))), tasks)


def _require_room(outcome: Outcome) -> None:
    """End the run when there is no room for results, since no other shard could be kept."""
    error = outcome.error
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        raise ComboError(
            f"{outcome.task.job.cache} takes no more data ({error.strerror}); shards that are done stay. Make room "
            "or make it writable, and run the same command again to continue"
        ) from error


def _record_failure(outcome: Outcome) -> str:
    """Say why a shard failed, here and beside the logs of its cache, where it counts until the shard is done."""
    job, shard = outcome.task.job, outcome.task.shard
    why = _explain(outcome.error)
    with suppress(OSError):  # a full disk is often the very reason
        write_log(location(job.cache) / "_log" / f"{shard:06d}.failed.json", {"reason": why})
    return f"{location(job.cache).name} shard {shard}: {why}"


def _explain(error: BaseException | None) -> str:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return (
            f"given up after it killed {error.allowed_failures + 1} workers, the last one {error.last_worker.address}; "
            "their output says why (out of memory, a crash in native code)"
        )
    return str(error) or repr(error)


def _control_features(model: AudioEncoder, seconds: int = 10) -> dict[str, list[list[float]]]:
    """Features of silence and of white noise, so that evaluation without the right sound needs no encoder."""
    noise = np.random.default_rng(0).normal(0, 0.1, seconds * 16_000 + 400)
    rows = {}
    for name, sound in (("silence", np.zeros_like(noise)), ("noise", noise)):
        log_mel = torch.from_numpy(log_mel_examples(sound)[:seconds])
        waveform = torch.from_numpy(waveform_seconds(sound, seconds)).float() / 32768
        with torch.inference_mode():
            rows[name] = model(log_mel, waveform[: len(log_mel)]).tolist()
    return rows
