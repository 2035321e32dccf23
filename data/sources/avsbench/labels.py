"""Ground-truth masks of AVSBench as label maps."""

import functools
import json
import warnings
from pathlib import Path

import numpy as np

from ....base import IGNORE_LABEL
from ....errors import BadInput
from ...images import open_image

BINARY_CLASSES: tuple[str, ...] = ("background", "sounding")
LABEL_MODES = {  # PIL modes that each coding of labels may have
    "binary": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "index": ("L", "P"),
    "colour": ("P", "RGB", "RGBA"),
}


def read_labels(path: Path, coding: str, num_classes: int) -> np.ndarray:
    """The label map of one frame: uint8 [H, W], values below `num_classes`.

    coding: "binary" (sounding or not), "index" (the pixel is the class) or "colour" (PASCAL-VOC palette).
    Raises ValueError that names the file, and the value or colour that stands for no class.
    """
    with open_image(path) as image:
        if image.mode not in LABEL_MODES[coding]:
            raise ValueError(f"image mode {image.mode}; {coding} labels have {', '.join(LABEL_MODES[coding])}")
        if coding == "binary":
            return binary_labels(np.asarray(image.convert("L")))
        if coding == "index":
            return index_labels(np.asarray(image), num_classes)
        return colour_labels(np.asarray(image.convert("RGB")), num_classes)


def binary_labels(grey: np.ndarray) -> np.ndarray:
    """uint8 [H, W] of 0 (silent) and 1 (sounding), from grey values uint8 [H, W].

    Official masks hold 0 and 255 and are cut at half. A mask of 0 and 1, which published loaders read as empty, is
    understood, with a warning. A mask that is not empty and wholly below half would vanish: ValueError.
    """
    top = int(grey.max())
    if top == 1:
        warnings.warn("a mask holds 0 and 1 instead of 0 and 255: 1 is read as sounding", stacklevel=2)
        return grey
    if 0 < top <= 127:
        raise ValueError(f"mask values reach only {top}; 0 and 255 expected")
    return (grey > 127).astype(np.uint8)


def index_labels(index: np.ndarray, num_classes: int) -> np.ndarray:
    """The map itself, uint8 [H, W], once every value is known to be a class."""
    top = int(index.max())
    if top >= num_classes:
        raise ValueError(f"label value {top} is out of range; the classes are 0 to {num_classes - 1}")
    return index


def colour_labels(rgb: np.ndarray, num_classes: int) -> np.ndarray:
    """uint8 [H, W] from palette colours uint8 [H, W, 3], by one look-up of the 24-bit colour."""
    code = rgb[..., 0].astype(np.uint32) << 16 | rgb[..., 1].astype(np.uint32) << 8 | rgb[..., 2]
    labels = _class_of_colour(num_classes)[code]
    unknown = labels == IGNORE_LABEL
    if unknown.any():
        red, green, blue = rgb[unknown][0].tolist()
        raise ValueError(f"colour ({red}, {green}, {blue}) is not in the palette of {num_classes} classes")
    return labels


def voc_palette(num_classes: int) -> np.ndarray:
    """uint8 [K, 3]: the colour of each class by the PASCAL-VOC rule.

    Bits of the class number go to red, green, blue in turn, from each channel's top bit down.
    """
    number = np.arange(num_classes)
    palette = np.zeros((num_classes, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((number >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


@functools.cache
def _class_of_colour(num_classes: int) -> np.ndarray:
    """uint8 [2**24]: class by 24-bit colour, `IGNORE_LABEL` for a colour of no class. 16 MB."""
    palette = voc_palette(num_classes).astype(np.uint32)
    table = np.full(1 << 24, IGNORE_LABEL, np.uint8)
    table[palette[:, 0] << 16 | palette[:, 1] << 8 | palette[:, 2]] = np.arange(num_classes)
    return table


def read_class_names(path: Path) -> tuple[str, ...]:
    """Class names by label value, from label2idx.json, which counts from 1 where label maps count from 0.

    Raises `BadInput` if the file is missing, is no such map, or does not begin with background.
    """
    if not path.is_file():
        raise BadInput(f"{path} is missing: it names the classes; copy it from AVSBench-semantic")
    try:
        number = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error
    if not isinstance(number, dict) or not all(type(v) is int for v in number.values()):
        raise BadInput(f"{path} must map class names to whole numbers")
    names = tuple(sorted(number, key=number.__getitem__))
    if [number[n] for n in names] != list(range(1, len(names) + 1)) or len(names) > IGNORE_LABEL:
        raise BadInput(f"{path}: the numbers must be 1 to K, each used once, and K at most {IGNORE_LABEL}")
    if not names or names[0] != "background":
        raise BadInput(f"{path}: number 1 must be 'background'")
    return names
