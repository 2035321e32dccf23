"""The reader of shards against zarr-python, and what it makes of damaged files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from combo_avs.data.store.schema import CHUNK_FRAMES, ArraySpec, array_metadata, encode_shard, open_array, shard_key
from combo_avs.data.store.shard_reader import read_shard

SHARD_FRAMES = 20
SPECS = [
    ArraySpec("uint8", (6, 7, 3)),
    ArraySpec("uint8", (6, 7), compress=True, fill=255),
    ArraySpec("float32", (4,), fill=float("nan")),
    ArraySpec("uint8", fill=255),
    ArraySpec("uint16", compress=True, fill=65535),
]


def write(folder: Path, spec: ArraySpec, values: np.ndarray) -> Path:
    """A store of one array; gives the file of its first shard."""
    for name, text in array_metadata({"a": spec}, SHARD_FRAMES, SHARD_FRAMES).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    file = folder / shard_key("a", spec, 0)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode_shard(spec, values, SHARD_FRAMES))
    return file


def some_values(spec: ArraySpec, frames: int = SHARD_FRAMES) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, spec.rows(frames)).astype(spec.dtype)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@given(span=st.tuples(st.integers(0, SHARD_FRAMES - 1), st.integers(1, SHARD_FRAMES)))
def test_any_span_is_what_zarr_reads(spec: ArraySpec, span: tuple[int, int], tmp_path_factory) -> None:
    lo, hi = span[0], min(span[0] + span[1], SHARD_FRAMES)
    values = some_values(spec)
    values[CHUNK_FRAMES : 2 * CHUNK_FRAMES] = spec.fill  # a chunk that is not written
    folder = tmp_path_factory.mktemp("store")
    found = read_shard(write(folder, spec, values), spec, SHARD_FRAMES, lo, hi)
    assert found.dtype == spec.dtype
    assert found.flags.writeable
    assert np.array_equal(found, values[lo:hi], equal_nan=spec.dtype == "float32")
    assert np.array_equal(found, open_array(folder / "a")[lo:hi], equal_nan=spec.dtype == "float32")


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_last_shard_may_hold_less(spec: ArraySpec, tmp_path: Path) -> None:
    values = some_values(spec, 7)
    assert np.array_equal(read_shard(write(tmp_path, spec, values), spec, SHARD_FRAMES, 2, 7), values[2:])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_changed_byte_is_found(spec: ArraySpec, tmp_path: Path) -> None:
    file = write(tmp_path, spec, some_values(spec))
    whole = file.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 97)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="bytes"):
            read_shard(file, spec, SHARD_FRAMES, 0, SHARD_FRAMES)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("kept", [0, 3, 60, -1])
def test_a_file_cut_short_is_found(spec: ArraySpec, kept: int, tmp_path: Path) -> None:
    file = write(tmp_path, spec, some_values(spec))
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="bytes"):
        read_shard(file, spec, SHARD_FRAMES, 0, SHARD_FRAMES)


def test_a_chunk_of_another_size_is_no_data(tmp_path: Path) -> None:
    narrow, wide = ArraySpec("uint8", (4,)), ArraySpec("uint8", (5,))
    file = write(tmp_path, narrow, some_values(narrow))
    with pytest.raises(ValueError, match="a chunk of"):
        read_shard(file, wide, SHARD_FRAMES, 0, 1)
