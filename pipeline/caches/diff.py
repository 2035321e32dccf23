"""Compare two proposal generators on the same clips: how many masks each finds, and where they agree."""

from dataclasses import asdict, dataclass
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
        return asdict(self)

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


@dataclass(frozen=True)
class FrameDiff:
    """One frame. best: by mask, so that a mean over frames weighs every mask the same."""

    masks: tuple[int, int]
    covered: tuple[float, float]
    best: tuple[np.ndarray, np.ndarray]
    maskige_pixels: float


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
    frames: list[FrameDiff] = []
    by_clip: list[tuple[str, float | None, float]] = []
    with bar(len(rows), f"{caches[0].name} against {caches[1].name}", "clips") as progress:
        for row in rows:
            of_clip = _diff_clip(caches, *clips.span(row))
            pixels = float(np.mean([f.maskige_pixels for f in of_clip]))
            by_clip.append((clips.table[row].id, _mean([b for f in of_clip for b in f.best]), pixels))
            frames += of_clip
            progress.update()
    if not frames:
        raise BadInput(f"{caches[0].path} and {caches[1].path} have no finished clip in common")
    least_similar = sorted(by_clip, key=lambda c: (1.0 if c[1] is None else c[1], c[2], c[0]))
    return CacheDiff(
        names=(caches[0].name, caches[1].name),
        frames=len(frames),
        masks=_both([f.masks for f in frames]),
        covered=_both([f.covered for f in frames]),
        best_iou=(_mean([f.best[0] for f in frames]), _mean([f.best[1] for f in frames])),
        maskige_pixels=float(np.mean([f.maskige_pixels for f in frames])),
        clips=tuple(least_similar[:MAX_CLIPS]),
    )


def _diff_clip(caches: tuple[Cache, Cache], lo: int, hi: int) -> list[FrameDiff]:
    maskiges = [cache.read("maskige", lo, hi) for cache in caches]
    same = (maskiges[0] == maskiges[1]).all(-1).mean((1, 2))
    pairs = zip(*(cache.read_masks(lo, hi) for cache in caches), strict=True)
    return [_diff_frame(a, b, float(pixels)) for (a, b), pixels in zip(pairs, same, strict=True)]


def _diff_frame(a: np.ndarray, b: np.ndarray, maskige_pixels: float) -> FrameDiff:
    iou = mask_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    best = iou.max(1, initial=0), iou.max(0, initial=0)  # 0 where the other has no masks
    covered = float(a.any(0).mean()), float(b.any(0).mean())
    return FrameDiff((len(a), len(b)), covered, best, maskige_pixels)


def _both(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    first, second = np.mean(pairs, axis=0)
    return float(first), float(second)


def _mean(parts: list[np.ndarray]) -> float | None:
    values = np.concatenate(parts)
    return float(values.mean()) if len(values) else None
