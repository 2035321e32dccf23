"""Which shards a run is asked for."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...data.store.store import ClipStore
from ...errors import BadInput

Share = tuple[int, int]  # i of n, from 1


@dataclass(frozen=True)
class Selection:
    """Which shards a run is asked for. A shard is done as a whole, with all its clips.

    split, clip_ids: only shards that hold these clips. limit: only the first N of these clips, in the order of the
    store. share: of these shards, those whose number is i - 1 modulo n: the shares of n runs are disjoint.
    retry_quarantined: finished shards with clips on which the model failed are done once more.
    """

    split: str | None = None
    clip_ids: tuple[str, ...] | None = None
    limit: int | None = None
    share: Share | None = None
    retry_quarantined: bool = False


ALL = Selection()


def parse_share(text: str) -> Share:
    """`i/n`, 1 <= i <= n: the i-th of n equal shares. Raises `BadInput` for anything else."""
    found = re.fullmatch(r"([1-9]\d{0,8})/([1-9]\d{0,8})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise BadInput(f"--shard {text}: write i/n with i from 1 to n, for example 2/8 for the second of eight runs")
    return int(found[1]), int(found[2])


def parse_clip_ids(text: str) -> tuple[str, ...]:
    """Ids from a file, one a line, or with commas between them. Raises `BadInput` when there are none."""
    try:
        lines = Path(text).read_text().splitlines()
    except (OSError, ValueError):  # no such file: then these are the ids themselves
        lines = text.split(",")
    ids = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not ids:
        raise BadInput(f"--clips {text}: no clip ids; name a file with one id a line, or ids with commas between them")
    return ids


def wanted_shards(clips: ClipStore, wanted: Selection) -> list[int]:
    """The shards selected, in order. Raises `BadInput` for unknown clips and splits, and when nothing is left."""
    rows = clips.table.rows(wanted.split)
    if wanted.clip_ids is not None:
        rows = rows[np.isin(rows, _rows_of(clips, wanted.clip_ids))]
        if not len(rows):
            raise BadInput(f"none of the clips of --clips is in split {wanted.split!r}")
    shards = np.unique(clips.table.first_frame[rows[: wanted.limit]] // clips.shard_frames)
    if wanted.share is not None:
        i, n = wanted.share
        shards = shards[shards % n == i - 1]
    return shards.tolist()


def _rows_of(clips: ClipStore, ids: tuple[str, ...]) -> list[int]:
    wanted = set(ids)
    rows = {clip.id: row for row, clip in enumerate(clips.table) if clip.id in wanted}
    if unknown := [i for i in ids if i not in rows]:
        shown = ", ".join(unknown[:10]) + (" ..." if len(unknown) > 10 else "")
        raise BadInput(f"{clips.path} has no clip {shown} ({len(unknown)} of {len(ids)} are unknown)")
    return list(rows.values())
