"""Write the label maps of a video one at a time: as PNG files, COCO run lengths or a Zarr store.

Shapes: F label maps of one video, H W pixels.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import zarr
from PIL import Image
from zarr.codecs import Crc32cCodec, ZstdCodec

from ..common.choices import MaskFormat
from ..common.pictures import label_colours

Add = Callable[[float, np.ndarray], None]  # seconds, uint8 [H, W] class index
NAMES: dict[MaskFormat, str] = {"png": "masks", "coco": "masks.json", "zarr": "masks.zarr"}
SHARD_BYTES = 64 << 20  # of label maps kept in memory until they are written together
MAX_SHARD_FRAMES = 160
CHUNK_BYTES = 4 << 20


def mask_writer(
    kind: MaskFormat, folder: Path, classes: tuple[str, ...], size: tuple[int, int]
) -> AbstractContextManager[Add]:
    """A function that appends label maps of one video, in order; the files are complete when the block ends.

    png: folder/masks/00000.png, ...: 0 and 255 for one foreground class, else class indices with a palette for
    viewers; times.csv lists their seconds. coco: folder/masks.json: one annotation per class and map, as compressed
    run lengths. zarr: folder/masks.zarr with `labels` uint8 [F, H, W] and `seconds` float64 [F].
    """
    return {"png": _png, "coco": _coco, "zarr": _zarr}[kind](folder / NAMES[kind], classes, size)


@contextmanager
def _png(folder: Path, classes: tuple[str, ...], size: tuple[int, int]) -> Iterator[Add]:
    folder.mkdir()
    palette = label_colours(len(classes)).tobytes()
    with (folder / "times.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "seconds"])
        count = 0

        def add(seconds: float, labels: np.ndarray) -> None:
            nonlocal count
            image = Image.fromarray(labels * 255 if len(classes) == 2 else labels)
            if len(classes) > 2:
                image.putpalette(palette)  # pixels stay class indices
            image.save(folder / f"{count:05d}.png")
            rows.writerow([f"{count:05d}.png", f"{seconds:.6f}"])
            count += 1

        yield add


@contextmanager
def _coco(path: Path, classes: tuple[str, ...], size: tuple[int, int]) -> Iterator[Add]:
    """COCO needs two lists in one file; annotations go to a second file first, so that neither is kept in memory."""
    height, width = size
    categories = [{"id": k, "name": name, "supercategory": "sounding"} for k, name in enumerate(classes) if k]
    annotation_path = path.with_suffix(".annotations")
    images = annotations = 0
    with path.open("w", encoding="utf-8") as file, annotation_path.open("w+") as annotated:
        about = {"info": {"description": "sounding objects, by combo predict"}, "licenses": []}
        file.write(f'{json.dumps(about)[:-1]}, "categories": {json.dumps(categories)},\n"images": [')

        def add(seconds: float, labels: np.ndarray) -> None:
            nonlocal images, annotations
            name = f"{images:05d}.png"
            row = {"id": images, "file_name": name, "height": height, "width": width, "seconds": round(seconds, 6)}
            file.write(("," if images else "") + "\n" + json.dumps(row))
            for index in np.unique(labels[labels > 0]).tolist():
                annotation = {"id": annotations, "image_id": images, "category_id": index, "iscrowd": 0}
                annotation |= coco_mask(labels == index)
                annotated.write(("," if annotations else "") + "\n" + json.dumps(annotation))
                annotations += 1
            images += 1

        yield add
        file.write('\n],\n"annotations": [')
        annotated.seek(0)
        shutil.copyfileobj(annotated, file)
        file.write("\n]}\n")
    annotation_path.unlink()


def coco_mask(mask: np.ndarray) -> dict[str, object]:
    """segmentation, area and bbox of a COCO annotation of a mask, bool [H, W] with at least one pixel set.

    The segmentation holds compressed run lengths in column order, as pycocotools and most viewers read them.
    """
    pixels = mask.ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [len(pixels)]])).tolist()
    if pixels[0]:
        runs = [0, *runs]  # the first run is of background
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
    return {
        "segmentation": {"size": list(mask.shape), "counts": _compressed(runs)},
        "area": int(pixels.sum()),
        "bbox": [int(x) for x in box],
    }


def _compressed(runs: list[int]) -> str:
    """COCO's text form: runs, from the fourth on as difference from two runs before, in 5-bit digits with a sign."""
    text = []
    for k, run in enumerate(runs):
        rest = run - runs[k - 2] if k > 2 else run
        more = True
        while more:
            digit = rest & 0x1F
            rest >>= 5
            more = rest != -1 if digit & 0x10 else rest != 0
            text.append(chr(48 + (digit | 0x20 if more else digit)))
    return "".join(text)


@contextmanager
def _zarr(path: Path, classes: tuple[str, ...], size: tuple[int, int]) -> Iterator[Add]:
    area = size[0] * size[1]
    chunk = max(1, min(5, CHUNK_BYTES // area))
    shard = chunk * max(1, min(MAX_SHARD_FRAMES, SHARD_BYTES // area) // chunk)
    group = zarr.create_group(path, zarr_format=3, attributes={"classes": list(classes), "written_by": "combo predict"})
    create = partial(
        group.create_array,
        fill_value=0,
        compressors=[ZstdCodec(level=3), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    labels = create("labels", shape=(0, *size), chunks=(chunk, *size), shards=(shard, *size), dtype="uint8")
    maps: list[np.ndarray] = []
    times: list[float] = []

    def add(time: float, label: np.ndarray) -> None:
        maps.append(label)
        times.append(time)
        if len(maps) == shard:
            labels.append(np.stack(maps))
            maps.clear()

    yield add
    if maps:
        labels.append(np.stack(maps))
    create("seconds", data=np.array(times, np.float64), chunks=(4096,))
