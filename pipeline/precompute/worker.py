"""One task of stage one: one shard of one cache. Knows nothing of Dask."""

import functools
import json
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.masks import maskige, pack_masks, pack_stats
from ...data.receipts import write_shard
from ...data.store import Cache, ClipStore
from ...errors import ComboError
from ...model.audio import encoder
from ...model.audio.border import AudioEncoder
from ...model.foundation import generator
from ...model.foundation.border import ProposalGenerator, Proposals


@dataclass(frozen=True)
class Job:
    """What to run over which clips; small and picklable. `parameters` is JSON text, so that a job can be hashed."""

    root: str
    kind: str  # proposals or audio
    cache: str  # path of the cache
    name: str  # of the generator or encoder
    parameters: str
    device: str
    batch_frames: int


@functools.lru_cache(maxsize=2)
def load_model(kind: str, name: str, parameters: str, device: str) -> ProposalGenerator | AudioEncoder:
    """The generator or encoder of a job, loaded once per process and device."""
    build = generator if kind == "proposals" else encoder
    return build(name, json.loads(parameters)).to(torch.device(device))


def run_shard(job: Job, shard: int, device: str | None = None) -> dict[str, Any]:
    """Do one shard, unless it is done already. Gives a summary of under 1 kB, never arrays.

    A clip that was quarantined at import stays so. Raises whatever the model or the disk raises.
    """
    cache = Cache(Path(job.cache))
    clips = ClipStore(Path(job.root))
    done = cache.finished(shard)
    if done is None:
        started = time.perf_counter()
        model = load_model(job.kind, job.name, job.parameters, device or job.device)
        lo, hi = cache.shard_range(shard)
        if job.kind == "proposals":
            arrays, counts = _propose(model, clips, lo, hi, device or job.device, job.batch_frames)
        else:
            arrays, counts = _encode(model, clips, lo, hi, device or job.device)
        bad = _quarantined(clips, shard)
        log = _log(device or job.device, time.perf_counter() - started, hi - lo)
        done = write_shard(
            cache.path, shard, (lo, hi), cache.specs, arrays, counts=counts, quarantined=bad, notes={}, log=log
        )
    return {"shard": shard, "counts": done.counts, "quarantined": len(done.quarantined)}


def _propose(
    model: ProposalGenerator, clips: ClipStore, lo: int, hi: int, device: str, batch: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    found: list[Proposals] = []
    for first in range(lo, hi, batch):
        frames = clips.read("frames", first, min(first + batch, hi))
        found += model(torch.from_numpy(frames).to(device))
    return proposal_rows(found), {"frames": hi - lo, "masks": sum(len(p.masks) for p in found)}


def proposal_rows(found: list[Proposals]) -> dict[str, np.ndarray]:
    """The rows of a proposals cache, [F, ...], for the proposals of F frames."""
    masks = [p.masks.numpy() for p in found]
    return {
        "maskige": np.stack([maskige(m) for m in masks]),
        "masks": _objects([pack_masks(m) for m in masks]),
        "mask_stats": _objects(
            [
                pack_stats(
                    p.areas.numpy(), p.boxes.numpy(), p.predicted_iou.numpy(), p.stability.numpy(), p.points.numpy()
                )
                for p in found
            ]
        ),
        "mask_count": np.array([len(m) for m in masks], np.uint16),
    }


def _encode(
    model: AudioEncoder, clips: ClipStore, lo: int, hi: int, device: str
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    log_mel = torch.from_numpy(clips.read("log_mel", lo, hi))
    waveform = torch.from_numpy(clips.read("waveform", lo, hi)).float() / 32768
    with torch.inference_mode():
        features = model(log_mel.to(device), waveform.to(device)).cpu().numpy()
    if not np.isfinite(features[clips.read("audio_valid", lo, hi) > 0]).all():
        raise ComboError(f"{model.name} gave NaN or Inf for frames {lo}..{hi} of {clips.path}; check its weights")
    return {"features": features}, {"frames": hi - lo}


def _quarantined(clips: ClipStore, shard: int) -> dict[str, str]:
    receipt = clips.finished(shard)
    return {} if receipt is None else dict.fromkeys(receipt.quarantined, "quarantined at import")


def _objects(values: list[bytes]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def _log(device: str, seconds: float, frames: int) -> dict[str, Any]:
    packages = ("combo-avs", "torch", "timm", "scikit-image", "numpy", "zarr")
    return {
        "seconds_per_frame": seconds / frames,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or device,
        "versions": {p: version(p) for p in packages},
    }
