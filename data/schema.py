"""The arrays of the clip store and of the caches: Zarr format 3, frame-major, sharded.

Every array runs over the F frames of the store: [F, ...]. Inner chunk = 5 frames, shard = `shard_frames`.
Measured choices: frames, sound and features are stored raw (zstd saves 1.2x and costs 3x the read time), label maps,
Maskiges and masks as zstd 3 (18 to 110 times smaller). Always with crc32c: zstd alone misses a quarter of bit flips.
"""

import warnings
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Literal

import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.dtype import VariableLengthBytes
from zarr.errors import UnstableSpecificationWarning

from .clip import IGNORE_LABEL, LOG_MEL_SHAPE, SAMPLE_RATE

SCHEMA_VERSION = 1
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


def clip_arrays(height: int, width: int) -> dict[str, ArraySpec]:
    """clips.zarr: what was imported."""
    return {
        "frames": ArraySpec("uint8", (height, width, 3)),  # RGB
        "labels": ArraySpec("uint8", (height, width), compress=True, fill=IGNORE_LABEL),
        "label_valid": ArraySpec("uint8", fill=FLAG_FILL),  # 1: the frame has ground truth
        "log_mel": ArraySpec("float32", LOG_MEL_SHAPE, fill=nan),  # second k of a clip stands at its frame k
        "waveform": ArraySpec("int16", (SAMPLE_RATE,)),  # likewise; the sound itself, for any audio encoder
        "audio_valid": ArraySpec(
            "uint8", fill=FLAG_FILL
        ),  # 0: the sound had ended; the short-audio rule filled this second
    }


def proposal_arrays(height: int, width: int) -> dict[str, ArraySpec]:
    """proposals/<generator>-<fp>.zarr: what one proposal generator found."""
    return {
        "maskige": ArraySpec("uint8", (height, width, 3), compress=True),  # RGB in ADE20K colours
        "masks": ArraySpec(BYTES, compress=True),  # K x packed bits, see masks.pack_masks
        "mask_stats": ArraySpec(BYTES, compress=True),  # K records, see masks.MASK_STATS
        "mask_count": ArraySpec("uint16", fill=65535),  # K
    }


def audio_arrays(dim: int) -> dict[str, ArraySpec]:
    """audio/<encoder>-<fp>.zarr: features of one audio encoder, one vector per frame."""
    return {"features": ArraySpec("float32", (dim,), fill=nan)}


def open_array(path: Path, mode: Literal["r", "r+"]) -> zarr.Array:
    """An array of a store by zarr-python, which writes everything, and reads what has no fixed width."""
    with warnings.catch_warnings():
        # The variable-length type has no final spec yet. Ours is pinned by the schema version and by tests.
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        return zarr.open_array(path, mode=mode)


def create_arrays(
    path: Path, specs: dict[str, ArraySpec], frames: int, shard_frames: int, attributes: dict[str, Any]
) -> None:
    """Write the metadata of a new group of arrays at `path`; no data. Whatever metadata was there is replaced."""
    zarr.create_group(path, zarr_format=3, attributes=attributes, overwrite=False)
    for name, spec in specs.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnstableSpecificationWarning)
            zarr.create_array(
                path,
                name=name,
                shape=spec.rows(frames),
                chunks=spec.rows(CHUNK_FRAMES),
                shards=spec.rows(shard_frames),
                dtype=VariableLengthBytes() if spec.dtype == BYTES else spec.dtype,
                fill_value=b"" if spec.dtype == BYTES else spec.fill,
                compressors=[*([ZstdCodec(level=3)] if spec.compress else []), Crc32cCodec()],
            )
