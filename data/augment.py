"""Training augmentation, exactly as the published code does it: scale, crop, colour jitter, flip, pad.

All random numbers are drawn first, into a `Draw`; applying it is a pure function of arrays. One geometry serves a whole
clip; colours are jittered independently for each frame and each Maskige.
"""

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from ..base import IGNORE_LABEL, Section
from .resize import resize_window

PAD_COLOUR = 128  # of frames and Maskiges alike
PUBLISHED_SCALES = tuple(tenths / 10 for tenths in range(5, 21))  # at 224 pixels: 112, 134, 156, ... 425, 448


class AugmentConfig(Section):
    """Random changes of each training clip. Defaults are those of S4 and MS3; AVSS has `scale` empty."""

    scale: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=PUBLISHED_SCALES,
        description="Factors by which a clip may be scaled before it is cropped or padded; empty: no scaling.",
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="Probability of a flip from left to right.")
    colour: bool = Field(default=True, description="Jitter brightness, contrast, saturation and hue.")
    shared_colour: bool = Field(default=False, description="One colour jitter for all images of a clip, not one each.")


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of a clip go."""

    resized: tuple[int, int]  # (height, width) after scaling
    crop: tuple[int, int, int, int]  # (top, left, height, width) of the window in the scaled image
    flip: bool  # left to right


@dataclass(frozen=True)
class Jitter:
    """SSD's photometric distortion of one image. None leaves a step out."""

    brightness: float | None = None  # added to every value, -32..32
    contrast: float | None = None  # factor on every value, 0.5..1.5
    saturation: float | None = None  # factor on S of HSV, 0.5..1.5
    hue: int | None = None  # added to H of HSV (0..179, in steps of two degrees), -18..18
    contrast_first: bool = True  # False: contrast comes after saturation and hue


@dataclass(frozen=True)
class Draw:
    """Everything random about one clip; one jitter per frame and per Maskige, or none if colour is off."""

    geometry: Geometry
    frames: tuple[Jitter, ...]
    maskiges: tuple[Jitter, ...]


