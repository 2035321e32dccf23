"""Import masks that another program made, from a folder of files per clip and frame, as a proposals cache."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ...data.clip import Clip
from ...data.sources.mask_files import MAX_FILE_BYTES, SUFFIXES, FrameMasks, read_masks
from ...data.store.attributes import Provenance
from ...data.store.location import Location
from ...data.store.root import create_proposals
from ...data.store.store import AT_IMPORT, ClipStore
from ...errors import BadInput, ComboError
from ...files import file_sha256
from ...model.foundation.interface import Proposals
from ...model.foundation.mask_candidates import mask_boxes
from ..common.places import check_root_apart
from ..common.progress import bar
from ..precompute.masks import proposal_rows
from .fill import READ_THREADS, CacheReport, ClipRows, fill_store

VERSION = "1"  # raised when a change here or in the reader changes what is stored
SHOWN_PROBLEMS = 20

Files = dict[str, list[Path | None]]  # clip id -> the file of every frame, None: there is none


def import_masks(root: str | Location, folder: Path, name: str, *, allow_missing: bool = False) -> CacheReport:
    """Write the masks of FOLDER/<clip id>/<frame>.{npz,npy,json,png} into ROOT/proposals/NAME-<fp>.zarr.

    The cache's name follows from the contents of all files. Raises `BadInput`, before anything is written, that lists
    frames without a file (unless allow_missing) and files that lead out of the folder; `ComboError` for a file that
    cannot be read or has changed: shards that were committed stay.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise BadInput(f"--name {name!r}: use letters, digits, dots, dashes and underscores")
    check_root_apart(root, folder)
    clips = ClipStore(root)
    clips.fingerprint()  # raises unless all of them were imported
    unusable = clips.quarantined()
    wanted = [clip for clip in clips.table if clip.id not in unusable]
    files = _find_files(folder, wanted, allow_missing=allow_missing)
    sha256 = _hash_files(files)
    cache = create_proposals(clips, Provenance(name, VERSION, {"files_sha256": _digest(files, sha256)}))

    def read(clip: Clip) -> ClipRows:
        paths = files.get(clip.id, [None] * clip.num_frames)
        rows = proposal_rows([_read_proposals(path, sha256, clips.size) for path in paths])
        return ClipRows(rows, quarantined=AT_IMPORT if clip.id in unusable else None)

    fill_store(cache, clips, f"import {name}", read)
    missing = sum(path is None for paths in files.values() for path in paths)
    return CacheReport(cache, len(wanted), missing=missing)


def _find_files(folder: Path, clips: list[Clip], *, allow_missing: bool) -> Files:
    """The file of every frame. Raises `BadInput` as `import_masks` does."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    top = folder.resolve()
    files: Files = {}
    problems: list[str] = []
    for clip in clips:
        candidates = [[folder / clip.id / f"{k:05d}{s}" for s in SUFFIXES] for k in range(clip.num_frames)]
        paths = [next(filter(Path.is_file, options), None) for options in candidates]
        if None in paths and not allow_missing:
            example = f"{folder / clip.id}/00000.npz"
            problems.append(f"clip {clip.id}: no file for frame {paths.index(None)}, such as {example}")
        outside = [p for p in paths if p is not None and not p.resolve().is_relative_to(top)]
        problems += [f"clip {clip.id}: {p} leads out of {folder}" for p in outside]
        files[clip.id] = paths
    if problems:
        more = len(problems) - SHOWN_PROBLEMS
        shown = [*problems[:SHOWN_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        advice = "--allow-missing takes frames without masks."
        raise BadInput.listing(f"{folder} does not fit the clips:", shown, advice)
    if all(path is None for paths in files.values() for path in paths):
        raise BadInput(f"{folder} has no masks of any of these clips; it should hold <clip id>/<frame>.npz")
    return files


def _hash_files(files: Files) -> dict[Path, str]:
    paths = [p for frames in files.values() for p in frames if p is not None]
    hashes: dict[Path, str] = {}
    with ThreadPoolExecutor(READ_THREADS) as pool, bar(len(paths), "checking masks", "files") as progress:
        for path, sha in zip(paths, pool.map(_sha256, paths), strict=True):
            hashes[path] = sha
            progress.update()
    return hashes


def _sha256(path: Path) -> str:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadInput(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB")
    return file_sha256(path)


def _digest(files: Files, sha256: dict[Path, str]) -> str:
    sha = hashlib.sha256()
    for clip, frames in sorted(files.items()):
        sha.update(f"{clip}\0{[path and path.suffix + sha256[path] for path in frames]}\0".encode())
    return sha.hexdigest()


def _read_proposals(path: Path | None, sha256: dict[Path, str], size: tuple[int, int]) -> Proposals:
    try:
        if path and _sha256(path) != sha256[path]:
            raise ValueError(f"{path} has changed since it was checked")
        frame = read_masks(path, size) if path else FrameMasks.none(size)
    except (ValueError, OSError, BadInput) as error:
        raise ComboError(f"{error}; repair the file and run the command again") from error
    return proposals_of(frame.masks, frame.predicted_iou, frame.stability, frame.points)


def proposals_of(masks: np.ndarray, predicted_iou: np.ndarray, stability: np.ndarray, points: np.ndarray) -> Proposals:
    """Proposals from bool [K, H, W], float32 [K], [K] and [K, 2]; boxes and areas follow from the masks."""
    pixels = torch.from_numpy(masks)
    return Proposals(
        masks=pixels,
        predicted_iou=torch.from_numpy(predicted_iou),
        stability=torch.from_numpy(stability),
        boxes=mask_boxes(pixels).int(),
        points=torch.from_numpy(points),
        areas=pixels.sum((1, 2)),
    )
