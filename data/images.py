"""Image files: headers without decoding, and RGB arrays."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

MAX_PIXELS = 80_000_000  # a crafted header can promise terabytes; 8K video has 33 million
FRAME_MODES = ("RGB", "RGBA", "L", "LA", "P", "CMYK")  # 8 bits per channel: safe to convert to RGB
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """The image, not decoded yet. An error inside the block becomes a ValueError that names the file.

    Only PNG and JPEG are tried: other PIL plug-ins start programs or are seldom tested against hostile files.
    """
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels; over {MAX_PIXELS:,} are refused")
            yield image
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except _BROKEN as error:
        raise ValueError(f"{path}: {str(error).replace(f' {str(path)!r}', '')}") from error


def image_header(path: Path) -> tuple[str, tuple[int, int]]:
    """PIL mode and (H, W), without decoding. Raises ValueError naming a file that is missing or no PNG or JPEG."""
    with open_image(path) as image:
        return image.mode, (image.height, image.width)


def read_rgb(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]. As published, alpha and EXIF rotation are ignored. Raises ValueError naming a broken file."""
    with open_image(path) as image:
        if image.mode not in FRAME_MODES:
            raise ValueError(f"image mode {image.mode}; frames have 8 bits per channel")
        return np.asarray(image.convert("RGB"))
