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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.masks import pack_masks, pack_stats
from ...data.store.attributes import Folding, Provenance
from ...data.store.receipts import log_path, write_log, write_shard
from ...data.store.store import AT_IMPORT, Cache, ClipStore
from ...errors import ComboError
from ...model.audio import encoder
from ...model.audio.interface import AudioEncoder
from ...model.foundation import generator
from ...model.foundation.interface import ProposalGenerator, Proposals
from ..common.devices import device_name, pick_device
from .exactness import record_agreement
from .maskige import fold_and_colour_frames, limit_masks
from .shard_loop import Record, Rows, Stage, run_clips
from .temporal import temporal_maskiges

PACKAGE = "combo-avs"
LOGGED_VERSIONS = (PACKAGE, "torch", "timm", "segment-anything", "transformers", "scikit-image", "numpy", "zarr")
DROPPED = "dropped"  # beside the rows of a clip: int64 [T], masks beyond `max_masks`


class OtherVersion(ComboError):
    """This worker has another version of the package than the driver: what it would write could differ."""


@dataclass(frozen=True)
class Job:
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


@functools.lru_cache(maxsize=2)
def load_model(kind: str, name: str, parameters: str, device: str) -> ProposalGenerator | AudioEncoder:
    """The generator or encoder of a job, loaded once per process and device."""
    build = generator if kind == "proposals" else encoder
    return build(name, json.loads(parameters)).to(torch.device(device))


def provenance_of(model: ProposalGenerator | AudioEncoder, folding: Folding | None) -> Provenance:
    """All that changes the data of a cache, apart from the clips. folding: None for audio."""
    return Provenance(model.name, model.version, model.parameters, model.weights_sha256, folding)


