"""Reading arrays of fixed width from the sharded files of a local store: one read and one checksum per chunk.

A shard file (Zarr 3, `sharding_indexed`) is the chunks one after another, then an index: offset and length of every
chunk, uint64, and the index's CRC32C. A chunk ends in its own CRC32C. General readers take two to four times as long.
"""

import os
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs.zstd import decompress

from .schema import CHUNK_FRAMES, ArraySpec

CRC_BYTES = 4
ABSENT = 2**64 - 1  # offset and length of a chunk that holds nothing but fill value


def read_shard(file: Path, spec: ArraySpec, shard_frames: int, lo: int, hi: int) -> np.ndarray:
    """Frames lo..hi of a shard, counted from its first: [hi - lo, *frame_shape], writable.

    Raises `ValueError` for data that do not fit their checksum or length, `OSError` when the file cannot be read.
    """
    first, end = lo // CHUNK_FRAMES, -(-hi // CHUNK_FRAMES)
    values = np.empty(spec.rows((end - first) * CHUNK_FRAMES), spec.dtype)
    handle = os.open(file, os.O_RDONLY)
    try:
        index = _read_index(handle, shard_frames // CHUNK_FRAMES)
        for number, (offset, length) in enumerate(index[first:end].tolist()):
            chunk = values[number * CHUNK_FRAMES : (number + 1) * CHUNK_FRAMES]
            if offset == length == ABSENT:
                chunk[:] = spec.fill
            elif spec.compress:
                _decompress(_read_checked(handle, offset, np.empty(_body(length), np.uint8)), chunk)
            elif _body(length) != chunk.nbytes:
                raise ValueError(f"a chunk of {length} bytes")
            else:
                _read_checked(handle, offset, chunk)
    finally:
        os.close(handle)
    return values[lo - first * CHUNK_FRAMES : hi - first * CHUNK_FRAMES]


def _read_index(handle: int, chunks: int) -> np.ndarray:
    """uint64 [chunks, 2]: offset and length of each."""
    index = np.empty((chunks, 2), np.uint64)
    return _read_checked(handle, os.fstat(handle).st_size - index.nbytes - CRC_BYTES, index)


def _read_checked(handle: int, offset: int, into: np.ndarray) -> np.ndarray:
    """Fill `into` from an offset of a file; its CRC32C follows there."""
    crc = bytearray(CRC_BYTES)
    wanted = into.nbytes + CRC_BYTES
    if offset < 0 or os.preadv(handle, [into.data.cast("B"), crc], offset) != wanted:
        raise ValueError(f"the file ends within {wanted} bytes at {offset}")
    if google_crc32c.value(into) != int.from_bytes(crc, "little"):
        raise ValueError(f"{wanted} bytes at {offset} do not have their CRC32C")
    return into


def _body(length: int) -> int:
    """Bytes of a chunk without its checksum."""
    if length <= CRC_BYTES or length > 2**31:
        raise ValueError(f"a chunk of {length} bytes")
    return length - CRC_BYTES


def _decompress(compressed: np.ndarray, into: np.ndarray) -> None:
    try:
        decompress(compressed, into)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
