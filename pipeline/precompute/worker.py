"""One task of stage one: one shard of one cache. Knows nothing of Dask."""

import functools
import json
import platform
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...data.clip import Clip
from ...data.store.attributes import Folding, Provenance
from ...data.store.commit import commit_shard
from ...data.store.receipts import log_path, write_log
from ...data.store.store import AT_IMPORT, Cache, ClipStore
from ...errors import ComboError
from ...model.audio import encoder
from ...model.audio.interface import AudioEncoder
from ...model.builders import FrozenModel
from ...model.foundation import exact_parameters, generator
from ...model.foundation.interface import ProposalGenerator, Proposals
from ..common.devices import device_name, pick_device
from .exactness import record_agreement
from .masks import limit_masks, proposal_rows
from .shard_loop import Record, Rows, Steps, run_clips

PACKAGE = "combo-avs"
LOGGED_VERSIONS = (PACKAGE, "torch", "timm", "segment-anything", "transformers", "scikit-image", "numpy", "zarr")
DROPPED = "dropped"  # besides the rows of a clip: int64 [T], masks beyond `max_masks`


NONE: Mapping[str, str] = MappingProxyType({})


class OtherVersion(ComboError):
    """This worker has another version of the package than the driver, so its results could differ."""


@dataclass(frozen=True)
class CacheJob:
    """What to run over which clips; small and picklable. `parameters` is JSON text, so that a job can be hashed."""

    root: str  # folder or URL
    kind: str  # proposals or audio
    cache: str  # path or URL of the cache
    name: str  # in the table of generators or encoders
    parameters: str
    device: str  # as in the config: auto is decided by the worker
    batch_frames: int
    max_masks: int
    temporal: bool
    package: str  # version of this package that planned the job
    compare_on: int | None = None  # the shard on which an approximate generator is compared with the exact one

    @property
    def folding(self) -> Folding | None:
        """None for audio."""
        return Folding(self.max_masks, self.temporal) if self.kind == "proposals" else None


@functools.lru_cache(maxsize=1)
def _generator(name: str, parameters: str, device: str) -> ProposalGenerator:
    """Loaded once per process and device."""
    return generator(name, json.loads(parameters)).to(torch.device(device))


@functools.lru_cache(maxsize=1)
def _encoder(name: str, parameters: str, device: str) -> AudioEncoder:
    """Loaded once per process and device."""
    return encoder(name, json.loads(parameters)).to(torch.device(device))


def provenance_of(model: FrozenModel, folding: Folding | None) -> Provenance:
    """All that changes the data of a cache, apart from the clips. folding: None for audio."""
    return Provenance(model.name, model.version, dict(model.parameters), model.weights_sha256, folding)


class Work(NamedTuple):
    """A job on a device of this process."""

    device: torch.device
    model: FrozenModel
    steps: Steps
    clips: ClipStore


def open_job(job: CacheJob, device: str | None = None) -> Work:
    """Load the model of a job; device: instead of the job's. Raises `BadInput` when that is not here."""
    where, clips = pick_device(device or job.device), _clip_store(job.root, job.cache)
    if job.kind == "proposals":
        model = _generator(job.name, job.parameters, str(where))
        return Work(where, model, _proposal_steps(job, model, clips), clips)
    model = _encoder(job.name, job.parameters, str(where))
    return Work(where, model, _audio_steps(model, clips), clips)


def run_shard(
    job: CacheJob, shard: int, device: str | None = None, *, again: bool = False, skipped: Mapping[str, str] = NONE
) -> dict[str, Any]:
    """Do one shard, unless it is done already. Returns a summary of under 1 kB, never arrays.

    device: instead of the job's. again: do it even if it is done, to try its quarantined clips once more.
    skipped: clips to quarantine without trying, with the reasons.
    A clip on which the model fails is quarantined, as are those that were at import: their rows hold fill values.
    Raises `OtherVersion`, `ComboError` when this process has another model than the cache was made for or when the
    model fails on every clip, and whatever the device or the disk raises.
    """
    installed = version(PACKAGE)
    if installed != job.package:
        raise OtherVersion(f"this worker has {PACKAGE} {installed}, the run needs {job.package}: install that here")
    cache = Cache(job.cache)
    done = None if again else cache.finished(shard)
    if done is not None:
        return {"shard": shard, "counts": done.counts, "quarantined": len(done.quarantined), "seconds": 0, "busy": 0}
    started = time.perf_counter()
    work = open_job(job, device)
    here = provenance_of(work.model, job.folding)
    if here != cache.provenance:
        raise ComboError(f"{cache.path} is made by {cache.provenance.to_json()}, but this worker has {here.to_json()}")
    if job.compare_on == shard:
        _compare_with_exact(job, work, cache)
    loaded = time.perf_counter()
    record = Record(work.device, job.batch_frames)
    usable = work.clips.usable_in(shard)
    at_import = {c.id: AT_IMPORT for first, c in work.clips.clips_in(shard) if (first, c) not in usable}
    outcomes = _run(work, [(first, clip) for first, clip in usable if clip.id not in skipped], record, shard)
    failed = {clip: why for clip, why in outcomes.items() if isinstance(why, str)}
    quarantined = {**at_import, **skipped, **failed}
    span = cache.shard_range(shard)
    arrays, counts = _assemble(cache, span, [(f, r) for f, c in usable if isinstance(r := outcomes.get(c.id), dict)])
    log = {
        "device": device_name(work.device),
        "batch_frames": record.batch_frames,
        "notes": record.notes,
        "tracebacks": record.tracebacks,
        "versions": _versions(),
    }
    write_log(log_path(cache.path, shard), log)
    commit_shard(cache, shard, arrays, counts=counts, quarantined=quarantined, notes={})
    seconds = time.perf_counter() - loaded
    log |= {
        "seconds_per_frame": seconds / (span[1] - span[0]),
        "seconds": seconds,
        "seconds_loading": loaded - started,
        "waiting_share": 1 - record.busy / seconds,  # of the device, including the writing that has just ended
    }
    write_log(log_path(cache.path, shard), log)
    return {
        "shard": shard,
        "counts": counts,
        "quarantined": len(quarantined),
        "seconds": round(seconds, 4),
        "busy": round(record.busy, 4),
    }


