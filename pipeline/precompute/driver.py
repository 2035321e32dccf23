"""Stage one from the outside: plan the shards that are missing, and have Dask workers do them."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...data.audio import log_mel_examples, waveform_seconds
from ...data.cache_root import cache_path, create_cache, exclusive
from ...data.store import Cache, ClipStore
from ...errors import BadInput, ComboError
from ...model.audio import encoder
from ...model.audio.border import AudioEncoder
from ...model.foundation import generator
from ...model.foundation.border import ProposalGenerator
from ..devices import pick_device
from ..progress import bar
from .config import PrecomputeConfig
from .worker import Job, run_shard

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class Plan:
    """The work of one cache: its job, and the shards that have no valid receipt. Making a plan writes nothing."""

    job: Job
    maker: dict[str, Any]
    extra: dict[str, Any]  # what else `create_cache` needs
    todo: tuple[int, ...]
    wanted: int  # shards asked for, done ones included

    @property
    def path(self) -> Path:
        return Path(self.job.cache)

    def __str__(self) -> str:
        return f"{self.path}: {len(self.todo)} of {self.wanted} shards to do"


def plan_caches(
    root: Path, config: PrecomputeConfig, proposals: str | None, audio: str | None, split: str | None
) -> list[Plan]:
    """Build the named generator and encoder once to check them, and list what is missing in their caches.

    Raises `BadInput` for an unfinished clip store, unknown names, and bad parameters or weights.
    """
    if proposals is None and audio is None:
        raise BadInput("nothing to do: name --proposals, --audio or both")
    clips = ClipStore(root)
    plans = []
    if proposals is not None:
        model = generator(proposals, config.generator)
        plans.append(_plan(clips, "proposals", model, config.generator, config, split))
    if audio is not None:
        model = encoder(audio, config.encoder)
        extra = {"dim": model.dim, "probes": _probes(model)}
        plans.append(_plan(clips, "audio", model, config.encoder, config, split, **extra))
    return plans


def _plan(
    clips: ClipStore,
    kind: str,
    model: ProposalGenerator | AudioEncoder,
    parameters: dict[str, Any],
    config: PrecomputeConfig,
    split: str | None,
    **extra: Any,
) -> Plan:
    maker = {
        "name": model.name,
        "version": model.version,
        "parameters": model.parameters,
        "weights_sha256": model.weights_sha256,
    }
    path = cache_path(clips, kind, maker)
    device = str(pick_device(config.device))
    root = str(clips.path.parent)
    job = Job(root, kind, str(path), model.name, json.dumps(parameters), device, config.batch_frames)
    done = Cache(path).receipts() if path.exists() else {}
    shards = clips.shards_of(split)
    return Plan(job, maker, extra, tuple(s for s in shards if s not in done), len(shards))


def run_plans(plans: list[Plan], workers: int | None, scheduler: str | None) -> dict[str, str]:
    """Do all shards of all plans. Gives the quarantined clips with their reasons.

    workers: local worker processes, one thread each; None: one per GPU, or one per core without any;
    0 runs in this process without Dask.
    scheduler: address of a running Dask scheduler, instead of local workers.
    Raises `ComboError` when shards failed (the others are finished), `BadInput` when a cache is in use.
    """
    caches = [create_cache(ClipStore(Path(p.job.root)), p.job.kind, p.maker, **p.extra) for p in plans]
    with ExitStack() as held:
        for cache in caches:
            held.enter_context(exclusive(cache))
        tasks = [(plan.job, shard) for plan in plans for shard in plan.todo]
        failures: list[str] = []
        done = sum(p.wanted - len(p.todo) for p in plans)
        with bar(done + len(tasks), "precompute", "shards", done=done) as progress:
            for job, shard, error in _outcomes(tasks, workers, scheduler):
                if error is not None:
                    failures.append(f"{Path(job.cache).name} shard {shard}: {error}")
                progress.update()
    if failures:
        headline = f"{len(failures)} of {len(tasks)} shards failed, the others are done:"
        raise ComboError("\n".join([headline, *failures[:10], "run the same command again to do only these"]))
    return {clip: why for cache in caches for clip, why in cache.quarantined().items()}


def _outcomes(
    tasks: list[tuple[Job, int]], workers: int | None, scheduler: str | None
) -> Iterator[tuple[Job, int, BaseException | None]]:
    """Each task as it ends, with the exception that ended it."""
    if not tasks:
        return
    if workers == 0 and scheduler is None:
        for job, shard in tasks:
            try:
                run_shard(job, shard)
            except Exception as error:
                yield job, shard, error
            else:
                yield job, shard, None
        return
    from distributed import as_completed

    count = min(len(tasks), workers or _devices(tasks[0][0].device))
    with _client(count, scheduler) as client:
        futures = {
            client.submit(_run_on_worker, job, shard, key=f"{Path(job.cache).stem}-{shard}", retries=1): (job, shard)
            for job, shard in tasks
        }
        for future in as_completed(futures):
            yield *futures[future], future.exception()


def _run_on_worker(job: Job, shard: int) -> dict[str, Any]:
    """Local workers are numbered, and take the GPU of their number; others see the one they were started with."""
    from distributed import get_worker

    number = get_worker().name
    if job.device == "cuda" and isinstance(number, int):
        return run_shard(job, shard, f"cuda:{number % torch.cuda.device_count()}")
    return run_shard(job, shard)


def _devices(device: str) -> int:
    return torch.cuda.device_count() if device == "cuda" else (os.cpu_count() or 1)


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator["Client"]:
    import dask
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, TimeoutError, ValueError) as error:
            raise BadInput(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from error
        with client:
            yield client
        return
    # A shard that kills its worker is given up after three tries; a stuck dashboard port must not stop a job.
    with (
        TemporaryDirectory(prefix="combo-dask-") as scratch,
        dask.config.set({"distributed.scheduler.allowed-failures": 3}),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs=logging.ERROR,  # a stopped job says so itself
            memory_limit=0,
            local_directory=scratch,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _probes(model: AudioEncoder, seconds: int = 10) -> dict[str, Any]:
    """Features of silence and of white noise, so that evaluation without the right sound needs no encoder."""
    noise = np.random.default_rng(0).normal(0, 0.1, seconds * 16_000 + 400)
    rows = {}
    for name, sound in (("silence", np.zeros_like(noise)), ("noise", noise)):
        log_mel = torch.from_numpy(log_mel_examples(sound)[:seconds])
        waveform = torch.from_numpy(waveform_seconds(sound, seconds)).float() / 32768
        with torch.inference_mode():
            rows[name] = model(log_mel, waveform[: len(log_mel)]).tolist()
    return rows
