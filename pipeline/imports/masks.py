"""Masks that another program made, as a proposals cache: from a folder of files per clip and frame."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...data.clip import Clip
from ...data.sources.mask_files import MAX_FILE_BYTES, SUFFIXES, FrameMasks, read_masks
from ...data.store.attributes import Provenance
from ...data.store.location import Location
from ...data.store.receipts import write_shard
from ...data.store.root import create_proposals, exclusive
from ...data.store.store import AT_IMPORT, Cache, ClipStore
from ...errors import BadInput, ComboError
from ...model.foundation.interface import Proposals
from ..common.progress import bar
from ..precompute.worker import proposal_rows
from .clips import READ_THREADS

VERSION = "1"  # raised when a change here or in the reader changes what is stored

Files = dict[str, list[Path | None]]  # clip id -> the file of every frame, None: there is none


@dataclass(frozen=True)
class MasksReport:
    """What an import of masks left behind."""

    cache: Cache
    clips: int
    missing: int  # frames without a file
    quarantined: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.cache.path}: masks of {self.clips} clips; use them with --proposals {self.cache.name}"]
        return "\n".join([*lines, *([f"{self.missing} frames have no file, so no masks"] if self.missing else [])])


def import_masks(root: str | Location, folder: Path, name: str, allow_missing: bool = False) -> MasksReport:
    """Write the masks of FOLDER/<clip id>/<frame>.{npz,npy,json,png} into ROOT/proposals/NAME-<fp>.zarr.

    The cache's name follows from the contents of all files. Raises `BadInput`, before anything is written, that lists
    frames without a file (unless allow_missing) and files that lead out of the folder; `ComboError` for a file that
    cannot be read or has changed: what was finished is kept.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput(f"--name {name!r}: use letters, digits, dots, dashes and underscores")
    clips = ClipStore(root)
    clips.fingerprint()  # all of them are there
    bad = dict.fromkeys(clips.quarantined(), AT_IMPORT)
    wanted = [clip for clip in clips.table if clip.id not in bad]
    files = _find(folder, wanted, allow_missing)
    sha256 = _hash(files)
    provenance = Provenance(name, VERSION, {"files_sha256": _digest(files, sha256)})
    cache = create_proposals(clips, provenance)
    with exclusive(cache), ThreadPoolExecutor(READ_THREADS) as pool:
        todo = cache.unfinished()
        with bar(cache.num_shards, f"import {name}", "shards", done=cache.num_shards - len(todo)) as progress:
            for shard in todo:
                _import_shard(clips, cache, files, sha256, shard, pool, bad)
                progress.update()
    missing = sum(path is None for paths in files.values() for path in paths)
    return MasksReport(cache, len(wanted), missing, cache.quarantined())


def _find(folder: Path, clips: list[Clip], allow_missing: bool) -> Files:
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    top = folder.resolve()
    files: Files = {}
    problems: list[str] = []
    for clip in clips:
        paths = [_file_of(folder / clip.id, frame) for frame in range(clip.num_frames)]
        if None in paths and not allow_missing:
            problems.append(
                f"clip {clip.id}: no file for frame {paths.index(None)}, such as {folder / clip.id}/00000.npz"
            )
        outside = [p for p in paths if p is not None and not p.resolve().is_relative_to(top)]
        problems += [f"clip {clip.id}: {p} leads out of {folder}" for p in outside]
        files[clip.id] = paths
    if problems:
        shown = [*problems[:20], *([f"and {len(problems) - 20} more"] if problems[20:] else [])]
        raise BadInput.listing(
            f"{folder} does not fit the clips:", shown, "--allow-missing takes frames without masks."
        )
    if all(path is None for paths in files.values() for path in paths):
        raise BadInput(f"{folder} has no masks of any of these clips; it should hold <clip id>/<frame>.npz")
    return files


def _file_of(folder: Path, frame: int) -> Path | None:
    there = (path for s in SUFFIXES if (path := folder / f"{frame:05d}{s}").is_file())
    return next(there, None)


def _hash(files: Files) -> dict[Path, str]:
    paths = [p for frames in files.values() for p in frames if p is not None]
    with ThreadPoolExecutor(READ_THREADS) as pool, bar(len(paths), "checking masks", "files") as progress:
        hashes = {}
        for path, sha in zip(paths, pool.map(_sha256, paths), strict=True):
            hashes[path] = sha
            progress.update()
    return hashes


def _sha256(path: Path) -> str:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadInput(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(files: Files, sha256: dict[Path, str]) -> str:
    sha = hashlib.sha256()
    for clip, frames in sorted(files.items()):
        sha.update(f"{clip}\0{[path and path.suffix + sha256[path] for path in frames]}\0".encode())
    return sha.hexdigest()


def _import_shard(
    clips: ClipStore,
    cache: Cache,
    files: Files,
    sha256: dict[Path, str],
    shard: int,
    pool: ThreadPoolExecutor,
    bad: dict[str, str],
) -> None:
    lo, hi = cache.shard_range(shard)
    paths: list[Path | None] = []
    for _, clip in clips.clips_in(shard):
        paths += files.get(clip.id, [None] * clip.num_frames)
    found = list(pool.map(lambda path: _proposals(path, sha256, clips.size), paths))
    here = {clip.id: bad[clip.id] for _, clip in clips.clips_in(shard) if clip.id in bad}
    counts = {"frames": hi - lo, "masks": sum(len(p.masks) for p in found)}
    arrays = proposal_rows(found)
    write_shard(cache.path, shard, (lo, hi), cache.specs, arrays, counts=counts, quarantined=here, notes={}, log={})


def _proposals(path: Path | None, sha256: dict[Path, str], size: tuple[int, int]) -> Proposals:
    if path is None:
        nothing = np.zeros((0, *size), bool)
        return _as_proposals(
            FrameMasks(nothing, np.zeros(0, np.float32), np.zeros(0, np.float32), np.zeros((0, 2), "f4"))
        )
    try:
        if _sha256(path) != sha256[path]:
            raise ValueError(f"{path} has changed since it was checked")
        return _as_proposals(read_masks(path, size))
    except (ValueError, OSError) as error:
        raise ComboError(f"{error}; mend the file and run the command again") from error


def _as_proposals(frame: FrameMasks) -> Proposals:
    masks = frame.masks
    rows, columns = masks.any(2), masks.any(1)
    height, width = masks.shape[1:]
    boxes = np.stack(
        [
            columns.argmax(1),
            rows.argmax(1),
            width - 1 - columns[:, ::-1].argmax(1),
            height - 1 - rows[:, ::-1].argmax(1),
        ],
        axis=1,
    )
    boxes[~rows.any(1)] = 0
    return Proposals(
        masks=torch.from_numpy(masks),
        predicted_iou=torch.from_numpy(frame.predicted_iou),
        stability=torch.from_numpy(frame.stability),
        boxes=torch.from_numpy(boxes.astype(np.int32)),
        points=torch.from_numpy(frame.points),
        areas=torch.from_numpy(masks.sum((1, 2))),
    )
