"""Training runs on the page: their scores on one split, clip by clip, and what they predict on it.

Shapes: T frames of one clip, H W pixels, h w those of a picture.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.dataset import ClipDataset
from ...data.store.store import ClipStore
from ...errors import ComboError
from ..common.percent import SCORES
from ..common.pictures import heat, label_colours, overlay_labels
from ..compare.comparable import Scoring, Subject, cautions
from ..compare.table import Row, differences, rows_json
from ..evaluate.protocols import find_protocol, full_name
from ..evaluate.results import Result
from ..evaluate.scores import ScoredClip, Scores
from .embed import log_mel_image
from .gallery import Gallery, Item, Measure, clip_rows, picture_size, shrink, sound_row, write_sheet, write_sound
from .paired import Paired, compare_clips
from .scoring import Scorer, Segmented
from .targets import Run

Table = list[tuple[str, int, list[float | None]]]  # name, how many, J by variant
AREA, WRONG_AREA = "area", "false-positive area (0..1) of frames without object"


@dataclass(frozen=True)
class RunScores:
    """One run on one split. weights: which ones were scored. subject: what its numbers may be compared with.

    attends: whether its sheets show attention. scores: None without truth. kept: whether they are those of RUN/results.
    sheets: by clip, those that were drawn; none where another run of its variant was drawn.
    """

    run: Run
    weights: str
    subject: Subject
    attends: bool
    scores: Scores | Result | None
    kept: bool
    sheets: dict[str, str]

    @property
    def clips(self) -> dict[str, ScoredClip]:
        """The numbers of each clip with truth, by id."""
        return {} if self.scores is None else self.scores.per_clip


@dataclass
class RunSection:
    """Runs that were trained on the same clips, on one split of these.

    variants: their names in order. rows, differences: scores over seeds, as in compare.json. categories: J in percent
    by object name of the clips. classes: the same by class, for data sets with several. cautions: why its numbers are
    not comparable with each other, or with those of another section.
    """

    about: str
    protocol: str
    scores: list[RunScores]
    variants: list[str]
    rows: list[dict[str, Any]]
    differences: list[dict[str, Any]]
    categories: Table
    classes: Table
    paired: list[Paired]
    gallery: Gallery
    cautions: list[str]


def consistency(run: Run) -> str:
    """Whether the consistency loss was part of its training."""
    weight = run.config.loss.consistency_weight
    return f"consistency loss x {weight:g}" if weight else "no consistency loss"


def untrained_parts(run: Run) -> list[str]:
    """Caches that the run was trained on and that were made with random weights."""
    parts = {run.info.proposals: run.info.proposals_provenance, run.info.audio: run.info.audio_provenance}
    return [name for name, provenance in parts.items() if provenance.untrained]


def run_sections(
    runs: list[Run], out: Path, scoring: Scoring, device: torch.device, problems: list[str]
) -> list[RunSection]:
    """Score all runs and write the pictures of the split, in one section for each set of clips that runs share."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.info.root, run.info.clips_fingerprint].append(run)
    sections = [_section(g, out, f"run-{n}", scoring, device, problems) for n, g in enumerate(groups.values())]
    found = [section for section in sections if section is not None]
    for section in found:
        section.cautions = cautions([one.subject for other in found for one in other.scores])
    return found


def _section(
    runs: list[Run], out: Path, prefix: str, scoring: Scoring, device: torch.device, problems: list[str]
) -> RunSection | None:
    """None when no run could be scored."""
    scored: dict[str, list[RunScores]] = {}
    clips: ClipStore | None = None
    items: dict[str, Item] = {}
    sheets: list[list[str]] = []
    for run in runs:
        try:
            scorer = Scorer(run, scoring, device)
            if clips is None:
                names, items = _write_clips(scorer.dataset, out, prefix)
                sheets, clips = [names], scorer.dataset.clips
            drawn = {} if run.variant in scored else _draw_clips(scorer, out, f"{prefix}-{len(scored)}")
            attends, kept = bool(drawn) and scorer.attends, scorer.kept is not None
            one = RunScores(run, scorer.weights, scorer.subject, attends, scorer.scores(), kept, drawn)
        except ComboError as error:
            problems.append(f"{run.folder}: not scored: {error}")
            continue
        scored.setdefault(run.variant, []).append(one)
    if clips is None or not scored:
        return None
    for variant, seeds in scored.items():
        rows = [f"prediction, {variant}", f"heat map, {variant}, {consistency(seeds[0].run)}"]
        sheets.append([*rows, f"attention of the sound, {variant}"] if seeds[0].attends else rows)
        for item in items.values():
            _add_scores(item, variant, seeds)
    gallery = Gallery(f"Clips of the {scoring.split} split", sheets, list(items.values()))
    return _assemble(clips, scoring, scored, gallery)


