"""The gallery of a cache root: every clip with the masks and Maskiges of each proposals cache.

Shapes: T frames of one clip, K masks of one frame, H W pixels, h w those of a picture.
"""

import os
import statistics
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...base import IGNORE_LABEL
from ...data.dataset import prefetch
from ...data.masks import unpack_stats
from ...data.palette import PALETTE
from ...data.store.attributes import Provenance
from ...data.store.root import cache_paths
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput, ComboError
from ..caches.inspect import made_with, stored_bytes
from ..common.percent import percent
from ..common.pictures import outlined
from ..common.progress import bar
from ..common.text import quarantine_lines
from .gallery import Gallery, Item, clip_rows, pick_pixels, shrink, write_sheet
from .paired import Paired, compare_clips

COUNT, COVERAGE, FIT = "masks", "coverage", "fit"
LABELS = {COUNT: "masks per frame", COVERAGE: "coverage", FIT: "fit to the truth in %"}


@dataclass(frozen=True)
class CacheRow:
    """One cache in the table: its size and cost, and by kind the values of all its clips."""

    label: str
    provenance: Provenance
    values: dict[str, list[float]]
    seconds_per_frame: float | None  # mean over the logs of its shards
    devices: tuple[str, ...]
    bytes: int
    bytes_per_frame: float | None


@dataclass(frozen=True)
class CacheSection:
    """What the page shows of one cache root. kinds: keys and labels of the numbers that it has."""

    name: str
    about: str
    kinds: dict[str, str]
    rows: list[CacheRow]
    paired: list[Paired]
    gallery: Gallery

    def bars(self, kind: str) -> dict[str, list[float]]:
        """The values of one kind by cache, without caches that have none."""
        return {row.label: row.values[kind] for row in self.rows if row.values[kind]}


class _Column(NamedTuple):
    """A cache in the gallery. Finished shards can be read, except for quarantined clips."""

    cache: Cache
    label: str
    shards: Collection[int]
    quarantined: Collection[str]


def cache_labels(caches: list[Cache]) -> list[str]:
    """What the page calls them: the generator's name, the parameters in which those of one generator differ, and
    whether its weights are random. Caches that differ in something else go by their full names.
    """
    labels = []
    for cache in caches:
        same = [c.provenance.parameters for c in caches if c.provenance.name == cache.provenance.name]
        own = cache.provenance.parameters
        differing = [f"{key}={own[key]}" for key in own if any(p.get(key) != own[key] for p in same)]
        labels.append(" ".join([cache.provenance.name, *differing]))
    counts = Counter(labels)
    unique = [label if counts[label] == 1 else cache.name for label, cache in zip(labels, caches, strict=True)]
    return [f"{n} (UNTRAINED)" if c.provenance.untrained else n for n, c in zip(unique, caches, strict=True)]


