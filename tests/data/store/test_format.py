"""The stored format by value: what is here must never change, or stores that exist cannot be read or recognised."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from combo_avs.data.clip import Clip
from combo_avs.data.store.attributes import AudioAttributes, ClipAttributes, ProposalAttributes, Provenance
from combo_avs.data.store.clip_table import ClipTable, plan_order
from combo_avs.data.store.receipts import Receipt
from combo_avs.data.store.schema import array_metadata, array_specs, shard_key
from combo_avs.errors import BadInput


def clip(name: str, split: str, frames: int, *objects: str) -> Clip:
    times = tuple(k + 15 / 16 for k in range(frames))
    flags = tuple(k < 4 for k in range(frames))
    return Clip(name, "ms3", split, objects, times, (True,) * frames, flags, f"video of {name}")


CLIPS = [clip("b", "test", 5), clip("ü", "train", 5, "dog"), clip("a", "val", 10, "cat", "dog"), clip("c", "train", 10)]


def test_longer_clips_come_first_then_train_val_and_test_then_ids() -> None:
    more = [*CLIPS, clip("a0", "train", 10), clip("z", "test", 10)]
    assert [c.id for c in plan_order(more)] == ["a0", "c", "a", "z", "ü", "b"]


def test_where_the_frames_of_every_clip_begin() -> None:
    table = ClipTable.of(plan_order(CLIPS))
    assert table.num_frames.tolist() == [10, 10, 5, 5]
    assert table.first_frame.tolist() == [0, 10, 20, 25]
    assert table.total_frames == 30
    assert table.splits() == {"train": 2, "val": 1, "test": 1}
    assert [table.rows(split).tolist() for split in ("train", "val", "test", None)] == [[0, 2], [1], [3], [0, 1, 2, 3]]
    assert list(table) == plan_order(CLIPS)


def test_the_digest_of_a_clip_table_is_that_of_stores_that_exist() -> None:
    assert (
        ClipTable.of(plan_order(CLIPS)).digest() == "60ca68c7a45d397acbc9b3f895eb64d164841dd58942b7925f662eef91d35569"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"id": "c2"},
        {"subset": "s4"},
        {"split": "val"},
        {"objects": ("cat", "do", "g")},
        {"frame_times": tuple(k + 0.5 for k in range(10))},
        {"frame_valid": (True,) * 9 + (False,)},
        {"frame_annotated": (True,) * 10},
        {"source": "elsewhere"},
    ],
)
def test_every_column_counts_in_the_digest(change: dict) -> None:
    first, *rest = plan_order([clip("c", "train", 10, "cat", "dog"), *CLIPS[:3]])
    assert ClipTable.of([replace(first, **change), *rest]).digest() != ClipTable.of([first, *rest]).digest()


def test_text_that_moves_between_neighbours_is_another_digest() -> None:
    """Lengths are hashed as well, so that no boundary can move."""
    one, other = (
        ClipTable.of([replace(CLIPS[3], id="x", objects=objects), replace(CLIPS[2], id="y", objects=more)])
        for objects, more in ((("ab",), ("c", "d")), (("a", "b"), ("cd",)))
    )
    assert one.digest() != other.digest()


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("split", ["train", "val", "train", "holdout"], r"unknown splits \['holdout'\]"),
        ("frame_valid", [[True] * n for n in (10, 10, 5, 4)], "frame_valid and frame_times differ"),
        ("frame_annotated", [[True] * n for n in (10, 9, 5, 5)], "frame_annotated and frame_times differ"),
        ("frame_times", [[0.5] * n for n in (10, 10, 7, 5)], r"clips of \[7\] frames"),
        ("id", ["a", None, "b", "c"], "values are missing in column id"),
        ("frame_times", [[0.5] * 10, [0.5] * 9 + [None], [0.5] * 5, [0.5] * 5], "missing in column frame_times"),
    ],
)
def test_tables_that_no_import_writes_are_refused(tmp_path: Path, column: str, values: list, words: str) -> None:
    table = pq.read_table(pa.BufferReader(ClipTable.of(plan_order(CLIPS)).to_bytes()))
    place = table.column_names.index(column)
    pq.write_table(
        table.set_column(place, table.field(place), [pa.array(values, table.field(place).type)]), tmp_path / "t"
    )
    with pytest.raises(BadInput, match=words):
        ClipTable.read(tmp_path / "t")


SIZE = (4, 6)
STORES = {
    "clips": ClipAttributes(35, 20, "noise", ("background", "dog"), SIZE, 4, "0" * 64, "silence", {}),
    "proposals": ProposalAttributes(35, 20, Provenance("sam", "3", {}), "0" * 64, SIZE),
    "audio": AudioAttributes(35, 20, Provenance("vggish", "1", {}), "0" * 64, 3, {}),
}
ARRAYS = {  # dtype, shape of a frame, fill value, compressed
    "clips": {
        "frames": ("uint8", [4, 6, 3], 0, False),
        "labels": ("uint8", [4, 6], 255, True),
        "label_valid": ("uint8", [], 255, False),
        "log_mel": ("float32", [96, 64], "NaN", False),
        "waveform": ("int16", [16000], 0, False),
        "audio_valid": ("uint8", [], 255, False),
    },
    "proposals": {
        "maskige": ("uint8", [4, 6, 3], 0, True),
        "masks": ("variable_length_bytes", [], "", True),
        "mask_stats": ("variable_length_bytes", [], "", True),
        "mask_count": ("uint16", [], 65535, False),
    },
    "audio": {"features": ("float32", [3], "NaN", False)},
}


@pytest.mark.parametrize("kind", STORES)
def test_the_arrays_of_a_store(kind: str) -> None:
    specs = array_specs(STORES[kind])
    files = array_metadata(specs, 35, 20)
    found = {}
    for name in specs:
        about = json.loads(files[f"{name}/zarr.json"])
        (sharding,) = about["codecs"]
        inner = sharding["configuration"]
        codecs = [codec["name"] for codec in inner["codecs"]]
        compressed = "zstd" in codecs
        if compressed:
            assert inner["codecs"][-2]["configuration"]["level"] == 3
        assert codecs[-1] == "crc32c"
        assert [codec["name"] for codec in inner["index_codecs"]] == ["bytes", "crc32c"]
        frame = about["shape"][1:]
        assert about["shape"][0] == 35
        assert about["chunk_grid"]["configuration"]["chunk_shape"] == [20, *frame]
        assert inner["chunk_shape"] == [5, *frame]
        found[name] = (about["data_type"], frame, about["fill_value"], compressed)
        assert shard_key(name, specs[name], 1) == "/".join([name, "c", "1", *["0"] * len(frame)])
    assert found == ARRAYS[kind]


def test_the_bytes_of_a_receipt() -> None:
    files = {"features/c/2/0": (7, "ab"), "gone": None}
    receipt = Receipt(2, (40, 55), files, {"frames": 10}, {"b": "broken"}, {"a": "odd"}, "0123456789abcdef")
    content = receipt.to_json()
    assert hashlib.sha256(content).hexdigest()[:16] == "9f25c0cd81996c63"
    assert {k: v for k, v in json.loads(content).items() if k != "seal"} == {
        "shard": 2,
        "frames": [40, 55],
        "files": {"features/c/2/0": [7, "ab"], "gone": None},
        "counts": {"frames": 10},
        "quarantined": {"b": "broken"},
        "notes": {"a": "odd"},
        "store": "0123456789abcdef",
    }
