"""Write clips of any source in the layout of AVSBench, for programs that read only that; no log-mels, no videos."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from ....errors import BadInput
from ...clip import SAMPLE_RATE, Clip, ClipArrays, ClipSource
from .labels import voc_palette
from .layout import SUBSETS, ClipFiles, safe_name

SUBSET_OF = {"s4": "s4", "ms3": "ms3", "v1s": "avss", "v1m": "avss", "v2": "avss"}  # by Clip.subset
HEADERS = {
    "s4": ("name", "start", "category", "split"),
    "ms3": ("video_id", "split"),
    "avss": ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"),
}
JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}  # 4:4:4


def write_avsbench(source: ClipSource, folder: Path, subset: str) -> None:
    """Write every clip of `source` below `folder`/AVSBench_object or `folder`/AVSBench_semantic.

    subset: s4, ms3 or avss; all clips must belong to it (avss: v1s, v1m, v2). S4 clips name their category as their
    only object. Frames become PNG (S4, MS3) or JPEG (AVSS), which loses a little; sound 16-bit stereo at 16 kHz. Clips
    of v1s and v2 are listed under `<id>_0_<milliseconds>` unless their id already has that form.

    The clip list is written last, so that an interrupted tree has none. Raises `BadInput`, before anything is written,
    that lists every clip that does not fit, or says that the list is there already.
    """
    if subset not in SUBSETS:
        raise BadInput(f"unknown AVSBench subset {subset!r}; there are {', '.join(SUBSETS)}")
    layout = SUBSETS[subset]
    home = Path(folder).joinpath(*layout.folder)
    clip_list = home / layout.list_name
    if clip_list.exists():
        raise BadInput(f"{clip_list} is there already; name an empty folder")
    if problems := [problem for clip in source.clips for problem in _misfits(clip, subset)]:
        raise BadInput.listing(f"{source.name} cannot be written as AVSBench {subset}:", problems)
    home.mkdir(parents=True, exist_ok=True)
    rows, palette = [], None
    if subset == "avss":
        palette = voc_palette(len(source.classes))
        numbers = {name: number for number, name in enumerate(source.classes, start=1)}  # as published
        (home / "label2idx.json").write_text(json.dumps(numbers, indent=4), encoding="utf-8")
    for clip in source.clips:
        listed = clip
        if subset == "avss":
            listed = replace(clip, id=_uid(clip))
            # Where this folder is, the layout's label maps are the ones in it.
            (home / listed.subset / listed.id / "labels_semantic").mkdir(parents=True, exist_ok=True)
        _write_clip(layout.files(home, listed), source.read(clip), palette)
        rows.append(_row(listed, subset))
    with clip_list.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADERS[subset], *rows])


def _misfits(clip: Clip, subset: str) -> list[str]:
    """Why this clip cannot be written, if so."""
    problems = []
    if SUBSET_OF.get(clip.subset) != subset:
        problems.append(f"clip {clip.id!r} belongs to {clip.subset}")
    if subset == "s4" and len(clip.objects) != 1:
        problems.append(f"clip {clip.id!r} needs one object, its category, and has {list(clip.objects)}")
    for name in (clip.id, *clip.objects):
        try:
            safe_name(name, f"clip {clip.id!r}", "its id or an object")
        except BadInput as error:
            problems.append(str(error))
    return problems


def _uid(clip: Clip) -> str:
    """`<vid>_<start>_<end>` in milliseconds; v1m clips go by the bare id."""
    if clip.subset == "v1m" or _start(clip.id, clip.num_frames) is not None:
        return clip.id
    return f"{clip.id}_0_{clip.num_frames * 1000}"


def _start(uid: str, seconds: int) -> int | None:
    """The start in milliseconds of an id that ends in `_<start>_<end>` and spans so many seconds."""
    span = re.search(r"_(\d+)_(\d+)$", uid)
    return int(span[1]) if span and int(span[2]) - int(span[1]) == seconds * 1000 else None


def _row(clip: Clip, subset: str) -> tuple[str | int, ...]:
    """The clip's line of the list."""
    if subset == "s4":
        return clip.id, 0, clip.objects[0], clip.split
    if subset == "ms3":
        return clip.id, clip.split
    vid = clip.id if clip.subset == "v1m" else clip.id.rsplit("_", 2)[0]
    start = 0 if clip.subset == "v1m" else (_start(clip.id, clip.num_frames) or 0) // 1000
    return vid, clip.id, *divmod(start, 60), "_".join(clip.objects), clip.split, clip.subset


def _write_clip(files: ClipFiles, arrays: ClipArrays, palette: np.ndarray | None) -> None:
    """The files of one clip. palette: the colours of labels_rgb, uint8 [K, 3]; None for binary masks."""
    paths = [*files.frames, files.sound, *(path for path in files.labels if path)]
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    for path, frame in zip(files.frames, arrays.frames, strict=True):
        Image.fromarray(frame).save(path, **(JPEG if path.suffix == ".jpg" else {}))
    for path, labels in zip(files.labels, arrays.labels, strict=True):
        if path is None:
            continue
        if palette is None:
            Image.fromarray(np.where(labels == 1, 255, 0).astype(np.uint8)).save(path)
        else:
            Image.fromarray(labels).save(path)
            coloured = path.parents[1] / "labels_rgb" / path.name
            coloured.parent.mkdir(exist_ok=True)
            Image.fromarray(palette[labels]).save(coloured)
    pcm = np.clip(np.rint(arrays.waveform * 32768), -32768, 32767).astype(np.int16)
    soundfile.write(files.sound, np.stack([pcm, pcm], axis=1), SAMPLE_RATE, subtype="PCM_16")
