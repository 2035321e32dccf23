"""The arrays of the clip store and of the caches: Zarr format 3, frame-major, sharded.

Every array runs over the F frames of the store: [F, ...]. Inner chunk = 5 frames, shard = `shard_frames`.
Measured choices: frames, sound and features are stored raw (zstd saves 1.2x and costs 3x the read time), label maps,
Maskiges and masks as zstd 3 (18 to 110 times smaller). Always with crc32c: zstd alone misses a quarter of bit flips.
"""

import warnings
from dataclasses import dataclass
from math import nan

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.dtype import VariableLengthBytes
from zarr.errors import UnstableSpecificationWarning
from zarr.storage import FsspecStore, MemoryStore

from ...base import IGNORE_LABEL
from ..clip import LOG_MEL_SHAPE, SAMPLE_RATE
from .attributes import AudioAttributes, ProposalAttributes, StoreAttributes
from .location import URL_OPTIONS, Location, UrlPath

CHUNK_FRAMES = 5
SHARD_FRAMES = 160  # default; a shard is the unit of work, of resuming and of repair
FLAG_FILL = 255  # neither 0 nor 1

BYTES = "bytes"  # one variable-length byte string per frame


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store: [F, *frame_shape] of `dtype`.

    Unwritten frames read as `fill` in every reader, and Zarr leaves out shards that hold nothing else. So absence
    may be data or loss: the receipt of the shard tells which.
    """

    dtype: str
    frame_shape: tuple[int, ...] = ()
    compress: bool = False
    fill: float = 0

    def rows(self, frames: int) -> tuple[int, ...]:
        return (frames, *self.frame_shape)

    def empty(self, frames: int) -> np.ndarray:
        """[frames, *frame_shape] of fill value."""
        if self.dtype == BYTES:
            return np.full(frames, b"", object)
        return np.full(self.rows(frames), self.fill, self.dtype)


def array_specs(attributes: StoreAttributes) -> dict[str, ArraySpec]:
    """The arrays of a store with these attributes."""
    if isinstance(attributes, AudioAttributes):
        return {"features": ArraySpec("float32", (attributes.dim,), fill=nan)}  # one vector per frame
    height, width = attributes.size
    if isinstance(attributes, ProposalAttributes):
        return {
            "maskige": ArraySpec("uint8", (height, width, 3), compress=True),  # RGB in ADE20K colours
            "masks": ArraySpec(BYTES, compress=True),  # K x packed bits, see masks.pack_masks
            "mask_stats": ArraySpec(BYTES, compress=True),  # K records, see masks.MASK_STATS
            "mask_count": ArraySpec("uint16", fill=65535),  # K
        }
    return {
        "frames": ArraySpec("uint8", (height, width, 3)),  # RGB
        "labels": ArraySpec("uint8", (height, width), compress=True, fill=IGNORE_LABEL),
        "label_valid": ArraySpec("uint8", fill=FLAG_FILL),  # 1: the frame has ground truth
        "log_mel": ArraySpec("float32", LOG_MEL_SHAPE, fill=nan),  # second k of a clip stands at its frame k
        "waveform": ArraySpec("int16", (SAMPLE_RATE,)),  # likewise; the sound itself, for any audio encoder
        "audio_valid": ArraySpec("uint8", fill=FLAG_FILL),  # 0: the sound had ended, the short-audio rule filled it
    }


def array_metadata(specs: dict[str, ArraySpec], frames: int, shard_frames: int) -> dict[str, bytes]:
    """The zarr.json of every array of a store, by its name in the store."""
    files: dict[str, Buffer] = {}
    for name, spec in specs.items():
        _create_array(files, name, spec, frames, shard_frames)
    return {f"{name}/zarr.json": files[f"{name}/zarr.json"].to_bytes() for name in specs}


def shard_key(name: str, spec: ArraySpec, shard: int) -> str:
    """The file of one shard of an array, relative to the store."""
    return "/".join([name, "c", str(shard), *["0"] * len(spec.frame_shape)])


def encode_shard(spec: ArraySpec, values: np.ndarray, shard_frames: int) -> bytes | None:
    """The file of one shard, or None when it holds nothing but fill value, which Zarr does not write.

    values: [1..shard_frames, *frame_shape] of the spec's dtype; object array of bytes for variable-length ones.
    Encoded in memory, so that the caller decides how to write it. Raises `OSError` when it decodes to other values.
    """
    files: dict[str, Buffer] = {}
    array = _create_array(files, "a", spec, len(values), shard_frames)
    array[:] = values
    if not _same(np.asarray(array[:]), values):
        raise OSError("a shard does not decode to the values it was made of; check the memory of this machine")
    encoded = files.get(shard_key("a", spec, 0))
    return None if encoded is None else encoded.to_bytes()


def open_array(path: Location) -> zarr.Array:
    """An array of a store, opened by zarr-python.

    Behind a URL, reading a file that is not there raises `FileNotFoundError`; it is no fill value.
    """
    store = path
    if isinstance(path, UrlPath):
        store = FsspecStore.from_url(str(path), storage_options=URL_OPTIONS, read_only=True, allowed_exceptions=())
    # The variable-length type has no final spec yet. Ours is pinned by the schema version and by tests.
    with warnings.catch_warnings(action="ignore", category=UnstableSpecificationWarning):
        return zarr.open_array(store, mode="r", zarr_format=3)


def _create_array(files: dict[str, Buffer], name: str, spec: ArraySpec, frames: int, shard_frames: int) -> zarr.Array:
    with warnings.catch_warnings(action="ignore", category=UnstableSpecificationWarning):
        return zarr.create_array(
            MemoryStore(files),
            name=name,
            shape=spec.rows(frames),
            chunks=spec.rows(CHUNK_FRAMES),
            shards=spec.rows(shard_frames),
            dtype=VariableLengthBytes() if spec.dtype == BYTES else spec.dtype,
            fill_value=b"" if spec.dtype == BYTES else spec.fill,
            compressors=[*([ZstdCodec(level=3)] if spec.compress else []), Crc32cCodec()],
        )


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype == object:
        return all(x == y for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
