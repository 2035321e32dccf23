"""Which shards a run is asked for: by split, by clips, by number of clips, and by this run's share of the work."""

import re
from pathlib import Path

import numpy as np

from ...data.store.store import ClipStore
from ...errors import BadInput

Share = tuple[int, int]  # i of n, from 1


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


def wanted_shards(
    clips: ClipStore, split: str | None, ids: tuple[str, ...] | None, limit: int | None, share: Share | None
) -> list[int]:
    """The shards that hold the clips asked for, in order. A shard is done as a whole, with all its clips.

    limit: the first so many of the clips that `split` and `ids` leave, in the order of the store.
    share: of these shards, those whose number is i - 1 modulo n: the shares of n runs are disjoint.
    Raises `BadInput` for unknown clips and splits, and when nothing is left.
    """
    rows = clips.table.rows(split)
    if ids is not None:
        rows = rows[np.isin(rows, _rows_of(clips, ids))]
        if not len(rows):
            raise BadInput(f"none of the clips of --clips is in split {split!r}")
    shards = np.unique(clips.table.first_frame[rows[:limit]] // clips.shard_frames)
    if share is not None:
        shards = shards[shards % share[1] == share[0] - 1]
    return shards.tolist()


def _rows_of(clips: ClipStore, ids: tuple[str, ...]) -> list[int]:
    wanted = set(ids)
    rows = {clip.id: row for row, clip in enumerate(clips.table) if clip.id in wanted}
    if unknown := [i for i in ids if i not in rows]:
        shown = ", ".join(unknown[:10]) + (" ..." if len(unknown) > 10 else "")
        raise BadInput(f"{clips.path} has no clip {shown} ({len(unknown)} of {len(ids)} are unknown)")
    return list(rows.values())