def augment(
    frames: np.ndarray, maskiges: np.ndarray, labels: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw once and apply to one clip (published training pipeline; paper, appendix).

    frames: uint8 [T, H, W, 3], RGB. maskiges: the same. labels: uint8 [T, H, W].
    Returns new arrays of the same shapes and types. A clip scaled to less than H x W is padded to the right and
    at the bottom: images with grey 128, labels with 255. The inputs stay as they are.
    Raises ValueError for other shapes or types.
    """
    shape = frames.shape
    if frames.ndim != 4 or shape[-1] != 3:
        raise ValueError(f"frames must be [T, H, W, 3], not {list(shape)}")
    for name, array, wanted in ("frames", frames, shape), ("Maskiges", maskiges, shape), ("labels", labels, shape[:3]):
        if array.dtype != np.uint8 or array.shape != wanted:
            raise ValueError(f"{name} must be uint8 {list(wanted)}, not {array.dtype} {list(array.shape)}")
    return apply(draw(config, len(frames), (shape[1], shape[2]), rng), frames, maskiges, labels)


def draw(config: AugmentConfig, num_frames: int, size: tuple[int, int], rng: np.random.Generator) -> Draw:
    """Draw for a clip of `num_frames` frames of `size` = (H, W); the same rng state gives the same draw."""
    geometry = draw_geometry(config, size, rng)
    if not config.colour:
        return Draw(geometry, (), ())
    count = 2 * num_frames
    jitters = (draw_jitter(rng),) * count if config.shared_colour else tuple(draw_jitter(rng) for _ in range(count))
    return Draw(geometry, jitters[:num_frames], jitters[num_frames:])


def draw_geometry(config: AugmentConfig, size: tuple[int, int], rng: np.random.Generator) -> Geometry:
    """One of the scales, a window of at most `size` at a uniform place, and a coin for the flip."""
    resized = size
    if config.scale:
        factor = config.scale[rng.integers(len(config.scale))]
        # The published list is 224 times the factor, truncated; rounding first keeps 0.7 * 90 at 63.
        short = max(1, int(round(min(size) * factor, 6)))
        resized = (int(size[0] * short / min(size) + 0.5), int(size[1] * short / min(size) + 0.5))
    height, width = min(resized[0], size[0]), min(resized[1], size[1])
    top, left = int(rng.integers(resized[0] - height + 1)), int(rng.integers(resized[1] - width + 1))
    return Geometry(resized, (top, left, height, width), bool(rng.random() < config.flip))


def draw_jitter(rng: np.random.Generator) -> Jitter:
    """Each of the four steps happens with probability one half, in either order with probability one half."""

    def coin() -> bool:
        return bool(rng.random() < 0.5)

    return Jitter(
        brightness=rng.uniform(-32, 32) if coin() else None,
        contrast=rng.uniform(0.5, 1.5) if coin() else None,
        saturation=rng.uniform(0.5, 1.5) if coin() else None,
        hue=int(rng.integers(-18, 18, endpoint=True)) if coin() else None,
        contrast_first=coin(),
    )


def apply(
    drawn: Draw, frames: np.ndarray, maskiges: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Apply a draw to the arrays of `augment`."""
    geometry = drawn.geometry
    frames = _transform(frames, geometry, drawn.frames, nearest=False, fill=PAD_COLOUR)
    # To the published code Maskiges are images: the bilinear filter blends their edges.
    maskiges = _transform(maskiges, geometry, drawn.maskiges, nearest=False, fill=PAD_COLOUR)
    return frames, maskiges, _transform(labels, geometry, (), nearest=True, fill=IGNORE_LABEL)


def _transform(
    images: np.ndarray, geometry: Geometry, jitters: tuple[Jitter, ...], *, nearest: bool, fill: int
) -> np.ndarray:
    """Scale, crop, jitter, flip and pad uint8 [T, H, W, ...]; image i takes jitter i, if there are any."""
    _, _, height, width = geometry.crop
    padded = (height, width) != images.shape[1:3]
    out = np.full_like(images, fill) if padded else np.empty_like(images)
    for i, image in enumerate(images):
        image = resize_window(image, geometry.resized, geometry.crop, nearest=nearest)
        if jitters:
            image = apply_jitter(image, jitters[i])
        out[i, :height, :width] = cv2.flip(image, 1) if geometry.flip else image
    return out


def apply_jitter(image: np.ndarray, jitter: Jitter) -> np.ndarray:
    """SSD's photometric distortion of uint8 [H, W, 3], RGB; every step ends in whole numbers of 0..255."""
    if jitter.brightness is not None:
        image = cv2.LUT(image, _linear_table(1.0, jitter.brightness))
    if jitter.contrast is not None and jitter.contrast_first:
        image = cv2.LUT(image, _linear_table(jitter.contrast, 0.0))
    # Saturation and hue each go to HSV and back: the rounding between them is part of the published result.
    if jitter.saturation is not None:
        image = _change_in_hsv(image, 1, _linear_table(jitter.saturation, 0.0))
    if jitter.hue is not None:
        image = _change_in_hsv(image, 0, ((_ALL_VALUES + jitter.hue) % 180).astype(np.uint8))
    if jitter.contrast is not None and not jitter.contrast_first:
        image = cv2.LUT(image, _linear_table(jitter.contrast, 0.0))
    return image


_ALL_VALUES = np.arange(256)


def _linear_table(factor: float, shift: float) -> np.ndarray:
    """factor * x + shift for every uint8 x, clipped to 0..255 and truncated."""
    x = _ALL_VALUES.astype(np.float32)
    return np.clip(x * np.float32(factor) + np.float32(shift), 0, 255).astype(np.uint8)


def _change_in_hsv(image: np.ndarray, channel: int, table: np.ndarray) -> np.ndarray:
    """To OpenCV's 8-bit HSV (hue 0..179, saturation and value 0..255), one channel through a table, and back."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
