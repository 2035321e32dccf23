"""How AVSBench lies on disk: which list names the clips of a subset, and which files belong to a clip."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ....errors import BadInput
from ...clip import FRAME_OFFSET, SPLITS, Clip, ShortAudio


@dataclass(frozen=True)
class ClipFiles:
    """The paths of one clip of T frames, whether the files exist or not."""

    frames: tuple[Path, ...]  # T images
    labels: tuple[Path | None, ...]  # T label maps; None where a frame is not annotated
    coding: str  # of the labels: binary, index or colour
    sound: Path
    log_mel: Path  # the pickle that comes with the data set


@dataclass(frozen=True)
class Subset:
    """Where a subset lies below the data set's root, and how its list is read."""

    folder: tuple[str, ...]
    list_name: str
    columns: tuple[str, ...]  # of the list
    named: bool  # columns are found by the names in the first line; else they are the first ones, in this order
    in_paths: tuple[str, ...]  # columns that become part of file names
    short_audio: ShortAudio
    clip: Callable[[dict[str, str]], Clip]  # from one row; ValueError if a value is unknown
    files: Callable[[Path, Clip], ClipFiles]  # from the folder and a clip


def safe_name(value: str, file: str, what: str) -> str:
    """The value itself, if it is one plain file name: no path out of its folder can be made of it.

    Else BadInput names the file (and line) that it came from. `what` says what the value is: "column 'uid'".
    """
    odd = any(c in '/\\:<>|?*"' or not c.isprintable() for c in value)
    if odd or value in ("", ".", "..") or len(value) > 200:
        raise BadInput(f"{file}: {what} is {value[:80]!r}, which is not a plain file name")
    return value


def read_clips(path: Path, subset: Subset) -> tuple[Clip, ...]:
    """The clips in the order of the list at `path`. Raises `BadInput` that lists every row that is wrong."""
    clips: dict[str, Clip] = {}
    lines: dict[str, int] = {}
    problems = []
    for line, row in _rows(path, subset):
        where = f"{path.name} line {line}"
        if len(row) < len(subset.columns):
            problems.append(f"{where} is short of columns; needed are {', '.join(subset.columns)}")
            continue
        try:
            for column in subset.in_paths:
                safe_name(row[column], where, f"column {column!r}")
            clip = subset.clip(row)
        except (BadInput, ValueError) as error:
            problems.append(str(error) if isinstance(error, BadInput) else f"{where}: {error}")
            continue
        if clip.id in clips:
            problems.append(f"{where}: clip {clip.id!r} was already listed in line {lines[clip.id]}")
        clips[clip.id], lines[clip.id] = clip, line
    if problems:
        raise BadInput.listing(f"{path} cannot be used:", problems)
    if not clips:
        raise BadInput(f"{path} lists no clips")
    return tuple(clips.values())


