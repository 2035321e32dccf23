"""How far an approximate setting is from the exact one: measured once on a few frames, and kept with the cache."""

import json
from typing import Any

import torch

from ...data.store.receipts import write_log
from ...data.store.root import AGREEMENT
from ...data.store.store import Cache, ClipStore
from ...model.foundation import generator
from ...model.foundation.interface import ProposalGenerator
from .agreement import agreement, mean_agreement
from .shard_loop import FATAL

# Parameters that trade exactness for speed, where a generator has them, with their exact (published) values.
EXACT = {"precision": "fp32", "points_per_side": 32}
COMPARED_FRAMES = 4  # at most, each of another clip


def approximations(parameters: dict[str, Any]) -> dict[str, Any]:
    """What would have to be set so that a generator with these parameters is exact; empty if it is."""
    return {k: v for k, v in EXACT.items() if k in parameters and parameters[k] != v}


def record_agreement(
    cache: Cache, clips: ClipStore, model: ProposalGenerator, name: str, parameters: str, shard: int, device: str
) -> None:
    """Compare `model` with its exact form on frames of a shard, and write the result beside the logs of `cache`.

    name, parameters: what `model` was built from; see `agreement.agreement` for what is measured. Frames that either
    fails on say nothing here: their clips are quarantined when their turn comes. Without any other, nothing is written.
    """
    exact = generator(name, json.loads(parameters) | approximations(model.parameters)).to(torch.device(device))
    firsts = [first for first, _ in clips.usable_in(shard)]
    measured: list[dict[str, float]] = []
    for first in firsts[:: max(1, len(firsts) // COMPARED_FRAMES)][:COMPARED_FRAMES]:
        frames = torch.from_numpy(clips.read("frames", first, first + 1)).to(device)
        try:
            with torch.inference_mode():
                measured.append(agreement(exact(frames)[0], model(frames)[0]))
        except FATAL:
            raise
        except Exception:
            continue
    if measured:
        write_log(cache.path / AGREEMENT, {"exact": exact.parameters, "agreement": mean_agreement(measured)})
