"""The import job: clips of any reader into ROOT/clips.zarr, shard by shard, resumable."""

import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...base import IGNORE_LABEL
from ...data.audio import fit_seconds, log_mel_examples, waveform_seconds
from ...data.clip import Clip, ClipArrays, ClipSource
from ...data.sources.avsbench.source import open_avsbench
from ...data.sources.avsbench.writer import write_avsbench
from ...data.sources.synthetic.source import Flavour, SyntheticSource
from ...data.sources.video.source import open_videos
from ...data.store.location import Location
from ...data.store.receipts import write_shard
from ...data.store.root import create_clips, exclusive
from ...data.store.schema import SHARD_FRAMES
from ...data.store.store import ClipStore
from ...errors import ClipError
from ..common.progress import bar
from ..common.text import quarantine_lines

LOG_MEL_TOLERANCE = 0.01  # of a log-mel that a source brings; versions of the resampler differ by 1e-5
READ_THREADS = 4  # decoding releases the GIL; more threads than this wait for the disk


@dataclass(frozen=True)
class ImportReport:
    """What an import left behind. quarantined and notes map clip ids to reasons."""

    store: ClipStore
    quarantined: dict[str, str]
    notes: dict[str, str]

    def __str__(self) -> str:
        table = self.store.table
        splits = ", ".join(f"{n} {split}" for split, n in table.splits().items())
        lines = [f"{self.store.path}: {len(table)} clips ({splits}), {table.total_frames} frames"]
        lines += [f"quarantined {line}" for line in quarantine_lines(self.quarantined)]
        lines += [f"note on {clip}: {note}" for clip, note in list(self.notes.items())[:20]]
        if len(self.notes) > 20:
            lines.append(f"... and notes on {len(self.notes) - 20} more clips; 'combo cache info' lists them")
        return "\n".join(lines)


def import_synthetic(
    root: str | Location,
    flavour: Flavour,
    clips: int,
    seed: int,
    size: int,
    shard_frames: int,
    avsbench: Path | None = None,
) -> ImportReport:
    """Make a synthetic set and import it; with `avsbench`, write it to that folder in AVSBench layout, too."""
    source = SyntheticSource(flavour, clips, seed, size)
    if avsbench is not None:
        write_avsbench(source, avsbench, flavour)
    return import_clips(source, root, shard_frames)


def import_avsbench(
    root: str | Location,
    source: Path,
    subset: str,
    size: int,
    shard_frames: int,
    log_mel_pickles: bool = False,
    split: str = "official",
) -> ImportReport:
    """Import S4, MS3 or AVSS from the data set's folder, see `open_avsbench`."""
    return import_clips(open_avsbench(source, subset, size, log_mel_pickles, split), root, shard_frames)


def import_videos(
    root: str | Location, files: list[Path], clip_seconds: int, size: int, shard_frames: int
) -> ImportReport:
    """Import video files, see `open_videos`."""
    return import_clips(open_videos(files, clip_seconds, size), root, shard_frames)


def import_clips(source: ClipSource, root: str | Location, shard_frames: int = SHARD_FRAMES) -> ImportReport:
    """Write every clip of `source` that is not yet in `root`.

    A clip that cannot be read is quarantined with its reason and the others go on.
    Raises `BadInput` before any work when `root` holds other clips.
    """
    store = create_clips(root, source, shard_frames)
    with exclusive(store), ThreadPoolExecutor(READ_THREADS) as pool:
        todo = store.unfinished()
        with bar(store.num_shards, "import", "shards", done=store.num_shards - len(todo)) as progress:
            for shard in todo:
                _import_shard(store, source, shard, pool)
                progress.update()
    return ImportReport(store, store.quarantined(), store.notes())


def _import_shard(store: ClipStore, source: ClipSource, shard: int, pool: ThreadPoolExecutor) -> None:
    lo, hi = store.shard_range(shard)
    arrays = {name: spec.empty(hi - lo) for name, spec in store.specs.items()}
    clips = store.clips_in(shard)
    quarantined: dict[str, str] = {}
    notes: dict[str, str] = {}
    for (first, clip), outcome in zip(clips, pool.map(lambda c: _try_read(source, c[1]), clips), strict=True):
        rows = slice(first - lo, first - lo + clip.num_frames)
        if isinstance(outcome, str):
            quarantined[clip.id] = outcome
            arrays["label_valid"][rows] = arrays["audio_valid"][rows] = 0
            continue
        values = _clip_rows(store, source, clip, outcome)
        for name in arrays:
            arrays[name][rows] = values[name]
        if note := _sound_note(values, source.short_audio) or _log_mel_note(clip, outcome, source.short_audio):
            notes[clip.id] = note
    counts = {"clips": len(clips), "labelled_frames": int(arrays["label_valid"].sum())}
    write_shard(
        store.path, shard, (lo, hi), store.specs, arrays, counts=counts, quarantined=quarantined, notes=notes, log={}
    )


def _try_read(source: ClipSource, clip: Clip) -> ClipArrays | str:
    try:
        return source.read(clip)
    except ClipError as error:
        return str(error)
    except Exception:  # a defect of one file or of a reader must not lose the other clips
        return traceback.format_exc()


def _clip_rows(store: ClipStore, source: ClipSource, clip: Clip, read: ClipArrays) -> dict[str, np.ndarray]:
    """The rows of every array of the store, [T, ...]."""
    annotated = np.array(clip.frame_annotated)
    computed, audio_valid = fit_seconds(log_mel_examples(read.waveform), clip.num_frames, source.short_audio)
    return {
        "frames": read.frames,
        "labels": np.where(annotated[:, None, None], read.labels, IGNORE_LABEL).astype(np.uint8),
        "label_valid": annotated.astype(np.uint8),
        "log_mel": computed if read.log_mel is None else read.log_mel,
        "waveform": waveform_seconds(read.waveform, clip.num_frames),
        "audio_valid": audio_valid.astype(np.uint8),
    }


def _sound_note(values: dict[str, np.ndarray], short_audio: str) -> str | None:
    if not values["waveform"].any():
        return "silent throughout: no model can hear what sounds there"
    missing = int((values["audio_valid"] == 0).sum())
    return f"its sound ends early: {missing} of its seconds were filled by rule {short_audio!r}" if missing else None


def _log_mel_note(clip: Clip, read: ClipArrays, short_audio: str) -> str | None:
    if read.log_mel is None:
        return None
    computed, _ = fit_seconds(log_mel_examples(read.waveform), clip.num_frames, short_audio)
    off = float(np.abs(read.log_mel - computed).max())
    if off <= LOG_MEL_TOLERANCE:
        return None
    return f"its log-mel pickle differs from the log-mel of its sound by up to {off:.2g}"
