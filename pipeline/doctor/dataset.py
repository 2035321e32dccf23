"""Examine AVSBench on disk: its lists, every file of every clip, and the contents of the files."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...data.clip import SPLITS, Clip
from ...data.images import image_header
from ...data.sources.avsbench.checks import Fault, Kind, header_faults, label_faults, sound_faults
from ...data.sources.avsbench.labels import BINARY_CLASSES, read_class_names
from ...data.sources.avsbench.layout import SUBSETS, Subset, locate, read_clips
from ...data.sources.avsbench.source_videos import shared_sources
from ...errors import BadInput
from ..common.progress import bar
from ..published.paper import CLIPS
from .findings import Finding

THREADS = 8  # decoding releases the GIL
OFFICIAL_SIZE = (224, 224)  # of the frames and masks of S4 and MS3

CODES: dict[Kind, str] = {
    "missing": "D303",
    "unreadable": "D304",
    "unfit": "D305",
    "extra": "D306",
    "value": "D307",
    "zero-one": "D308",
    "grey": "D309",
    "empty": "D310",
    "float": "D311",
    "short": "D312",
}


def subsets_in(path: Path) -> list[str]:
    """Names of the subsets whose lists are in a folder, or below it where AVSBench puts them."""
    found = []
    for name, subset in SUBSETS.items():
        with suppress(BadInput):
            locate(path, subset)
            found.append(name)
    return found


def subset_findings(path: Path, name: str, facts: dict[str, Any]) -> Iterator[Finding]:
    """Check one subset. Decodes every mask, and reads the headers of frames and sounds."""
    subset = SUBSETS[name]
    folder = locate(path, subset)
    list_path = folder / subset.list_name
    try:
        classes = BINARY_CLASSES if name != "avss" else read_class_names(folder / "label2idx.json")
        clips = read_clips(list_path, subset)
    except BadInput as error:
        yield Finding("D301", str(list_path), str(error))
        return
    counts = {split: sum(c.split == split for c in clips) for split in SPLITS}
    facts[name] = {"clips": len(clips), **counts, "source videos": len({c.source for c in clips})}
    if counts != CLIPS[name]:
        differing = [f"{split}: {counts[split]} clips instead of {n}" for split, n in CLIPS[name].items()]
        yield Finding("D302", str(list_path), items=tuple(differing))
    size = None if name == "avss" else _first_size(folder, subset, clips)
    if size not in (None, OFFICIAL_SIZE):
        yield Finding("D318", str(folder), f"the first is {size[0]} x {size[1]} (height x width)")
    yield from _file_findings(folder, subset, clips, size, len(classes))
    yield from _name_findings(list_path, clips, classes if name == "avss" else None)
    yield from _stray_findings(folder, subset, clips)
    yield from shared_findings(clips, str(list_path))


def shared_findings(clips: Iterable[Clip], where: str) -> Iterator[Finding]:
    """One finding for each pair of splits that share source videos."""
    clips = list(clips)
    counts = Counter(c.split for c in clips)
    for (split, other), ids in shared_sources(clips).items():
        detail = f"{len(ids)} of {counts[split]} {split} clips share a source video with {other} clips"
        yield Finding("D320", where, detail, tuple(ids))


def _file_findings(
    folder: Path, subset: Subset, clips: Sequence[Clip], exact: tuple[int, int] | None, num_classes: int
) -> Iterator[Finding]:
    def examine(clip: Clip) -> list[Fault]:
        files = subset.files(folder, clip)
        faults = list(header_faults(files, exact))
        if any(kind in ("missing", "unreadable") for kind, _ in faults):
            return faults  # their pixels cannot be read, or would be reported twice
        faults += sound_faults(files.sound, clip.num_frames)
        for label in files.labels:
            if label is not None:
                faults += label_faults(label, files.coding, num_classes)
        return faults

    found: dict[Kind, list[str]] = defaultdict(list)
    concerned: dict[Kind, set[str]] = defaultdict(set)
    with ThreadPoolExecutor(THREADS) as pool, bar(len(clips), f"examine {folder.name}", "clips") as progress:
        for clip, faults in zip(clips, pool.map(examine, clips), strict=True):
            progress.update()
            for kind, what in faults:
                found[kind].append(what.replace(f"{folder}{os.sep}", ""))
                concerned[kind].add(clip.id)
    for kind, code in CODES.items():
        if items := found[kind]:
            yield Finding(code, str(folder), f"{len(items)}, clips concerned: {len(concerned[kind])}", tuple(items))


def _first_size(folder: Path, subset: Subset, clips: Sequence[Clip]) -> tuple[int, int] | None:
    """(H, W) of the first readable frame, which all others must have."""
    for frame in (path for clip in clips for path in subset.files(folder, clip).frames):
        with suppress(ValueError):
            return image_header(frame)[1]
    return None


def _name_findings(list_path: Path, clips: Sequence[Clip], classes: Sequence[str] | None) -> Iterator[Finding]:
    """classes: the names that objects must have; None where objects are no classes."""
    if dashed := [c.id for c in clips if c.id.startswith("-")]:
        yield Finding("D314", str(list_path), f"{len(dashed)}", tuple(dashed))
    if classes is None:
        return
    if odd := [f"{c.id}: {name!r}" for c in clips for name in c.objects if name not in classes]:
        yield Finding("D313", str(list_path), f"{len(odd)}", tuple(odd))
    named = {name for c in clips if c.split == "test" for name in c.objects}
    if unseen := [name for name in classes[1:] if name not in named]:
        yield Finding("D317", str(list_path), f"{len(unseen)} of {len(classes) - 1}", tuple(unseen))


def _stray_findings(folder: Path, subset: Subset, clips: Sequence[Clip]) -> Iterator[Finding]:
    """Hidden files anywhere below, and entries among the clips' folders and sounds that belong to no clip."""
    expected: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        files = subset.files(folder, clip)
        apart = [files.frames[0].parent, *(label.parent for label in files.labels[:1] if label), files.sound]
        for home in [files.sound.parent] if clip.subset == "avss" else apart:
            expected[str(home.parent)].add(home.name)
    hidden, strays = [], []
    for parent, folders, files_here in os.walk(folder):
        for name in (*folders, *files_here):
            if name.startswith("."):
                hidden.append(os.path.join(parent, name))
            elif parent in expected and name not in expected[parent]:
                strays.append(os.path.join(parent, name))
    if hidden:
        yield Finding("D315", str(folder), f"{len(hidden)}", tuple(sorted(hidden)))
    if strays:
        yield Finding("D316", str(folder), f"{len(strays)}", tuple(sorted(strays)))