def _add_scores(item: Item, variant: str, seeds: list[RunScores]) -> None:
    """Add the sheet of the first seed, and the mean numbers over seeds, to a clip.

    Another cache may have quarantined a clip, so not every run has scores for it.
    """
    item.sheets.append(seeds[0].sheets.get(item.id))
    scores = [one.clips[item.id] for one in seeds if item.id in one.clips]
    for key in ("J", "F"):
        values = [value for s in scores if (value := getattr(s, key)) is not None]
        if values:
            item.values[f"{key}:{variant}"] = statistics.mean(values)
    for key, rows in (("J", [s.J_T for s in scores]), (AREA, [s.area_T for s in scores])):
        frames = [_mean_of_some(values) for values in zip(*rows, strict=True)]
        if any(value is not None for value in frames):
            item.frames[f"{key}:{variant}"] = frames


def _mean_of_some(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.mean(there) if there else None


def _assemble(clips: ClipStore, scoring: Scoring, scored: dict[str, list[RunScores]], gallery: Gallery) -> RunSection:
    variants, rows = list(scored), _rows(scored)
    paired = compare_clips(gallery, {"J": "J in %", "F": "F in %"}, variants, "J")
    for variant in variants:
        if any(f"{AREA}:{variant}" in item.frames for item in gallery.items):
            gallery.measures.append(Measure(f"{AREA}:{variant}", f"{WRONG_AREA}, {variant}", WRONG_AREA, variant))
    return RunSection(
        about=f"{clips.dataset}, {scoring.split} split, {len(gallery.items)} clips",
        protocol=full_name(scoring.protocol, find_protocol(scoring.protocol, len(clips.classes))),
        scores=[one for seeds in scored.values() for one in seeds],
        variants=variants,
        rows=rows_json(rows),
        differences=[one.to_json() for one in differences(rows)],
        categories=_categories(gallery.items, variants),
        classes=_classes(scored, clips.classes) if len(clips.classes) > 2 else [],
        paired=paired,
        gallery=gallery,
        cautions=[],
    )


def _write_clips(dataset: ClipDataset, out: Path, prefix: str) -> tuple[list[str], dict[str, Item]]:
    """Write frames, truth, log-mel and sound of all clips. Returns the names of the sheet's rows, and items by id."""
    clips, items = dataset.clips, {}
    labelled = any(any(dataset.clip(index).frame_annotated) for index in range(len(dataset)))
    for index, row in enumerate(dataset.rows.tolist()):
        span, name = clips.span(row), f"{prefix}-{index:06d}"
        sound = sound_row(log_mel_image(clips.read("log_mel", *span)), picture_size(*clips.size))
        item = Item.of(clips.table[row], clips.size)
        item.sheets.append(write_sheet(out, name, [*clip_rows(clips, row, labelled=labelled), sound]))
        item.sound = write_sound(out, name, clips.read("waveform", *span).reshape(-1))
        items[item.id] = item
    return ["frame", *(["truth"] if labelled else []), "log-mel"], items


def _draw_clips(scorer: Scorer, out: Path, prefix: str) -> dict[str, str]:
    """Segment all clips and write a sheet for each; returns the sheets by id. prefix: of their names."""
    colours = label_colours(len(scorer.dataset.clips.classes))
    clips = enumerate(scorer.clips())
    return {
        clip.sample.clip.id: write_sheet(out, f"{prefix}-{index:06d}", _prediction_rows(clip, colours))
        for index, clip in clips
    }


def _prediction_rows(clip: Segmented, colours: np.ndarray) -> list[np.ndarray]:
    """Overlay, heat map and, if there is one, attention, each uint8 [T, h, w, 3]."""
    frames = clip.sample.frames
    overlays = [overlay_labels(frame, labels, colours) for frame, labels in zip(frames, clip.labels, strict=True)]
    maps = [clip.object] if clip.attention is None else [clip.object, clip.attention]
    heat_maps = [np.stack([heat(*pair) for pair in zip(frames, shares, strict=True)]) for shares in maps]
    return [shrink(rows) for rows in (np.stack(overlays), *heat_maps)]


def _rows(scores: dict[str, list[RunScores]]) -> tuple[Row, ...]:
    """The scores of each variant by seed."""
    rows = []
    for variant, seeds in scores.items():
        results = {one.run.seed: one.scores for one in seeds if one.scores is not None}
        if results:
            values = ({seed: getattr(result, key) for seed, result in results.items()} for key in SCORES)
            rows.append(Row(variant, "right", *values))
    return tuple(rows)


def _categories(items: list[Item], variants: list[str]) -> Table:
    """Mean J over the clips that hold an object, by object."""
    table = []
    for name in sorted({name for item in items for name in item.objects}):
        clips = [item for item in items if name in item.objects]
        values = [[v for i in clips if (v := i.values.get(f"J:{variant}")) is not None] for variant in variants]
        table.append((name, len(clips), [statistics.mean(v) if v else None for v in values]))
    return table


def _classes(scores: dict[str, list[RunScores]], classes: tuple[str, ...]) -> Table:
    """J of every class that occurs, mean over seeds, and the frames that hold it."""
    found = [[one.scores.details["classes"] for one in seeds if one.scores is not None] for seeds in scores.values()]
    table = []
    for name in classes:
        frames = max((by_name[name]["frames"] for of_one in found for by_name in of_one if name in by_name), default=0)
        if frames:
            js = [[by_name[name]["J"] if name in by_name else 0.0 for by_name in of_one] for of_one in found]
            table.append((name, frames, [statistics.mean(j) if j else None for j in js]))
    return table
