"""What the files of masks hold, value by value, read by decoders written out here."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from combo_avs.data.palette import PALETTE
from combo_avs.data.sources.mask_files import decode_rle
from combo_avs.pipeline.common.choices import MaskFormat
from combo_avs.pipeline.predict import mask_writers
from combo_avs.pipeline.predict.mask_writers import NAMES, coco_mask, mask_writer

SIZE = (6, 9)
TIMES = [0.9375, 1.9375, 2.5, 3.25, 4.125]


def maps(classes: int) -> np.ndarray:
    labels = np.random.default_rng(classes).integers(0, classes, (len(TIMES), *SIZE)).astype(np.uint8)
    labels[2] = 0
    return labels


def write(folder: Path, kind: MaskFormat, classes: int) -> Path:
    names = ("background", *(f"class {k}" for k in range(1, classes)))
    with mask_writer(kind, folder, names, SIZE) as add:
        for time, labels in zip(TIMES, maps(classes), strict=True):
            add(time, labels)
    return folder / NAMES[kind]


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 40))).filter(np.any))
def test_a_coco_mask_pixel_by_pixel(mask: np.ndarray) -> None:
    found = coco_mask(mask)
    assert np.array_equal(decode_rle(found["segmentation"]["counts"], mask.shape), mask)
    assert found["segmentation"]["size"] == list(mask.shape)
    rows, columns = np.nonzero(mask)
    width, height = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
    assert found["bbox"] == [columns.min(), rows.min(), width, height]
    assert found["area"] == mask.sum()


def test_run_lengths_as_pycocotools_writes_them() -> None:
    """Runs of 0 first, column by column; differences from the fourth on."""
    mask = np.zeros((4, 5), bool)
    mask[1:3, 1] = mask[:, 3] = True
    assert coco_mask(mask)["segmentation"]["counts"] == coco_text([5, 2, 5, 4, 4])
    mask[0, 0] = True
    assert coco_mask(mask)["segmentation"]["counts"] == coco_text([0, 1, 4, 2, 5, 4, 4])


def coco_text(runs: list[int]) -> str:
    """Runs below 16 as COCO writes them: one character each, a difference as five bits in two's complement."""
    shown = [run - runs[k - 2] if k > 2 else run for k, run in enumerate(runs)]
    assert all(-16 <= value < 16 for value in shown)
    return "".join(chr(48 + (value & 31)) for value in shown)


@pytest.mark.parametrize("classes", [2, 4])
def test_png(tmp_path: Path, classes: int) -> None:
    folder = write(tmp_path, "png", classes)
    images = [Image.open(path) for path in sorted(folder.glob("*.png"))]
    shown = np.stack([np.asarray(image) for image in images])
    assert np.array_equal(shown, maps(classes) * (255 if classes == 2 else 1))
    if classes > 2:
        colours = np.array(images[0].getpalette()).reshape(-1, 3)[:classes]
        assert colours.tolist() == [[0, 0, 0], *PALETTE[1:classes].tolist()]
    with (folder / "times.csv").open() as file:
        assert [(row["file"], float(row["seconds"])) for row in csv.DictReader(file)] == [
            (f"{k:05d}.png", time) for k, time in enumerate(TIMES)
        ]


def test_coco(tmp_path: Path) -> None:
    content = json.loads(write(tmp_path, "coco", 4).read_text())
    assert list(tmp_path.iterdir()) == [tmp_path / "masks.json"]
    assert [(c["id"], c["name"]) for c in content["categories"]] == [(k, f"class {k}") for k in (1, 2, 3)]
    assert [(i["id"], i["seconds"], i["height"], i["width"]) for i in content["images"]] == [
        (k, time, *SIZE) for k, time in enumerate(TIMES)
    ]
    assert [a["id"] for a in content["annotations"]] == list(range(12))  # four maps with three classes each
    found = np.zeros((len(TIMES), *SIZE), np.uint8)
    for annotation in content["annotations"]:
        found[annotation["image_id"]][decode_rle(annotation["segmentation"]["counts"], SIZE)] = annotation[
            "category_id"
        ]
    assert np.array_equal(found, maps(4))


@pytest.mark.parametrize("shard_bytes", [1, 64 << 20])
def test_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int) -> None:
    """Written at once, and in shards as small as they come."""
    monkeypatch.setattr(mask_writers, "SHARD_BYTES", shard_bytes)
    group = zarr.open_group(write(tmp_path, "zarr", 4), mode="r")
    assert np.array_equal(group["labels"][:], maps(4))
    assert group["seconds"][:].tolist() == TIMES
    assert group.attrs["classes"] == ["background", "class 1", "class 2", "class 3"]
