"""How close an approximate setting of a generator is to its exact one, measured on a few frames."""

from collections.abc import Sequence

import torch

from ...data.store.receipts import write_log
from ...data.store.root import AGREEMENT
from ...data.store.store import Cache, ClipStore
from ...model.foundation.interface import ProposalGenerator, Proposals
from .masks import mask_iou, maskiges
from .shard_loop import FATAL

CLOSE = 0.9  # IoU from which on two masks count as the same
COMPARED_FRAMES = 4  # at most, each of another clip


def record_agreement(
    cache: Cache,
    clips: ClipStore,
    shard: int,
    exact: ProposalGenerator,
    other: ProposalGenerator,
    device: torch.device,
) -> None:
    """Compare two generators on frames of a shard, and write the result beside the logs of `cache`.

    Frames that either fails on are left out: their clips are quarantined when their turn comes. Without any other
    frame, nothing is written.
    """
    firsts = [first for first, _ in clips.usable_in(shard)]
    measured: list[dict[str, float]] = []
    for first in firsts[:: max(1, len(firsts) // COMPARED_FRAMES)][:COMPARED_FRAMES]:
        frames = torch.from_numpy(clips.read("frames", first, first + 1)).to(device)
        try:
            with torch.inference_mode():
                measured.append(agreement(exact(frames)[0], other(frames)[0]))
        except FATAL:
            raise
        except Exception:
            continue
    if measured:
        write_log(cache.path / AGREEMENT, {"exact": exact.parameters, "agreement": mean_agreement(measured)})


def agreement(exact: Proposals, other: Proposals) -> dict[str, float]:
    """Compare the proposals of one frame, made by the exact setting and by another one, in whatever order they are.

    masks, other_masks: how many there are.
    best_iou: mean over the exact masks of the IoU with the closest other mask, 0..1.
    found: share of exact masks that another mask meets with an IoU of at least `CLOSE`.
    real: share of other masks that an exact mask meets so; together with `found` it tells lost masks from made-up ones.
    maskige_pixels: share of pixels with the same colour in both Maskiges. One lost mask recolours all larger ones.
    Where one side has no mask at all, its means are 1 if the other has none either, and 0 else.
    """
    iou = mask_iou(exact.masks, other.masks.to(exact.masks.device))
    ours, theirs = maskiges([exact.masks.cpu(), other.masks.cpu()])
    best_of_exact, best_of_other = _best(iou), _best(iou.T)
    return {
        "masks": len(exact.masks),
        "other_masks": len(other.masks),
        "best_iou": float(best_of_exact.mean()),
        "found": float((best_of_exact >= CLOSE).double().mean()),
        "real": float((best_of_other >= CLOSE).double().mean()),
        "maskige_pixels": float((ours == theirs).all(-1).mean()),
    }


def _best(iou: torch.Tensor) -> torch.Tensor:
    """The greatest IoU of each row, float64 [K]; one number instead where there is nothing to compare."""
    if 0 in iou.shape:
        return torch.ones(1).double() if iou.shape == (0, 0) else torch.zeros(1).double()
    return iou.amax(1)


def mean_agreement(frames: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of `agreement` over F >= 1 frames, each counting the same, with "frames" and the worst "best_iou"."""
    means = {key: sum(frame[key] for frame in frames) / len(frames) for key in frames[0]}
    return {"frames": len(frames), **means, "worst_best_iou": min(frame["best_iou"] for frame in frames)}
