"""Compare two proposal generators on the same clips: how many masks each finds, and where they agree."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...data.store.location import Location
from ...data.store.root import open_cache
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput
from ..common.progress import bar
from ..common.text import columns
from ..precompute.masks import mask_iou

MAX_CLIPS = 10  # listed


@dataclass(frozen=True)
class CacheDiff:
    """Means over all frames that both caches have; None where no frame has anything to compare.

    Pairs are (first cache, second cache). masks: masks per frame. covered: share of the pixels under any mask.
    best_iou: mean over a cache's masks of the IoU with the closest mask of the other cache.
    maskige_pixels: share of pixels of the same colour in both Maskiges. clips: (id, best_iou, maskige_pixels), least
    similar first; best_iou is the mean over the masks of both caches.
    """

    names: tuple[str, str]
    frames: int
    masks: tuple[float, float]
    covered: tuple[float, float]
    best_iou: tuple[float | None, float | None]
    maskige_pixels: float
    clips: tuple[tuple[str, float | None, float], ...]

    def to_json(self) -> dict[str, Any]:
        return vars(self)

    def __str__(self) -> str:
        rows = [
            (f"{self.frames} frames", *self.names),
            ("masks per frame", *(f"{v:.1f}" for v in self.masks)),
            ("pixels under a mask", *(f"{v:.1%}" for v in self.covered)),
            ("IoU with the other's closest mask", *map(_show, self.best_iou)),
        ]
        pixels = f"pixels of the same colour in both Maskiges: {self.maskige_pixels:.1%}"
        clips = [f"  {c}: best IoU {_show(i)}, Maskige {p:.1%}" for c, i, p in self.clips]
        return "\n".join([*columns(rows), pixels, "least similar:", *clips])


def _show(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def diff_caches(root: str | Location, first: str, second: str, split: str | None = None) -> CacheDiff:
    """Compare two proposals caches of a root, frame by frame, on the clips that both have.

    first, second: names as for `open_cache`. Raises `BadInput` when one is missing or stale, or when no clip
    is finished in both.
    """
    clips = ClipStore(root)
    caches = open_cache(clips, "proposals", first), open_cache(clips, "proposals", second)
    if caches[0].path == caches[1].path:
        raise BadInput(f"{first} and {second} are the same cache, {caches[0].name}")
    done = set(caches[0].receipts()) & set(caches[1].receipts()) & set(clips.shards_of(split))
    bad = {**clips.quarantined(), **caches[0].quarantined(), **caches[1].quarantined()}
    rows = [r for r in clips.table.rows(split).tolist() if clips.span(r)[0] // clips.shard_frames in done]
    rows = [r for r in rows if clips.table[r].id not in bad]
    numbers: list[np.ndarray] = []
    best: tuple[list[np.ndarray], list[np.ndarray]] = [], []
    by_clip: list[tuple[str, float | None, float]] = []
    with bar(len(rows), f"{caches[0].name} against {caches[1].name}", "clips") as progress:
        for row in rows:
            of_clip, *ious = _diff_clip(caches, *clips.span(row))
            by_clip.append((clips.table[row].id, _mean([*ious[0], *ious[1]]), float(of_clip[:, 4].mean())))
            numbers.append(of_clip)
            for mine, found in zip(best, ious, strict=True):
                mine += found
            progress.update()
    if not numbers:
        raise BadInput(f"{caches[0].path} and {caches[1].path} have no finished clip in common")
    least_similar = sorted(by_clip, key=lambda c: (1.0 if c[1] is None else c[1], c[2], c[0]))
    by_frame = np.concatenate(numbers)
    masks_1, masks_2, covered_1, covered_2, pixels = by_frame.mean(0).tolist()
    return CacheDiff(
        names=(caches[0].name, caches[1].name),
        frames=len(by_frame),
        masks=(masks_1, masks_2),
        covered=(covered_1, covered_2),
        best_iou=(_mean(best[0]), _mean(best[1])),
        maskige_pixels=pixels,
        clips=tuple(least_similar[:MAX_CLIPS]),
    )


def _diff_clip(caches: tuple[Cache, Cache], lo: int, hi: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """For each frame: [masks of both, share covered by both, equal Maskige pixels], and the best IoU of each mask.

    Returns float64 [T, 5], and for each cache T arrays [K]: a mean over frames weighs every mask the same.
    """
    maskiges = [cache.read("maskige", lo, hi) for cache in caches]
    same = (maskiges[0] == maskiges[1]).all(-1).mean((1, 2))
    pairs = list(zip(*(cache.read_masks(lo, hi) for cache in caches), strict=True))
    ious = [mask_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy() for a, b in pairs]
    counts = [(len(a), len(b), a.any(0).mean(), b.any(0).mean()) for a, b in pairs]
    numbers = np.column_stack([np.array(counts), same])
    return numbers, [iou.max(1, initial=0) for iou in ious], [iou.max(0, initial=0) for iou in ious]  # 0: no masks


def _mean(parts: list[np.ndarray]) -> float | None:
    values = np.concatenate(parts)
    return float(values.mean()) if len(values) else None
