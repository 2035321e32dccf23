"""The gallery of a cache root: every clip with the masks and Maskiges that each foundation model made of it.

T frames of one clip, K masks of one frame, H W pixels, h w those of a picture.
"""

import os
import statistics
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...base import IGNORE_LABEL
from ...data.dataset import prefetch
from ...data.masks import unpack_stats
from ...data.palette import PALETTE
from ...data.store.attributes import Provenance
from ...data.store.receipts import log_path, read_log
from ...data.store.root import cache_paths
from ...data.store.store import Cache, ClipStore
from ...errors import BadInput, ComboError
from ..common.pictures import label_colours, outlined
from ..common.progress import bar
from .gallery import Gallery, Item, Measure, pick_pixels, shrink, truth_row, write_sheet
from .paired import Paired, compare_clips

COUNT, COVERAGE, FIT = "masks", "coverage", "fit"
LABELS = {COUNT: "masks per frame", COVERAGE: "coverage", FIT: "fit to the truth"}


@dataclass(frozen=True)
class CacheRow:
    """One cache of the table: how much of it there is, and what it cost. values: by kind, those of all its clips."""

    label: str
    provenance: Provenance
    clips: int
    values: dict[str, list[float]]
    seconds_per_frame: float | None  # mean over the logs of its shards
    devices: tuple[str, ...]
    bytes: int
    bytes_per_frame: float | None

    @property
    def untrained(self) -> bool:
        return is_untrained(self.provenance)


@dataclass(frozen=True)
class CacheSection:
    """All that the page shows of one cache root. kinds: key -> label of the numbers that there are."""

    name: str
    about: str
    kinds: dict[str, str]
    rows: list[CacheRow]
    paired: list[Paired]
    gallery: Gallery

    def bars(self, kind: str) -> dict[str, list[float]]:
        """The values of one kind by cache; those that have none are left out."""
        return {row.label: row.values[kind] for row in self.rows if row.values[kind]}


@dataclass(frozen=True)
class _Column:
    """A cache beside others, and what of it can be read: finished shards, but for these clips."""

    cache: Cache
    label: str
    shards: Collection[int]
    quarantined: Collection[str]


def is_untrained(provenance: Provenance) -> bool:
    """Whether a cache was made with random weights, as for trials."""
    return provenance.name.startswith("untrained-") or bool(provenance.parameters.get("untrained"))


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
    return [f"{n} (UNTRAINED)" if is_untrained(c.provenance) else n for n, c in zip(unique, caches, strict=True)]