def try_clip(job: CacheJob, shard: int, device: str | None = None, *, clip: str) -> None:
    """Run the model over one clip of a shard and keep nothing, to see whether this process survives it."""
    work = open_job(job, device)
    alone = [(first, c) for first, c in work.clips.usable_in(shard) if c.id == clip]
    run_clips(work.steps, alone, Record(work.device, job.batch_frames))


def _compare_with_exact(job: CacheJob, work: Work, cache: Cache) -> None:
    approximate = _generator(job.name, job.parameters, str(work.device))
    exactly = exact_parameters(job.name, approximate.parameters)
    exact = generator(job.name, {**json.loads(job.parameters), **exactly}).to(work.device)
    assert job.compare_on is not None
    record_agreement(cache, work.clips, job.compare_on, exact, approximate, work.device)


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in LOGGED_VERSIONS:
        with suppress(PackageNotFoundError):  # transformers is an extra
            found[package] = version(package)
    return found


@functools.lru_cache(maxsize=2)
def _clip_store(root: str, cache: str) -> ClipStore:
    """Opened once per process. `cache` stands for the contents: its name follows from the clips' fingerprint."""
    return ClipStore(root)


def _run(work: Work, clips: list[tuple[int, Clip]], record: Record, shard: int) -> dict[str, Rows | str]:
    """`run_clips`, with warnings noted; `ComboError` if the model fails on each of several clips."""
    with warnings.catch_warnings(record=True) as caught:  # such as of batches made smaller inside a generator
        outcomes = run_clips(work.steps, clips, record)
    record.notes += dict.fromkeys(str(warning.message) for warning in caught)
    if len(clips) > 1 and all(isinstance(outcome, str) for outcome in outcomes.values()):
        one = clips[0][1].id
        raise ComboError(f"{work.model.name} fails on every clip of shard {shard}; on {one} with\n{outcomes[one]}")
    return outcomes


def _assemble(cache: Cache, span: tuple[int, int], clips: list[tuple[int, Rows]]) -> tuple[Rows, dict[str, int]]:
    """The arrays of a shard, with fill values where no clip has rows, and its counts. clips: first frame and rows."""
    lo, hi = span
    arrays = {name: spec.empty(hi - lo) for name, spec in cache.specs.items()}
    counts = {"frames": 0} if cache.kind == "audio" else {"frames": 0, "masks": 0, "dropped_masks": 0}
    for first, rows in clips:
        for name, array in arrays.items():
            array[first - lo : first - lo + len(rows[name])] = rows[name]
        counts["frames"] += len(rows[next(iter(arrays))])
        if cache.kind == "proposals":
            counts["masks"] += int(rows["mask_count"].sum(dtype=np.int64))
            counts["dropped_masks"] += int(rows[DROPPED].sum())
    return arrays, counts


def _proposal_steps(job: CacheJob, model: ProposalGenerator, clips: ClipStore) -> Steps:
    def read(lo: int, hi: int) -> tuple[Tensor]:
        return (torch.from_numpy(clips.read("frames", lo, hi)),)

    def pack(found: list[Proposals]) -> Rows:
        for proposals in found:
            if proposals.masks.shape[1:] != clips.size:
                raise ValueError(f"masks of {tuple(proposals.masks.shape[1:])} pixels for frames of {clips.size}")
        limited = [limit_masks(proposals, job.max_masks) for proposals in found]
        rows = proposal_rows([proposals for proposals, _ in limited], temporal=job.temporal)
        return rows | {DROPPED: np.array([dropped for _, dropped in limited])}

    return Steps(read, model, pack)


def _audio_steps(model: AudioEncoder, clips: ClipStore) -> Steps:
    def read(lo: int, hi: int) -> tuple[Tensor, Tensor, Tensor]:
        log_mel, waveform, valid = (clips.read(name, lo, hi) for name in ("log_mel", "waveform", "audio_valid"))
        return torch.from_numpy(log_mel), torch.from_numpy(waveform).float() / 32768, torch.from_numpy(valid > 0)

    def call(log_mel: Tensor, waveform: Tensor, valid: Tensor) -> list[tuple[Tensor, Tensor]]:
        return list(zip(model(log_mel, waveform).cpu(), valid.cpu(), strict=True))

    def pack(seconds: list[tuple[Tensor, Tensor]]) -> Rows:
        features = torch.stack([vector for vector, _ in seconds]).numpy()
        if not np.isfinite(features[[bool(valid) for _, valid in seconds]]).all():
            raise ValueError("NaN or Inf among the features")
        return {"features": features}

    return Steps(read, call, pack)