def cache_section(root: Path, names: list[str] | None, out: Path, prefix: str, problems: list[str]) -> CacheSection:
    """Write the pictures of all imported clips of a root to `out`.

    names: of the caches; None: all. prefix: of the files' names. What is missing, damaged or left out is added to
    `problems`. Raises `BadInput` when the root has no clip store that can be read.
    """
    clips = ClipStore(root)
    caches = _open_caches(clips, root, names, problems)
    problems += _missing_data(clips, caches)
    imported, usable = clips.receipts(), clips.usable_rows(None).tolist()
    shown = [row for row in usable if clips.span(row)[0] // clips.shard_frames in imported]
    labelled = any(any(clips.table[row].frame_annotated) for row in shown)
    named = zip(caches, cache_labels(caches), strict=True)
    columns = [_Column(cache, label, cache.receipts().keys(), cache.quarantined().keys()) for cache, label in named]

    def make(step: int) -> Item | str:
        try:
            return _write_item(clips, shown[step], columns, out, f"{prefix}-{step:06d}", labelled=labelled)
        except ComboError as error:  # damaged data
            return str(error)

    items: list[Item] = []
    with bar(len(shown), f"pictures of {root.name}", "clips") as progress:
        for item in prefetch(make, range(len(shown)), depth=8, threads=os.cpu_count() or 1):
            if isinstance(item, Item):
                items.append(item)
            else:
                problems.append(item)
            progress.update()
    splits = ", ".join(f"{count} {split}" for split, count in clips.table.splits().items())
    about = f"{clips.dataset}: {splits} clips, {clips.frames} frames of {clips.size[1]} x {clips.size[0]}"
    return _assemble(root.name, about, columns, items, ["frame", "truth"] if labelled else ["frame"])


def _missing_data(clips: ClipStore, caches: list[Cache]) -> list[str]:
    """Shards that are missing, and clips that are quarantined."""
    imported = clips.receipts()
    problems = []
    if missing := clips.num_shards - len(imported):
        some = f"{missing} of {clips.num_shards} shards"
        problems.append(f"{clips.path}: {some} are not imported; their clips are left out")
    for store in (clips, *caches):
        problems += [f"{store.path}: quarantined {line}" for line in quarantine_lines(store.quarantined())]
    for cache in caches:
        if missing := len(imported.keys() - cache.receipts().keys()):
            some = f"{missing} of {cache.num_shards} shards"
            problems.append(f"{cache.path}: {some} are missing; 'combo precompute' resumes")
    return problems


def _open_caches(clips: ClipStore, root: Path, names: list[str] | None, problems: list[str]) -> list[Cache]:
    """The proposals caches of a root that were made from these clips."""
    paths = [p for p in cache_paths(root) if p.parent.name == "proposals" and (names is None or p.stem in names)]
    if gone := set(names or ()) - {path.stem for path in paths}:
        problems.append(f"{root}: no store in {', '.join(sorted(gone))}")
    if not paths and names is None:
        problems.append(f"{root}: no proposals cache yet; 'combo precompute {root} --proposals NAME' makes one")
    try:
        fingerprint = clips.fingerprint()
    except BadInput:
        fingerprint = None  # an unfinished import has none
    found = []
    for path in paths:
        try:
            cache = Cache(path)
            if fingerprint not in (None, cache.clips_fingerprint):
                raise BadInput(f"{path} was made from other clips than {clips.path} holds, so it is left out")
            found.append(cache)
        except BadInput as error:
            problems.append(str(error))
    return found


def _write_item(clips: ClipStore, row: int, columns: list[_Column], out: Path, name: str, *, labelled: bool) -> Item:
    """Write the sheets of one clip."""
    clip, span = clips.table[row], clips.span(row)
    truth = clips.read("labels", *span)
    item = Item.of(clip, clips.size)
    base = clip_rows(clips, row, labelled=labelled)
    item.sheets.append(write_sheet(out, name, base))
    for number, (cache, label, shards, quarantined) in enumerate(columns):
        if span[0] // cache.shard_frames not in shards or clip.id in quarantined:
            item.sheets.append(None)
            continue
        maskiges = cache.read("maskige", *span)
        numbers: dict[str, list[float | None]] = {
            COUNT: cache.read("mask_count", *span).astype(float).tolist(),
            COVERAGE: [float((m != PALETTE[0]).any(axis=2).mean()) for m in maskiges],
            FIT: [percent(fit_to_truth(m, t)) for m, t in zip(maskiges, truth, strict=True)],
        }
        for kind, values in numbers.items():
            if present := [v for v in values if v is not None]:
                item.frames[f"{kind}:{label}"] = values
                item.values[f"{kind}:{label}"] = statistics.mean(present)
        item.sheets.append(write_sheet(out, f"{name}-{number}", [_mask_row(base[0], cache, span), shrink(maskiges)]))
    return item


def _mask_row(frames: np.ndarray, cache: Cache, span: tuple[int, int]) -> np.ndarray:
    """Outline masks over frames [T, h, w, 3], the smallest mask on top as in a Maskige."""
    found = cache.read_masks(*span)
    stats = [unpack_stats(packed)["area"] for packed in cache.read_bytes("mask_stats", *span)]
    size = frames.shape[1:3]
    pairs = zip(frames, found, stats, strict=True)
    return np.stack([outlined(f, pick_pixels(m[np.argsort(area, kind="stable")], *size)) for f, m, area in pairs])


def fit_to_truth(maskige: np.ndarray, truth: np.ndarray) -> float | None:
    """J of the true objects if every region of a Maskige got its best class: an upper bound for its regions.

    A region, the pixels of one colour, gets the class that most of its pixels have; J is the intersection over union of
    all objects. maskige: uint8 [H, W, 3]. truth: uint8 [H, W]. None for frames without ground truth or objects.
    """
    if not ((truth > 0) & (truth != IGNORE_LABEL)).any():
        return None
    colour = maskige.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    region = np.unique(colour, return_inverse=True)[1].reshape(-1)
    counts = np.zeros((region.max() + 1, 256), np.int64)
    np.add.at(counts, (region, truth.reshape(-1)), 1)
    counts[:, IGNORE_LABEL] = 0
    best = counts.argmax(axis=1)[region].reshape(truth.shape)
    scored = truth != IGNORE_LABEL
    hits = ((best == truth) & (truth > 0) & scored).sum()
    union = (((best > 0) | (truth > 0)) & scored).sum()
    return float(hits / union)


def _assemble(name: str, about: str, columns: list[_Column], items: list[Item], base_rows: list[str]) -> CacheSection:
    labels = [column.label for column in columns]
    present = {key.partition(":")[0] for item in items for key in item.values}
    kinds = {kind: text for kind, text in LABELS.items() if kind in present}
    sheets = [base_rows, *([f"masks, {label}", f"Maskige, {label}"] for label in labels)]
    gallery = Gallery(f"Clips of {name}", sheets, items)
    paired = compare_clips(gallery, LABELS, labels, FIT if FIT in kinds else COVERAGE)
    rows = [_cache_row(column.cache, column.label, items) for column in columns]
    return CacheSection(name, about, kinds, rows, paired, gallery)


def _cache_row(cache: Cache, label: str, items: list[Item]) -> CacheRow:
    values = {k: [i.values[f"{k}:{label}"] for i in items if f"{k}:{label}" in i.values] for k in LABELS}
    receipts = cache.receipts()
    made, size = made_with(cache, list(receipts)), stored_bytes(receipts.values())
    seconds, devices = made.get("seconds_per_frame"), tuple(sorted(made.get("devices", ())))
    frames = sum(end - first for first, end in (receipt.frames for receipt in receipts.values()))
    return CacheRow(label, cache.provenance, values, seconds, devices, size, size / frames if frames else None)
