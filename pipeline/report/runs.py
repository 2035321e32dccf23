"""Training runs on the page: their scores on one split, clip by clip, and what they predict on it.

T frames of one clip, H W pixels, h w those of a picture.
"""

import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.dataset import ClipDataset
from ...errors import ComboError
from ..common.pictures import heat, label_colours, overlay_labels
from ..compare.table import summary
from ..evaluate.protocols import find_protocol, full_name
from .caches import is_untrained
from .embed import log_mel_image
from .gallery import Gallery, Item, Measure, picture_size, shrink, sound_row, truth_row, write_sheet, write_sound
from .paired import Paired, compare_clips
from .scoring import Scorer, Segmented
from .targets import Run

Table = list[tuple[str, int, list[float | None]]]  # name, how many, J by variant


@dataclass(frozen=True)
class RunScores:
    """One run on one split. weights: which ones were scored. result: M_J, M_F and what stands behind them."""

    run: Run
    weights: str
    result: dict[str, Any] | None


@dataclass
class RunSection:
    """Runs that were trained on the same clips, on one split of these.

    variants: their names in order. rows: scores over seeds, as the rows of compare.json. categories: by object name
    of the clips; classes: by class, for sets that have several.
    """

    about: str
    split: str
    protocol: str
    scores: list[RunScores]
    variants: list[str]
    rows: list[dict[str, Any]]
    categories: Table
    classes: Table
    paired: list[Paired]
    gallery: Gallery


def label_of(run: Run) -> str:
    """The variant, and whether the consistency loss was part of its training."""
    return f"{run.variant}, {consistency(run)}"


def consistency(run: Run) -> str:
    weight = run.config.loss.consistency_weight
    return f"consistency loss x {weight:g}" if weight else "no consistency loss"


def untrained_parts(run: Run) -> list[str]:
    """The caches it was trained on that were made with random weights."""
    parts = {run.info.proposals: run.info.proposals_provenance, run.info.audio: run.info.audio_provenance}
    return [name for name, provenance in parts.items() if is_untrained(provenance)]


def run_sections(
    runs: list[Run], out: Path, split: str, protocol: str, device: torch.device, problems: list[str]
) -> list[RunSection]:
    """Score all runs and write the pictures of the split, one section for each set of clips that runs share."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.info.root, run.info.clips_fingerprint].append(run)
    sections = []
    for number, group in enumerate(groups.values()):
        section = _section(group, out, f"run-{number}", split, protocol, device, problems)
        if section is not None:
            sections.append(section)
    return sections


@dataclass(frozen=True)
class _Seen:
    """What one run made of one clip, see `Segmented`. sheet: its picture, if it was drawn."""

    J: float | None
    F: float | None
    J_T: list[float | None]
    sheet: str | None


def _section(
    runs: list[Run], out: Path, prefix: str, split: str, protocol: str, device: torch.device, problems: list[str]
) -> RunSection | None:
    """None when there is nothing that could be segmented."""
    items: dict[str, Item] = {}
    by_seed: dict[tuple[str, str, str], list[float]] = defaultdict(list)  # clip, measure, variant
    rows: list[list[str]] = []
    scores: list[RunScores] = []
    drawn: list[str] = []  # variants
    scorer = None
    for run in runs:
        try:
            scorer = Scorer(run, split, protocol, device)
            if not rows:
                rows.append(_write_clips(scorer.dataset, out, prefix, items))
            seen = _look(scorer, out, None if run.variant in drawn else f"{prefix}-{len(drawn)}")
        except ComboError as error:
            problems.append(f"{run.folder}: not scored: {error}")
            continue
        scores.append(RunScores(run, scorer.weights, scorer.result()))
        both = seen.keys() & items.keys()  # another cache may have quarantined a clip
        for clip_id in both:
            for key, value in (("J", seen[clip_id].J), ("F", seen[clip_id].F)):
                if value is not None:
                    by_seed[clip_id, key, run.variant].append(value)
        if run.variant not in drawn:
            drawn.append(run.variant)
            rows.append([f"prediction, {run.variant}", f"heat map, {label_of(run)}"])
            for clip_id, item in items.items():
                item.sheets.append(seen[clip_id].sheet if clip_id in both else None)
                if clip_id in both:
                    item.frames[f"J:{run.variant}"] = seen[clip_id].J_T
    if scorer is None or not scores:
        return None
    for (clip_id, key, variant), values in by_seed.items():
        items[clip_id].values[f"{key}:{variant}"] = statistics.mean(values)
    shown = list(items.values())
    measures = [Measure(f"{k}:{v}", f"{k}, {v}", k, v) for v in drawn for k in "JF"]
    measures = [m for m in measures if any(m.key in item.values for item in shown)]
    paired = compare_clips(shown, "J", "J", drawn)
    measures += [m for pair in paired for m in pair.measures]
    clips = scorer.dataset.clips
    several = len(clips.classes) > 2
    return RunSection(
        about=f"{clips.dataset}, {split} split, {len(shown)} clips",
        split=split,
        protocol=full_name(protocol, find_protocol(protocol, len(clips.classes))),
        scores=scores,
        variants=drawn,
        rows=_rows(scores, drawn),
        categories=_categories(shown, drawn),
        classes=_classes(scores, drawn, clips.classes) if several else [],
        paired=paired,
        gallery=Gallery(f"Clips of the {split} split", rows, measures, shown, measures[0].key if measures else ""),
    )


def _write_clips(dataset: ClipDataset, out: Path, prefix: str, items: dict[str, Item]) -> list[str]:
    """Make the items of a split, with frames, truth, log-mel and sound. Gives the names of the sheet's rows."""
    clips = dataset.clips
    labelled = any(any(dataset.clip(index).frame_annotated) for index in range(len(dataset)))
    colours = label_colours(len(clips.classes))
    for index in range(len(dataset)):
        clip, span = dataset.clip(index), clips.span(int(dataset.rows[index]))
        frames = clips.read("frames", *span)
        sound = sound_row(log_mel_image(clips.read("log_mel", *span)), picture_size(*clips.size))
        truth = [truth_row(frames, clips.read("labels", *span), colours)] if labelled else []
        item = Item.of(clip, clips.size)
        item.sheets.append(write_sheet(out, f"{prefix}-{index:06d}", [shrink(frames), *truth, sound]))
        item.sound = write_sound(out, f"{prefix}-{index:06d}", clips.read("waveform", *span).reshape(-1))
        items[clip.id] = item
    return ["frame", *(["truth"] if labelled else []), "log-mel"]


