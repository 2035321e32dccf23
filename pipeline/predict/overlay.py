"""Label maps painted over the pictures of a video."""

from collections.abc import Callable

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...data.sources.video.decoding import upright
from ..common.pictures import label_colours, outline

ALPHA = 0.55
Paint = Callable[[av.VideoFrame, np.ndarray], np.ndarray]


def painter(classes: tuple[str, ...], size: tuple[int, int]) -> Paint:
    """A function that paints a label map, uint8 [H, W], over a picture: uint8 [H, W, 3], RGB, upright.

    size: (H, W) of all results; a picture of another size is resized. Where a model tells classes apart, those that
    sound are named in a corner. What is painted is prepared once and kept while the label map is the same object.
    """
    colours = label_colours(len(classes))
    painted: np.ndarray | None = None
    layer: tuple[Image.Image, Image.Image] | None = None

    def paint(frame: av.VideoFrame, labels: np.ndarray) -> np.ndarray:
        nonlocal painted, layer
        if painted is not labels:
            painted, layer = labels, _layer(labels, colours, classes)
        picture = Image.fromarray(upright(frame))
        if picture.size != size[::-1]:
            picture = picture.resize(size[::-1], Image.Resampling.BILINEAR)
        if layer is not None:
            picture.paste(layer[0], (0, 0), layer[1])
        return np.asarray(picture)

    return paint


def _layer(labels: np.ndarray, colours: np.ndarray, classes: tuple[str, ...]) -> tuple[Image.Image, Image.Image] | None:
    """The colours to paint, and how much they cover, 0..255; None for a label map of background alone."""
    if not labels.any():
        return None
    tint = Image.fromarray(colours[labels])
    cover = np.where(labels > 0, np.uint8(255 * ALPHA), np.uint8(0))
    cover[outline(labels)] = 255
    alpha = Image.fromarray(cover)
    if len(classes) > 2:
        _name_classes(tint, alpha, np.unique(labels[labels > 0]).tolist(), colours, classes)
    return tint, alpha


def _name_classes(
    tint: Image.Image, alpha: Image.Image, present: list[int], colours: np.ndarray, classes: tuple[str, ...]
) -> None:
    height = max(10, tint.height // 28)
    font = ImageFont.load_default(height)
    on_tint, on_alpha = ImageDraw.Draw(tint), ImageDraw.Draw(alpha)
    for row, index in enumerate(present):
        top = height // 2 + row * round(1.5 * height)
        end = 2.5 * height + font.getlength(classes[index])
        box = (height // 2, top, round(end), top + round(1.3 * height))
        on_tint.rectangle(box, fill=(0, 0, 0))
        on_alpha.rectangle(box, fill=190)
        square = (height, top + height // 4, height + round(0.8 * height), top + height // 4 + round(0.8 * height))
        for draw, fill in ((on_tint, tuple(colours[index].tolist())), (on_alpha, 255)):
            draw.rectangle(square, fill=fill)
        place = (2.1 * height, top)
        on_tint.text(place, classes[index], font=font, fill=(255, 255, 255))
        on_alpha.text(place, classes[index], font=font, fill=255)
