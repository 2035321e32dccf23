"""Import clips of any source into ROOT/clips.zarr, shard by shard, resumable."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...base import IGNORE_LABEL
from ...data.audio import fit_seconds, log_mel_examples, waveform_seconds
from ...data.clip import Clip, ClipSource
from ...data.sources.avsbench.source import AvsBenchSource
from ...data.sources.avsbench.writer import SUBSET_OF, write_avsbench
from ...data.sources.synthetic.source import SyntheticSource
from ...data.sources.video.source import VideoSource
from ...data.store.location import Location
from ...data.store.root import create_clips
from ...data.store.schema import SHARD_FRAMES
from ...data.store.store import ClipStore
from ...errors import ClipError
from ..common.places import check_not_beside, check_root_apart
from ..common.text import quarantine_lines
from .fill import ClipRows, fill_store

LOG_MEL_TOLERANCE = 0.01  # of a log-mel that a source brings; versions of the resampler differ by 1e-5
SHOWN_NOTES = 20

SOURCES: dict[str, Callable[..., ClipSource]] = {
    "avsbench": AvsBenchSource,
    "synthetic": SyntheticSource,
    "videos": VideoSource,
}


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
        lines += [f"note on {clip}: {note}" for clip, note in list(self.notes.items())[:SHOWN_NOTES]]
        if len(self.notes) > SHOWN_NOTES:
            lines.append(f"... and notes on {len(self.notes) - SHOWN_NOTES} more clips; 'combo cache info' lists them")
        return "\n".join(lines)


def import_clips(
    source: ClipSource, root: str | Location, shard_frames: int = SHARD_FRAMES, avsbench: Path | None = None
) -> ImportReport:
    """Write every clip of `source` that is not yet in `root`.

    avsbench: a folder to write the clips to in the layout of AVSBench first, see `write_avsbench`.
    A clip that cannot be read is quarantined with its reason and the others are imported.
    Raises `BadInput` before any work when `root` holds other clips, or lies in the data themselves.
    """
    if isinstance(source, AvsBenchSource):
        check_root_apart(root, source.folder, source.source_dir)
    elif isinstance(source, VideoSource):
        check_not_beside(root, [video.path for video in source.videos.values()])
    if avsbench is not None:
        kind = source.clips[0].subset
        write_avsbench(source, avsbench, SUBSET_OF.get(kind, kind))
    store = create_clips(root, source, shard_frames)
    fill_store(store, store, "import", lambda clip: _read_clip(source, clip))
    return ImportReport(store, store.quarantined(), store.notes())


def _read_clip(source: ClipSource, clip: Clip) -> ClipRows:
    try:
        return _clip_rows(source, clip)
    except ClipError as error:
        reason = str(error)
    except Exception:  # a defect of one file or of a source must not lose the other clips
        reason = traceback.format_exc()
    invalid = np.zeros(clip.num_frames, np.uint8)
    return ClipRows({"label_valid": invalid, "audio_valid": invalid}, quarantined=reason)


def _clip_rows(source: ClipSource, clip: Clip) -> ClipRows:
    read = source.read(clip)
    annotated = np.array(clip.frame_annotated)
    log_mel, audio_valid = fit_seconds(log_mel_examples(read.waveform), clip.num_frames, source.short_audio)
    rows = {
        "frames": read.frames,
        "labels": np.where(annotated[:, None, None], read.labels, IGNORE_LABEL).astype(np.uint8),
        "label_valid": annotated.astype(np.uint8),
        "log_mel": log_mel if read.log_mel is None else read.log_mel,
        "waveform": waveform_seconds(read.waveform, clip.num_frames),
        "audio_valid": audio_valid.astype(np.uint8),
    }
    off = 0.0 if read.log_mel is None else float(np.abs(read.log_mel - log_mel).max())
    note = None
    if not rows["waveform"].any():
        note = "silent throughout: no model can hear what sounds there"
    elif missing := int((~audio_valid).sum()):
        note = f"its sound ends early: {missing} of its seconds were filled by rule {source.short_audio!r}"
    elif off > LOG_MEL_TOLERANCE:
        note = f"its log-mel pickle differs from the log-mel of its sound by up to {off:.2g}"
    return ClipRows(rows, note=note)
