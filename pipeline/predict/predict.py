"""Segment the user's own videos: an overlay with the sound, masks, and a timeline of what sounds when."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...data.sources.video.decoding import VideoFacts, play, readable_seconds
from ...data.sources.video.remux import remake_video
from ...data.sources.video.source import INSTANT, file_identity, inspect_videos
from ...data.store.checksummed_json import digest
from ...errors import QUARANTINED, BadInput, ComboError
from ..common.progress import bar
from .follow import At, enlarge, held, interpolated
from .masks import NAMES, Add, MaskFormat, mask_writer
from .overlay import painter
from .segment import Segmenter, open_segmenter
from .timeline import Timeline
from .track import Track, segment_video

EveryFrame = Literal["interpolate", "segment"]
MaskSize = Literal["video", "network"]
OVERLAY, ABOUT = "overlay.mp4", "prediction.json"
OUTPUTS = (OVERLAY, *NAMES.values(), "timeline.csv", "timeline.json", ABOUT)  # ABOUT last: it says that all are there
LABELS = ".labels"  # in the output folder: label maps of windows that are done; names of videos have no dots
SAME_PICTURE = 0.0005  # seconds that two readings of a time stamp may differ by


class PartsUnreadable(ComboError):
    """All videos are done, but for parts that could not be read."""

    exit_code = QUARANTINED


def predict(
    run: Path,
    videos: list[Path],
    out: Path,
    overrides: list[str],
    device: str = "auto",
    proposals: str | None = None,
    *,
    masks: MaskFormat = "png",
    mask_size: MaskSize = "video",
    every_frame: EveryFrame | None = None,
) -> list[str]:
    """Segment video files with the best weights of a run. Gives lines that say what was found and written.

    For each video out/NAME/, named by the file: overlay.mp4, with the video's own pictures, times and sound; masks (see
    `predict_masks`); timeline.csv and timeline.json; prediction.json.
    The network sees the picture at 15/16 s of every second, with the sound of that second; these masks are written, and
    painted over their second. every_frame: a mask for every picture, either moved between those of the seconds
    (`interpolate`), or found by the generator and the network in that picture (`segment`).
    mask_size: in pixels of the video, upright, or of the network. overrides: settings of `precompute`. proposals:
    another generator, which runs whose Maskiges were imported need.
    Memory does not grow with the length of a video. Interrupted, the same call goes on; a video that is done is left.
    Raises `BadInput` before any work: for files that are no videos, a generator or encoder other than the run's, and an
    output folder that holds the prediction of another video. Raises `PartsUnreadable` when all is written, but parts of
    a video are damaged: these have no masks.
    """
    found = inspect_videos(videos)
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file; name a folder for the predictions")
    segmenter = open_segmenter(run, overrides, device, proposals)
    settings = {"masks": masks, "mask_size": mask_size, "every_frame": every_frame}
    wanted = {n: _about(video, segmenter, run, settings) for n, video in found.items()}
    _check_folders(out, wanted)
    lines, damaged = [f"weights: {segmenter.weights}"], []
    for name, video in found.items():
        if _read_about(out / name) == wanted[name]:
            lines.append(f"{video.path}: done before, see {out / name}")
            continue
        readable = replace(video, duration=readable_seconds(video))
        if readable.duration <= 0:
            damaged.append(f"{video.path}: breaks off at its beginning")
            continue
        if readable.duration < video.duration:
            there, declared = float(readable.duration), float(video.duration)
            damaged.append(f"{video.path}: breaks off at {there:.1f} of {declared:.1f} s; done up to there")
        told, problems = _predict_one(segmenter, readable, out, name, wanted[name])
        lines += told
        damaged += [f"{video.path}, {seconds}: {why}" for seconds, why in problems.items()]
    if damaged:
        listed = "\n".join(f"  - {problem}" for problem in damaged)
        raise PartsUnreadable(
            "\n".join([*lines, "parts of these videos could not be read, and have no masks:", listed])
        )
    return lines


def _predict_one(
    segmenter: Segmenter, video: VideoFacts, out: Path, name: str, about: dict[str, Any]
) -> tuple[list[str], dict[str, str]]:
    """All outputs of one video. Gives lines to print, and the parts that could not be read with the reason."""
    every_frame = about["every_frame"]
    parts = out / LABELS / digest([about["identity"], every_frame == "segment", str(video.duration)])[:16]
    track = Track(parts, video, every_frame == "segment", segmenter.size)
    with bar(track.windows, f"segment {name}", "windows", done=track.windows - len(track.missing())) as progress:
        problems = segment_video(segmenter, track, progress.update)
    if len(problems) == track.windows:
        return [], problems
    timeline = Timeline(segmenter.classes, float(video.duration))
    for time, labels in track.label_maps():
        timeline.add(time, labels)
    draft = out / f".{name}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    size = video.size if about["mask_size"] == "video" else (segmenter.size, segmenter.size)
    with mask_writer(about["masks"], draft, segmenter.classes, size) as add:
        count = _write(track, draft / OVERLAY, segmenter.classes, add, size, every_frame)
    timeline.write(draft, str(video.path))
    if not problems:
        (draft / ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")
    _replace(draft, out / name)
    lines = [f"{video.path}: {out / name / OVERLAY}, {count} masks in {out / name / NAMES[about['masks']]}"]
    lines += [f"  {line}" for line in [*_about_sound(track), *timeline.lines()]]
    return lines, problems


def _write(
    track: Track,
    overlay: Path,
    classes: tuple[str, ...],
    add: Add,
    size: tuple[int, int],
    every_frame: EveryFrame | None,
) -> int:
    """One pass over the pictures of a video: masks and overlay as they come. Gives the number of masks."""
    video, count = track.video, 0
    if every_frame is None:
        for time, labels in track.label_maps():
            add(time, enlarge(labels, size))
            count += 1
    at = _labels_at(track, every_frame)
    paint = painter(classes, video.size)

    def painted() -> Iterator[tuple[Fraction, np.ndarray]]:
        nonlocal count
        labels = large = None
        with bar(
            int(video.duration), f"write {overlay.parent.name[1:].removesuffix('.partial')}", "seconds"
        ) as progress:
            for time, frame in play(video):
                found = at(float(time))
                if found is not labels:
                    labels, large = found, enlarge(found, video.size)
                if every_frame is not None:
                    add(float(time), large if size == video.size else enlarge(labels, size))
                    count += 1
                yield time, paint(frame, large)
                progress.update(int(time) - progress.n)
            progress.update(progress.total - progress.n)

    try:
        remake_video(overlay, video, painted())
    except ValueError as error:
        raise ComboError(f"the overlay cannot be made: {error}") from error
    return count


def _labels_at(track: Track, every_frame: EveryFrame | None) -> At:
    """The label map that belongs to a time: that of its second, of its picture, or one between two seconds."""
    if every_frame == "interpolate":
        return interpolated(track.label_maps())
    return held(track.label_maps(), SAME_PICTURE if every_frame == "segment" else float(INSTANT))


def _about(video: VideoFacts, segmenter: Segmenter, run: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a prediction was made of and how: prediction.json, by which a video that is done is known again."""
    return {
        "video": str(video.path.absolute()),
        "duration": float(video.duration),
        "has_sound": video.has_sound,
        "height": video.size[0],
        "width": video.size[1],
        "run": str(run.absolute()),
        "weights": segmenter.weights,
        "classes": list(segmenter.classes),
        **settings,
        "identity": digest([file_identity(video.path), segmenter.identity])[:16],
    }