def cache_section(root: Path, names: list[str] | None, out: Path, prefix: str, problems: list[str]) -> CacheSection:
    """Write the pictures of all imported clips of a root to `out`; names: of the caches, None: all.

    prefix: of the files' names. What is missing, damaged or left out goes to `problems`.
    Raises `BadInput` when the root has no clip store that can be read.
    """
    clips = ClipStore(root)
    caches = _open_caches(clips, root, names, problems)
    labels = cache_labels(caches)
    imported, bad = clips.receipts(), clips.quarantined()
    if missing := clips.num_shards - len(imported):
        problems.append(
            f"{clips.path}: {missing} of {clips.num_shards} shards are not imported, their clips are left out"
        )
    for store in (clips, *caches):
        problems += [
            f"{store.path}: clip {c} is quarantined: {w.splitlines()[-1]}" for c, w in store.quarantined().items()
        ]
    for cache in caches:
        if missing := len(imported.keys() - cache.receipts().keys()):
            problems.append(
                f"{cache.path}: {missing} of {cache.num_shards} shards are missing; 'combo precompute' goes on"
            )
    shown = [row for row in range(len(clips.table)) if clips.span(row)[0] // clips.shard_frames in imported]
    shown = [row for row in shown if not bad or clips.table[row].id not in bad]
    labelled = any(any(clips.table[row].frame_annotated) for row in shown)
    columns = [_Column(c, n, c.receipts().keys(), c.quarantined().keys()) for c, n in zip(caches, labels, strict=True)]

    def make(step: int) -> Item | str:
        try:
            return _item(clips, shown[step], columns, labelled, out, f"{prefix}-{step:06d}")
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
    return _section(clips, root, caches, labels, items, labelled)


def _open_caches(clips: ClipStore, root: Path, names: list[str] | None, problems: list[str]) -> list[Cache]:
    """Those that were made of these clips."""
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
        except BadInput as error:
            problems.append(str(error))
            continue
        if fingerprint in (None, cache.clips_fingerprint):
            found.append(cache)
        else:
            problems.append(f"{cache.path} was made from other clips than {clips.path} holds, so it is left out")
    return found


def _item(
    clips: ClipStore,
    row: int,
    columns: list[_Column],
    labelled: bool,
    out: Path,
    name: str,
) -> Item:
    """Write the sheets of one clip."""
    clip, span = clips.table[row], clips.span(row)
    frames, truth = clips.read("frames", *span), clips.read("labels", *span)
    item = Item.of(clip, clips.size)
    colours = label_colours(len(clips.classes))
    base = [shrink(frames), *([truth_row(frames, truth, colours)] if labelled else [])]
    item.sheets.append(write_sheet(out, name, base))
    for number, column in enumerate(columns):
        if span[0] // column.cache.shard_frames not in column.shards or clip.id in column.quarantined:
            item.sheets.append(None)
            continue
        cache, label = column.cache, column.label
        maskiges = cache.read("maskige", *span)
        counts = cache.read("mask_count", *span).astype(float).tolist()
        numbers = {
            COUNT: counts,
            COVERAGE: [float((m != PALETTE[0]).any(axis=2).mean()) for m in maskiges],
            FIT: [fit_to_truth(m, t) for m, t in zip(maskiges, truth, strict=True)],
        }
        for kind, values in numbers.items():
            present = [v for v in values if v is not None]
            if present:
                item.frames[f"{kind}:{label}"] = values
                item.values[f"{kind}:{label}"] = statistics.mean(present)
        rows = [_mask_row(base[0], cache, span), shrink(maskiges)]
        item.sheets.append(write_sheet(out, f"{name}-{number}", rows))
    return item


def _mask_row(frames: np.ndarray, cache: Cache, span: tuple[int, int]) -> np.ndarray:
    """Outlines over frames [T, h, w, 3], the smallest mask on top as in a Maskige."""
    found = cache.read_masks_of(*span)
    stats = [unpack_stats(packed)["area"] for packed in cache.read_bytes("mask_stats", *span)]
    size = frames.shape[1:3]
    pairs = zip(frames, found, stats, strict=True)
    return np.stack([outlined(f, pick_pixels(m[np.argsort(area, kind="stable")], *size)) for f, m, area in pairs])


def fit_to_truth(maskige: np.ndarray, truth: np.ndarray) -> float | None:
    """How well the regions of a Maskige could give the truth: J of its objects, if each region were named at best.

    Every region, an area of one colour, takes the class that most of its pixels have; J is intersection over union
    of what is then an object. maskige: uint8 [H, W, 3]. truth: uint8 [H, W].
    None for frames without ground truth or without an object in it.
    """
    if not ((truth > 0) & (truth != IGNORE_LABEL)).any():
        return None
    colour = maskige.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    region = np.unique(colour, return_inverse=True)[1].reshape(-1)
    counts = np.zeros((region.max() + 1, 256), np.int64)
    np.add.at(counts, (region, truth.reshape(-1)), 1)
    counts[:, IGNORE_LABEL] = 0
    named = counts.argmax(axis=1)[region].reshape(truth.shape)
    scored = truth != IGNORE_LABEL
    hits = ((named == truth) & (truth > 0) & scored).sum()
    union = (((named > 0) | (truth > 0)) & scored).sum()
    return float(hits / union)


def _section(
    clips: ClipStore, root: Path, caches: list[Cache], labels: list[str], items: list[Item], labelled: bool
) -> CacheSection:
    present = {key for item in items for key in item.values}
    kinds = {k: text for k, text in LABELS.items() if any(f"{k}:{label}" in present for label in labels)}
    measures = [
        Measure(f"{k}:{label}", f"{text}, {label}", text, label) for k, text in kinds.items() for label in labels
    ]
    measures = [m for m in measures if m.key in present]
    opening = FIT if FIT in kinds else COVERAGE
    paired = compare_clips(items, opening, LABELS[opening], labels) if labels else []
    measures += [m for pair in paired for m in pair.measures]
    sort = next((m.key for m in measures if m.key.startswith(f"{opening}:")), "")
    sheets = [["frame", "truth"] if labelled else ["frame"], *([f"masks, {n}", f"Maskige, {n}"] for n in labels)]
    height, width = clips.size
    splits = ", ".join(f"{count} {split}" for split, count in clips.table.splits().items())
    return CacheSection(
        name=root.name,
        about=f"{clips.dataset}: {splits} clips, {clips.frames} frames of {width} x {height}",
        kinds=kinds,
        rows=[_cache_row(cache, label, items) for cache, label in zip(caches, labels, strict=True)],
        paired=paired,
        gallery=Gallery(f"Clips of {root.name}", sheets, measures, items, sort),
    )


def _cache_row(cache: Cache, label: str, items: list[Item]) -> CacheRow:
    values = {k: [i.values[f"{k}:{label}"] for i in items if f"{k}:{label}" in i.values] for k in LABELS}
    receipts = cache.receipts()
    logs = [read_log(log_path(cache.path, shard)) for shard in receipts]
    seconds = [log["seconds_per_frame"] for log in logs if "seconds_per_frame" in log]
    size = sum(file[0] for receipt in receipts.values() for file in receipt.files.values() if file)
    frames = sum(receipt.frames[1] - receipt.frames[0] for receipt in receipts.values())
    return CacheRow(
        label=label,
        provenance=cache.provenance,
        clips=len(values[COUNT]),
        values=values,
        seconds_per_frame=statistics.mean(seconds) if seconds else None,
        devices=tuple(sorted({str(log["device"]) for log in logs if "device" in log})),
        bytes=size,
        bytes_per_frame=size / frames if frames else None,
    )