def run_shard(
    job: Job, shard: int, device: str | None = None, again: bool = False, skipped: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Do one shard, unless it is done already. Gives a summary of under 1 kB, never arrays.

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
    where = pick_device(device or job.device)
    model = load_model(job.kind, job.name, job.parameters, str(where))
    here = provenance_of(model, job.folding)
    if here != cache.provenance:
        raise ComboError(f"{cache.path} is made by {cache.provenance.to_json()}, but this worker has {here.to_json()}")
    clips = _clip_store(job.root, job.cache)
    if job.compare_on == shard:
        record_agreement(cache, clips, model, job.name, job.parameters, shard, str(where))
    loaded = time.perf_counter()
    record = Record(where, job.batch_frames)
    arrays, quarantined, counts = _make(job, model, clips, cache, shard, record, dict(skipped or {}))
    log = {
        "device": device_name(where),
        "batch_frames": record.batch_frames,
        "notes": record.notes,
        "tracebacks": record.tracebacks,
        "versions": _versions(),
    }
    span = cache.shard_range(shard)
    write_shard(cache.path, shard, span, cache.specs, arrays, counts=counts, quarantined=quarantined, notes={}, log=log)
    seconds = time.perf_counter() - loaded
    log |= {
        "seconds_per_frame": seconds / (span[1] - span[0]),
        "seconds": seconds,
        "seconds_loading": loaded - started,
        "waiting_share": 1 - record.busy / seconds,  # of the device, with the writing that has just ended
    }
    write_log(log_path(cache.path, shard), log)
    return {
        "shard": shard,
        "counts": counts,
        "quarantined": len(quarantined),
        "seconds": round(seconds, 4),
        "busy": round(record.busy, 4),
    }


def try_clip(job: Job, shard: int, device: str | None = None, *, clip: str) -> None:
    """Run the model over one clip of a shard and keep nothing: to see whether this process survives it."""
    where = pick_device(device or job.device)
    clips = _clip_store(job.root, job.cache)
    stage = stage_of(job, load_model(job.kind, job.name, job.parameters, str(where)), clips)
    alone = [(first, c) for first, c in clips.usable_in(shard) if c.id == clip]
    run_clips(stage, alone, Record(where, job.batch_frames))


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


def _make(
    job: Job, model: Any, clips: ClipStore, cache: Cache, shard: int, record: Record, skipped: dict[str, str]
) -> tuple[Rows, dict[str, str], dict[str, int]]:
    """The arrays of a shard, its quarantined clips with their reasons, and its counts."""
    lo, hi = cache.shard_range(shard)
    there = clips.usable_in(shard)
    at_import = {clip.id: AT_IMPORT for first, clip in clips.clips_in(shard) if (first, clip) not in there}
    usable = [(first, clip) for first, clip in there if clip.id not in skipped]
    with warnings.catch_warnings(record=True) as said:  # such as of batches made smaller inside a generator
        outcomes = run_clips(stage_of(job, model, clips), usable, record)
    record.notes += dict.fromkeys(str(warning.message) for warning in said)
    failed = {clip: why for clip, why in outcomes.items() if isinstance(why, str)}
    if len(failed) == len(usable) > 1:
        one = usable[0][1].id
        raise ComboError(f"{model.name} fails on every clip of shard {shard}; on {one} with\n{failed[one]}")
    arrays = {name: spec.empty(hi - lo) for name, spec in cache.specs.items()}
    counts = {"frames": 0} if job.kind == "audio" else {"frames": 0, "masks": 0, "dropped_masks": 0}
    for first, clip in usable:
        rows = outcomes[clip.id]
        if isinstance(rows, str):
            continue
        counts["frames"] += clip.num_frames
        if job.kind == "proposals":
            counts["masks"] += int(rows["mask_count"].sum(dtype=np.int64))
            counts["dropped_masks"] += int(rows[DROPPED].sum())
        for name, array in arrays.items():
            array[first - lo : first - lo + clip.num_frames] = rows[name]
    return arrays, at_import | skipped | failed, counts


def stage_of(job: Job, model: ProposalGenerator | AudioEncoder, clips: ClipStore) -> Stage:
    """How the model of a job makes rows of its cache from frames of the clip store."""
    return _propose(job, model, clips) if job.kind == "proposals" else _encode(model, clips)


def _propose(job: Job, model: ProposalGenerator, clips: ClipStore) -> Stage:
    def read(lo: int, hi: int) -> tuple[Tensor]:
        return (torch.from_numpy(clips.read("frames", lo, hi)),)

    def rows(found: list[Proposals]) -> Rows:
        for proposals in found:
            if proposals.masks.shape[1:] != clips.size:
                raise ValueError(f"masks of {tuple(proposals.masks.shape[1:])} pixels for frames of {clips.size}")
        limited = [limit_masks(proposals, job.max_masks) for proposals in found]
        rows = proposal_rows([proposals for proposals, _ in limited], job.temporal)
        return rows | {DROPPED: np.array([dropped for _, dropped in limited])}

    return Stage(read, model, rows)


def proposal_rows(found: list[Proposals], temporal: bool = False) -> Rows:
    """The rows of a proposals cache, [F, ...], for the proposals of F frames; with `temporal`, those of one clip."""
    frames = [p.masks for p in found]
    on_cpu = [p.to("cpu") for p in found]
    return {
        "maskige": temporal_maskiges(frames) if temporal else fold_and_colour_frames(frames),
        "masks": _objects([pack_masks(p.masks.numpy()) for p in on_cpu]),
        "mask_stats": _objects([_pack_stats(p) for p in on_cpu]),
        "mask_count": np.array([len(masks) for masks in frames], np.uint16),
    }


def _pack_stats(p: Proposals) -> bytes:
    return pack_stats(*(x.numpy() for x in (p.areas, p.boxes, p.predicted_iou, p.stability, p.points)))


def _encode(model: AudioEncoder, clips: ClipStore) -> Stage:
    def read(lo: int, hi: int) -> tuple[Tensor, Tensor, Tensor]:
        log_mel, waveform, valid = (clips.read(name, lo, hi) for name in ("log_mel", "waveform", "audio_valid"))
        return torch.from_numpy(log_mel), torch.from_numpy(waveform).float() / 32768, torch.from_numpy(valid > 0)

    def call(log_mel: Tensor, waveform: Tensor, valid: Tensor) -> list[tuple[Tensor, Tensor]]:
        return list(zip(model(log_mel, waveform).cpu(), valid.cpu(), strict=True))

    def rows(seconds: list[tuple[Tensor, Tensor]]) -> Rows:
        features = torch.stack([vector for vector, _ in seconds]).numpy()
        if not np.isfinite(features[[bool(valid) for _, valid in seconds]]).all():
            raise ValueError("NaN or Inf among the features")
        return {"features": features}

    return Stage(read, call, rows)


def _objects(values: list[bytes]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out
