"""Paint label maps over the pictures of a video."""

from collections.abc import Callable

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...data.sources.video.decoding import upright
from ...resampling import resize_image
from ..common.pictures import ALPHA, label_colours, outline

Paint = Callable[[av.VideoFrame, np.ndarray], np.ndarray]


def painter(classes: tuple[str, ...], size: tuple[int, int]) -> Paint:
    """A function that paints a label map, uint8 [H, W], over a picture; it returns uint8 [H, W, 3], RGB, upright.

    size: (H, W) of all results; pictures of another size are resized. With several foreground classes, those present
    are named in a corner. What is painted is prepared once per label map (by identity), not once per picture.
    """
    colours = label_colours(len(classes))
    prepared: np.ndarray | None = None
    layer: Image.Image | None = None

    def paint(frame: av.VideoFrame, labels: np.ndarray) -> np.ndarray:
        nonlocal prepared, layer
        if prepared is not labels:
            prepared, layer = labels, _layer(labels, colours, classes) if labels.any() else None
        picture = Image.fromarray(upright(frame))
        if picture.size != (size[1], size[0]):
            picture = resize_image(picture, size, Image.Resampling.BILINEAR)
        if layer is not None:
            picture.paste(layer, (0, 0), layer)
        return np.asarray(picture)

    return paint


def _layer(labels: np.ndarray, colours: np.ndarray, classes: tuple[str, ...]) -> Image.Image:
    """What to paint, RGBA."""
    cover = np.where(labels > 0, np.uint8(255 * ALPHA), np.uint8(0))
    cover[outline(labels)] = 255
    layer = Image.fromarray(np.dstack([colours[labels], cover]))
    if len(classes) > 2:
        _draw_legend(layer, [(classes[k], tuple(colours[k].tolist())) for k in np.unique(labels[labels > 0])])
    return layer


def _draw_legend(layer: Image.Image, entries: list[tuple[str, tuple[int, ...]]]) -> None:
    """Draw names and colours of classes into a corner."""
    height = max(10, layer.height // 28)
    font = ImageFont.load_default(height)
    draw = ImageDraw.Draw(layer)
    for row, (name, colour) in enumerate(entries):
        top = height // 2 + row * round(1.5 * height)
        end = 2.5 * height + font.getlength(name)
        draw.rectangle((height // 2, top, round(end), top + round(1.3 * height)), fill=(0, 0, 0, 190))
        square = (height, top + height // 4, height + round(0.8 * height), top + height // 4 + round(0.8 * height))
        draw.rectangle(square, fill=(*colour, 255))
        draw.text((2.1 * height, top), name, font=font, fill=(255, 255, 255, 255))