def _read_about(folder: Path) -> dict[str, Any] | None:
    try:
        return json.loads((folder / ABOUT).read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _check_folders(out: Path, wanted: dict[str, dict[str, Any]]) -> None:
    """Raise `BadInput` where a folder holds the prediction of another video of that name."""
    problems = []
    for name, about in wanted.items():
        there = _read_about(out / name)
        if there is not None and there.get("video") != about["video"] and there.get("identity") != about["identity"]:
            problems.append(f"{out / name} is of {there.get('video')}, not of {about['video']}")
    if problems:
        raise BadInput.listing("other videos of the same name were predicted here:", problems, "name another --out")


def _replace(draft: Path, folder: Path) -> None:
    """Put the new outputs in place of those of an earlier call; other files in the folder stay."""
    folder.mkdir(exist_ok=True)
    for name in reversed(OUTPUTS):
        old = folder / name
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    for name in OUTPUTS:
        if (draft / name).exists():
            (draft / name).rename(folder / name)
    draft.rmdir()


def _about_sound(track: Track) -> Iterator[str]:
    unheard = track.unheard()
    if not track.video.has_sound:
        yield "it has no sound track: the network was given the features of silence, so trust the masks little"
    elif unheard:
        yield f"{unheard} of its seconds have no sound: the network was given the features of silence there"