def _look(scorer: Scorer, out: Path, prefix: str | None) -> dict[str, _Seen]:
    """Segment every clip of the split, by id; with a prefix of file names, draw what is found, too."""
    colours = label_colours(len(scorer.dataset.clips.classes))
    seen = {}
    for index, clip in enumerate(scorer.clips()):
        sheet = None if prefix is None else write_sheet(out, f"{prefix}-{index:06d}", _prediction_rows(clip, colours))
        seen[clip.sample.clip.id] = _Seen(clip.J, clip.F, clip.J_T, sheet)
    return seen


def _prediction_rows(clip: Segmented, colours: np.ndarray) -> list[np.ndarray]:
    """Overlay and heat map, each uint8 [T, h, w, 3]."""
    frames = clip.sample.frames
    labelled = [overlay_labels(frame, labels, colours) for frame, labels in zip(frames, clip.labels, strict=True)]
    warm = [heat(frame, probability) for frame, probability in zip(frames, clip.object, strict=True)]
    return [shrink(np.stack(labelled)), shrink(np.stack(warm))]


def _rows(scores: list[RunScores], variants: list[str]) -> list[dict[str, Any]]:
    """Mean and spread over the seeds of each variant."""
    rows = []
    for variant in variants:
        results = {s.run.seed: s.result for s in scores if s.run.variant == variant and s.result is not None}
        if results:
            values = {k: summary({seed: result[k] for seed, result in results.items()}) for k in ("M_J", "M_F")}
            rows.append({"variant": variant, "sound": "right", **values})
    return rows


def _categories(items: list[Item], variants: list[str]) -> Table:
    """Mean J over the clips that hold an object, by object."""
    table = []
    for name in sorted({name for item in items for name in item.objects}):
        clips = [item for item in items if name in item.objects]
        values = [[v for i in clips if (v := i.values.get(f"J:{variant}")) is not None] for variant in variants]
        table.append((name, len(clips), [statistics.mean(v) if v else None for v in values]))
    return table


def _classes(scores: list[RunScores], variants: list[str], classes: tuple[str, ...]) -> Table:
    """J of every class that occurs, mean over seeds; counted are the frames with it in the first run."""
    results = [[s.result for s in scores if s.run.variant == v and s.result is not None] for v in variants]
    if not any(results):
        return []
    table = []
    for index, name in enumerate(classes):
        frames = max((r["classes"][index]["frames"] for of_one in results for r in of_one), default=0)
        if frames:
            means = [
                statistics.mean(r["classes"][index]["J"] for r in of_one) if of_one else None for of_one in results
            ]
            table.append((name, frames, means))
    return table
