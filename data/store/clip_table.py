"""The clip table of a store: which frames belong to which clip, as Parquet.

The order of the rows is the plan: 10-frame clips first, then 5-frame ones, each ordered by split and id. Shards hold
a multiple of 10 frames, so no clip crosses a shard and nothing is padded; and a split is a run of shards.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute

from ...errors import BadInput
from ..clip import CLIP_LENGTHS, SPLITS, Clip
from .location import Location, UrlPath

pc: Any = compute  # its functions are made when it is imported, so type checkers do not know them

MAX_ID_BYTES = 200  # an id becomes the name of a file, with an ending; file systems end at 255
_HOSTILE = r"^$|^\.\.?$|[/\\\p{Cc}\p{Zl}\p{Zp}]"

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("subset", pa.string()),
        ("split", pa.string()),
        ("objects", pa.list_(pa.string())),
        ("frame_times", pa.list_(pa.float64())),
        ("frame_valid", pa.list_(pa.bool_())),
        ("frame_annotated", pa.list_(pa.bool_())),
        ("source", pa.string()),
    ]
)


def plan_order(clips: Iterable[Clip]) -> list[Clip]:
    """The clips in store order. Raises `ValueError` for an unknown split."""
    return sorted(clips, key=lambda c: (-c.num_frames, SPLITS.index(c.split), c.id))


class ClipTable:
    """The rows of a store in order, read lazily: a million rows open in well under a second."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table.combine_chunks()
        self.num_frames = pc.list_value_length(self._table["frame_times"]).to_numpy().astype(np.int64)
        """int64 [N]: T of every clip."""
        self.first_frame = np.concatenate([[0], np.cumsum(self.num_frames)[:-1]]).astype(np.int64)
        """int64 [N]: index of every clip's first frame in the arrays of the store."""

    @classmethod
    def of(cls, clips: list[Clip]) -> "ClipTable":
        """A table of clips in store order. Raises `BadInput` that lists those that cannot be stored."""
        columns = {name: [getattr(c, name) for c in clips] for name in _SCHEMA.names}
        table = pa.Table.from_pydict(columns, schema=_SCHEMA)
        if problems := _problems(table):
            raise BadInput.listing("these clips cannot be stored:", problems)
        return cls(table)

    @classmethod
    def read(cls, path: Location | str, content: bytes | None = None) -> "ClipTable":
        """The inverse of `to_bytes`; memory-mapped in a folder. content: of the file, where it is known already.

        Raises `BadInput` when it is damaged, has other columns, or rows that no import writes.
        """
        try:
            content = path.read_bytes() if isinstance(path, UrlPath) else content
            table = pq.read_table(path if content is None else pa.BufferReader(content), memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{path}: cannot read the clip table ({error}); import the clips again") from error
        if table.schema.remove_metadata() != _SCHEMA:
            raise BadInput(f"{path}: the clip table has columns {table.schema.names}, not {_SCHEMA.names}")
        if problems := _problems(table):
            raise BadInput.listing(f"{path}: no import of this package made this clip table:", problems)
        return cls(table)

    def to_bytes(self) -> bytes:
        """As Parquet. Equal rows are equal bytes with one version of pyarrow."""
        sink = pa.BufferOutputStream()
        pq.write_table(self._table, sink, compression="zstd", store_schema=False)
        return sink.getvalue().to_pybytes()

    def __len__(self) -> int:
        return len(self.num_frames)

    def __getitem__(self, row: int) -> Clip:
        stored: dict[str, Any] = self._table.slice(row, 1).to_pylist()[0]
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
        return Clip(**values)

    def __iter__(self) -> Iterator[Clip]:
        return (self[row] for row in range(len(self)))

    @property
    def total_frames(self) -> int:
        """F."""
        return int(self.num_frames.sum())

    def rows(self, split: str | None = None) -> np.ndarray:
        """int64 [n]: the rows of one split, or of all. Raises `BadInput` when the split has no clips."""
        if split is None:
            return np.arange(len(self))
        rows = np.flatnonzero(pc.equal(self._table["split"], split).to_numpy(zero_copy_only=False))
        if not len(rows):
            raise BadInput(f"the store has no clips in split {split!r}; it has {self.splits()}")
        return rows

    def splits(self) -> dict[str, int]:
        """Clips per split, for the splits that have any."""
        counts = pc.value_counts(self._table["split"]).to_pylist()
        return dict(sorted(((c["values"], c["counts"]) for c in counts), key=lambda s: SPLITS.index(s[0])))

    def digest(self) -> str:
        """sha256 of all rows in order, independent of the file format and of the version that wrote it."""
        sha = hashlib.sha256()
        for column in self._table.columns:
            for part in _parts(column.combine_chunks()):
                sha.update(len(part).to_bytes(8, "little"))
                sha.update(part)
        return sha.hexdigest()


def _problems(table: pa.Table) -> list[str]:
    """What is wrong with rows: ids become names of files, and flags have one value per frame."""
    try:
        table.validate(full=True)  # also that text is UTF-8
    except pa.ArrowException as error:
        return [str(error)]
    per_frame = ("frame_times", "frame_valid", "frame_annotated")
    columns = [(name, table[name]) for name in table.column_names]
    columns += [(name, pc.list_flatten(table[name])) for name in per_frame]
    if empty := dict.fromkeys(name for name, column in columns if column.null_count):
        return [f"values are missing in column {name}" for name in empty]
    ids, lengths = table["id"], pc.list_value_length(table["frame_times"])
    problems = []
    hostile = pc.or_(pc.match_substring_regex(ids, _HOSTILE), pc.greater(pc.binary_length(ids), MAX_ID_BYTES))
    if bad := ids.filter(hostile)[:10].to_pylist():
        rule = f"1 to {MAX_ID_BYTES} bytes without slashes and control characters, and not . or .."
        problems += [f"clip id {i[:80]!r}: ids have {rule}" for i in bad]
    if pc.count_distinct(ids).as_py() < len(table):
        counts = pc.value_counts(ids).flatten()
        twice = counts[0].filter(pc.greater(counts[1], 1))[:10].to_pylist()
        problems += [f"clip id {i!r} occurs more than once" for i in twice]
    if unknown := set(pc.unique(table["split"]).to_pylist()) - set(SPLITS):
        problems.append(f"unknown splits {sorted(unknown)}; there are {', '.join(SPLITS)}")
    if wrong := set(pc.unique(lengths).to_pylist()) - set(CLIP_LENGTHS):
        problems.append(f"clips of {sorted(wrong)} frames; clips have {' or '.join(map(str, CLIP_LENGTHS))}")
    for flags in ("frame_valid", "frame_annotated"):
        if not pc.all(pc.equal(lengths, pc.list_value_length(table[flags]))).as_py():
            problems.append(f"{flags} and frame_times differ in length")
    if not (np.diff(lengths.to_numpy()) <= 0).all():
        problems.append("longer clips must come first, or a clip would cross a shard")
    return problems


def _parts(column: pa.Array) -> Iterator[bytes]:
    """The values of a column as bytes; what has a length of its own is preceded by the lengths."""
    if pa.types.is_list(column.type):
        yield pc.list_value_length(column).to_numpy().tobytes()
        yield from _parts(pc.list_flatten(column))
    elif pa.types.is_string(column.type):
        yield pc.binary_length(column).to_numpy().tobytes()
        yield pc.binary_join(pa.ListArray.from_arrays([0, len(column)], column), "")[0].as_buffer().to_pybytes()
    else:
        yield column.to_numpy(zero_copy_only=False).tobytes()