def _rows(path: Path, subset: Subset) -> list[tuple[int, dict[str, str]]]:
    """(line number, value by column) of every row that is not blank; short rows lack columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{path} is not a readable CSV file: {error}") from error
    header = rows[0][1] if rows else []
    if not subset.named:
        has_header = len(header) < 2 or header[1] not in SPLITS
        return [(line, dict(zip(subset.columns, row, strict=False))) for line, row in rows[has_header:]]
    if missing := [c for c in subset.columns if c not in header]:
        raise BadInput(f"{path} has no column {', '.join(missing)}; its first line is {header}")
    places = [(c, header.index(c)) for c in subset.columns]
    return [(line, {c: row[p] for c, p in places if p < len(row)}) for line, row in rows[1:]]


def _make_clip(id_: str, subset: str, split: str, objects: tuple[str, ...], source: str) -> Clip:
    """A clip of the known length of its subset. Raises ValueError if the split or the subset is unknown."""
    if split not in SPLITS:
        raise ValueError(f"clip {id_!r}: split {split!r} is none of {', '.join(SPLITS)}")
    seconds = {"s4": 5, "ms3": 5, "v1s": 5, "v1m": 5, "v2": 10}.get(subset)
    if seconds is None:
        raise ValueError(f"clip {id_!r}: label {subset!r} is none of v1s, v1m, v2")
    first_only = subset in ("s4", "v1s") and split == "train"  # only their first frames were labelled
    return Clip(
        id=id_,
        subset=subset,
        split=split,
        objects=objects,
        frame_times=tuple(k + FRAME_OFFSET for k in range(seconds)),
        frame_valid=(True,) * seconds,
        frame_annotated=tuple(k == 0 or not first_only for k in range(seconds)),
        source=source,
    )


def _source_video(name: str) -> str:
    """The YouTube id, of 11 characters, `_` among them, in a multi-source `<id>` or `<id>_<k>`."""
    return name[:11] if name[11:12] == "_" else name


def _s4_files(folder: Path, clip: Clip) -> ClipFiles:
    data, place = folder / "s4_data", Path(clip.split, clip.objects[0])
    frames = data / "visual_frames" / place / clip.id
    labels = data / "gt_masks" / place / clip.id
    return ClipFiles(
        frames=tuple(frames / f"{clip.id}_{k + 1}.png" for k in range(clip.num_frames)),
        labels=_annotated(clip, [labels / f"{clip.id}_{k + 1}.png" for k in range(clip.num_frames)]),
        coding="binary",
        sound=data / "audio_wav" / place / f"{clip.id}.wav",
        log_mel=data / "audio_log_mel" / place / f"{clip.id}.pkl",
    )


def _ms3_files(folder: Path, clip: Clip) -> ClipFiles:
    data = folder / "ms3_data"
    frames = data / "visual_frames" / clip.id  # no split level, and ".mp4" within the names
    labels = data / "gt_masks" / clip.split / clip.id
    return ClipFiles(
        frames=tuple(frames / f"{clip.id}.mp4_{k + 1}.png" for k in range(clip.num_frames)),
        labels=_annotated(clip, [labels / f"{clip.id}_{k + 1}.png" for k in range(clip.num_frames)]),
        coding="binary",
        sound=data / "audio_wav" / clip.split / f"{clip.id}.wav",
        log_mel=data / "audio_log_mel" / clip.split / f"{clip.id}.pkl",
    )


def _avss_clip(row: dict[str, str]) -> Clip:
    # The official list has names that are no class ("off-the-screen", "h orse"): they are notes, not labels.
    objects = tuple(name for name in row["a_obj"].split("_") if name)
    source = _source_video(row["vid"]) if row["label"] == "v1m" else row["vid"]
    return _make_clip(row["uid"], row["label"], row["split"], objects, source)


def _avss_files(folder: Path, clip: Clip) -> ClipFiles:
    home = folder / clip.subset / clip.id
    by_index = (home / "labels_semantic").is_dir()
    labels = home / ("labels_semantic" if by_index else "labels_rgb")
    return ClipFiles(
        frames=tuple(home / "frames" / f"{k}.jpg" for k in range(clip.num_frames)),
        labels=_annotated(clip, [labels / f"{k}.png" for k in range(clip.num_frames)]),
        coding="index" if by_index else "colour",
        sound=home / "audio.wav",
        log_mel=home / "audio.pkl",
    )


def _annotated(clip: Clip, paths: list[Path]) -> tuple[Path | None, ...]:
    return tuple(p if there else None for p, there in zip(paths, clip.frame_annotated, strict=True))


SUBSETS = {
    "s4": Subset(
        folder=("AVSBench_object", "Single-source"),
        list_name="s4_meta_data.csv",
        columns=("name", "category", "split"),
        named=True,
        in_paths=("name", "category"),
        short_audio="repeat_last",
        clip=lambda row: _make_clip(row["name"], "s4", row["split"], (row["category"],), row["name"]),
        files=_s4_files,
    ),
    "ms3": Subset(
        folder=("AVSBench_object", "Multi-sources"),
        list_name="ms3_meta_data.csv",
        columns=("video id", "split"),
        named=False,
        in_paths=("video id",),
        short_audio="repeat_last",
        clip=lambda row: _make_clip(row["video id"], "ms3", row["split"], (), _source_video(row["video id"])),
        files=_ms3_files,
    ),
    "avss": Subset(
        folder=("AVSBench_semantic",),
        list_name="metadata.csv",
        columns=("vid", "uid", "a_obj", "split", "label"),
        named=True,
        in_paths=("vid", "uid"),
        short_audio="zero_log_mel",
        clip=_avss_clip,
        files=_avss_files,
    ),
}


def candidates(source_dir: Path, folder: tuple[str, ...]) -> list[Path]:
    """Where a folder below the data set's root may be: below `source_dir`, below a part of the way, or it itself."""
    return [source_dir.joinpath(*folder[k:]) for k in range(len(folder) + 1)]


def locate(source_dir: Path, subset: Subset) -> Path:
    """The subset's folder: `source_dir` itself, or below it. Raises `BadInput` naming the lists it looked for."""
    lists = [folder / subset.list_name for folder in candidates(source_dir, subset.folder)]
    if found := next((path for path in lists if path.is_file()), None):
        return found.parent
    advice = "Name the folder that holds AVSBench_object and AVSBench_semantic, or the subset's own folder."
    raise BadInput.listing(f"no AVSBench data in {source_dir}; looked for", [str(path) for path in lists], advice)
