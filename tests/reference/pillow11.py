"""Pictures resized by Pillow 11, the last one that always begins with the width.

    python -m venv old && old/bin/pip install pillow==11.3.0 numpy && old/bin/python tests/reference/pillow11.py

writes `pillow11.npz` beside this file. The pictures are made by rule, so that only results need be kept.
"""

from pathlib import Path

import numpy as np
import PIL
from PIL import Image

FILE = Path(__file__).with_suffix(".npz")
Size = tuple[int, int]  # height, width
CASES: list[tuple[Size, Size]] = [
    ((97, 41), (32, 32)),  # tall, squashed
    ((97, 33), (94, 32)),  # tall, short side fitted
    ((41, 97), (32, 32)),  # wide
    ((60, 20), (32, 32)),  # smaller one way, larger the other
    ((20, 60), (32, 32)),
    ((23, 9), (63, 25)),  # enlarged
    ((9, 23), (25, 63)),
    ((40, 40), (20, 20)),
]
FILTERS = ("NEAREST", "BILINEAR", "BICUBIC")


def picture(size: Size, channels: int = 3) -> np.ndarray:
    """uint8 [H, W, C], or [H, W] for one channel: busy enough that the order of rounding shows."""
    y, x, c = np.ogrid[: size[0], : size[1], :channels]
    image = ((37 * y + 101 * x + 53 * c + (x * y * 29) % 83 * 5) % 256).astype(np.uint8)
    return image if channels > 1 else image[..., 0]


def case_name(old: Size, new: Size, filter_name: str, channels: int) -> str:
    return f"{old[0]}x{old[1]} to {new[0]}x{new[1]} {filter_name} {channels}"


def main() -> None:
    if not PIL.__version__.startswith("11."):
        raise SystemExit(f"this is Pillow {PIL.__version__}; the fixture is of Pillow 11")
    results = {}
    for old, new in CASES:
        for filter_name in FILTERS:
            for channels in (1, 3):
                image = Image.fromarray(picture(old, channels))
                resized = image.resize((new[1], new[0]), Image.Resampling[filter_name])
                results[case_name(old, new, filter_name, channels)] = np.asarray(resized)
    np.savez_compressed(FILE, **results)


if __name__ == "__main__":
    main()
