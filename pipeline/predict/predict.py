"""Segment the user's own videos: write an overlay with the sound, masks, and a timeline of what sounds when."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...data.sources.video.decoding import VideoFacts, play, readable_seconds
from ...data.sources.video.remux import replace_frames
from ...data.sources.video.source import INSTANT, file_identity, inspect_videos
from ...data.store.checksummed_json import digest
from ...errors import QUARANTINED, BadInput, ComboError
from ..common.choices import EveryFrame, Outputs
from ..common.places import check_no_data, check_not_beside
from ..common.progress import bar
from .folder import OVERLAY, check_folders, is_done, publish
from .label_maps import LabelMaps, segment_video
from .mask_writers import NAMES, Add, mask_writer
from .overlay import painter
from .resample import hold_labels, interpolate_labels, resize_labels
from .segmenter import AS_TRAINED, Segmenter, StageOne, open_segmenter
from .timeline import Timeline

LABELS = ".labels"  # in the output folder: label maps of finished windows; folders named by videos have no dots
TIME_STAMP_SLACK = 0.0005  # seconds that two readings of a time stamp may differ by


DEFAULT_OUTPUTS = Outputs()


class PartsUnreadable(ComboError):
    """All videos are done, but for parts that could not be read."""

    exit_code = QUARANTINED


def predict(
    run: Path,
    videos: list[Path],
    out: Path,
    stage_one: StageOne = AS_TRAINED,
    outputs: Outputs = DEFAULT_OUTPUTS,
    device: str = "auto",
) -> list[str]:
    """Segment video files with the best weights of a run. Returns lines that say what was found and written.

    Writes a folder per video, out/NAME/: overlay.mp4, with the video's own pictures, times and sound; masks (see
    `mask_writer`); timeline.csv and timeline.json; prediction.json. The network sees the picture at 15/16 s of every
    second, with the sound of that second; that mask is written, and painted over the whole second, unless
    `outputs.every_frame` asks for more. Memory does not grow with the length of a video. The same call resumes, and one
    for another format of masks adds it.
    Raises `BadInput` before any work for files that are no videos, a generator or encoder other than the run's, and an
    output folder that holds the prediction of another video or masks that would be lost (see `check_folders`);
    `PartsUnreadable` when parts of a video are damaged.
    """
    found = inspect_videos(videos)
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder for the predictions")
    if (out / "run.json").exists():
        raise BadInput(f"{out} is a run; name another folder, for example {out / 'predict'}")
    check_not_beside(out, videos)
    check_no_data(out)
    segmenter = open_segmenter(run, stage_one, device)
    wanted = {name: _about(video, segmenter, run, outputs) for name, video in found.items()}
    check_folders(out, wanted, replace=outputs.replace)
    lines, damaged = [f"weights: {segmenter.weights}"], []
    for name, video in found.items():
        if is_done(out / name, wanted[name]):
            lines.append(f"{video.path}: done before, see {out / name}")
            continue
        readable = replace(video, duration=readable_seconds(video))
        if readable.duration <= 0:
            damaged.append(f"{video.path}: breaks off at its beginning")
            continue
        if readable.duration < video.duration:
            there, declared = float(readable.duration), float(video.duration)
            damaged.append(f"{video.path}: breaks off at {there:.1f} of {declared:.1f} s; done up to there")
        written, problems = _predict_one(segmenter, readable, out / name, wanted[name], outputs)
        lines += written
        damaged += [f"{video.path}, {seconds}: {why}" for seconds, why in problems.items()]
    if damaged:
        lines.append("parts of these videos could not be read, and have no masks:")
        raise PartsUnreadable("\n".join([*lines, *(f"  - {problem}" for problem in damaged)]))
    return lines


def _predict_one(
    segmenter: Segmenter, video: VideoFacts, folder: Path, about: dict[str, Any], outputs: Outputs
) -> tuple[list[str], dict[str, str]]:
    """Write all outputs of one video. Returns lines to print, and the reason for each part that could not be read."""
    every_frame = outputs.every_frame
    key = digest([about["identity"], every_frame == "segment", str(video.duration)])[:16]
    maps = LabelMaps(folder.parent / LABELS / key, video, every_frame == "segment", segmenter.size)
    done = maps.windows - len(maps.missing())
    with bar(maps.windows, f"segment {folder.name}", "windows", done=done) as progress:
        problems = segment_video(segmenter, maps, progress.update)
    if len(problems) == maps.windows:
        return [], problems
    timeline = Timeline(segmenter.classes, float(video.duration))
    for time, labels in maps.read():
        timeline.add(time, labels)
    draft = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    size = video.size if outputs.mask_size == "video" else (segmenter.size, segmenter.size)
    with mask_writer(outputs.masks, draft, segmenter.classes, size) as add:
        count = _write_pictures(maps, draft / OVERLAY, segmenter.classes, add, size, every_frame)
    timeline.write(draft, str(video.path))
    unreadable = {NAMES[outputs.masks]: problems} if problems else {}
    replaced = publish(draft, folder, {**about, "unreadable": unreadable})
    lines = [f"{video.path}: {folder / OVERLAY}, {count} masks in {folder / NAMES[outputs.masks]}"]
    lines += [f"  in place of the prediction of {replaced}"] if replaced else []
    lines += [f"  {line}" for line in [*_warn_of_silence(maps), *timeline.lines()]]
    return lines, problems


def _write_pictures(
    maps: LabelMaps,
    overlay: Path,
    classes: tuple[str, ...],
    add: Add,
    size: tuple[int, int],
    every_frame: EveryFrame | None,
) -> int:
    """Write masks of (H, W) = size, and the overlay, in one pass over the pictures. Returns the number of masks."""
    video, count = maps.video, 0
    if every_frame is None:
        for time, labels in maps.read():
            add(time, resize_labels(labels, size))
            count += 1
    if every_frame == "interpolate":
        labels_at = interpolate_labels(maps.read())
    else:
        labels_at = hold_labels(maps.read(), TIME_STAMP_SLACK if every_frame == "segment" else float(INSTANT))
    paint = painter(classes, video.size)

    def painted() -> Iterator[tuple[Fraction, np.ndarray]]:
        nonlocal count
        labels = labels_at(0.0)
        large = resize_labels(labels, video.size)
        name = overlay.parent.name[1:].removesuffix(".partial")
        with bar(int(video.duration), f"write {name}", "seconds") as progress:
            for time, frame in play(video):
                found = labels_at(float(time))
                if found is not labels:
                    labels, large = found, resize_labels(found, video.size)
                if every_frame is not None:
                    add(float(time), large if size == video.size else resize_labels(labels, size))
                    count += 1
                yield time, paint(frame, large)
                progress.update(int(time) - progress.n)
            progress.update(progress.total - progress.n)

    try:
        replace_frames(overlay, video, painted())
    except ValueError as error:
        raise ComboError(f"the overlay cannot be written: {error}") from error
    return count


def _about(video: VideoFacts, segmenter: Segmenter, run: Path, outputs: Outputs) -> dict[str, Any]:
    """The contents of prediction.json: all that a prediction depends on, so that a finished one is recognised."""
    return {
        "video": str(video.path.absolute()),
        "duration": float(video.duration),
        "has_sound": video.has_sound,
        "height": video.size[0],
        "width": video.size[1],
        "run": str(run.absolute()),
        "weights": segmenter.weights,
        "classes": list(segmenter.classes),
        "every_frame": outputs.every_frame,
        "masks": {NAMES[outputs.masks]: outputs.mask_size},
        "identity": digest([file_identity(video.path), segmenter.identity])[:16],
    }


def _warn_of_silence(maps: LabelMaps) -> Iterator[str]:
    if not maps.video.has_sound:
        yield "it has no sound track: the network was given the features of silence, so do not rely on these masks"
    elif silent := maps.silent_seconds():
        yield f"{silent} of its seconds have no sound: the network was given the features of silence there"
