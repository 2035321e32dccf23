"""Images of the synthetic set: textured objects that move in front of a textured background.

Each kind of object has a silhouette, a pattern and a colour family of its own; all else is sampled for every scene.
Nothing in this file knows which object sounds.

Letters: T instants, N objects, H = W = size pixels. Lengths in a scene are fractions of the image's side;
local coordinates (u, v) put an object's silhouette inside the unit circle, u to the right and v down.
"""

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

KINDS = ("bird", "car", "dog", "guitar", "helicopter", "woman")  # AVSBench's names; kind k is KINDS[k - 1]
MAX_OBJECTS = 4
FREE_DISTANCE = 0.8  # centres stay this many sums of radii apart: neighbours may overlap, but only slightly
PLACEMENTS = 128  # random placements tried per scene

Field = np.ndarray  # float32 [T, h, w]
Point = tuple[float, float]  # (x, y)
Tone = tuple[float, float, float]
Part = tuple  # (distance function, its numbers...)


def ellipse(u: Field, v: Field, x: float, y: float, rx: float, ry: float) -> Field:
    return (np.hypot((u - x) / rx, (v - y) / ry) - 1) * min(rx, ry)


def box(u: Field, v: Field, x: float, y: float, half_width: float, half_height: float) -> Field:
    return np.maximum(np.abs(u - x) - half_width, np.abs(v - y) - half_height)


def capsule(u: Field, v: Field, start: Point, end: Point, radius: float) -> Field:
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((u - x0) * dx + (v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(u - x0 - along * dx, v - y0 - along * dy) - radius


def trapezoid(u: Field, v: Field, top: float, bottom: float, half_top: float, half_bottom: float) -> Field:
    slope = (half_bottom - half_top) / (bottom - top)
    sides = (np.abs(u) - half_top - slope * (v - top)) / np.hypot(1, slope)
    return np.maximum(sides, np.abs(v - (top + bottom) / 2) - (bottom - top) / 2)


@dataclass(frozen=True)
class Look:
    """How one kind of object looks: what is patterned, what has the accent colour, and the colours (HSV)."""

    body: tuple[Part, ...]
    accent: tuple[Part, ...]
    pattern: Callable[[Field, Field], Field]  # about -1..1, blends the two tones
    tones: tuple[Tone, Tone]
    accent_tone: Tone


LOOKS = {
    "bird": Look(
        body=(
            (ellipse, -0.05, 0.1, 0.6, 0.42),
            (ellipse, 0.5, -0.35, 0.29, 0.27),
            (capsule, (-0.5, 0.05), (-0.86, -0.3), 0.12),
        ),
        accent=((capsule, (0.74, -0.33), (0.9, -0.27), 0.07), (ellipse, -0.15, 0.08, 0.3, 0.17)),
        pattern=lambda u, v: np.sin(11 * u) * np.sin(11 * v) * 2,
        tones=((0.58, 0.75, 0.85), (0.55, 0.35, 1.0)),
        accent_tone=(0.13, 0.9, 0.95),
    ),
    "car": Look(
        body=((box, 0, 0.18, 0.88, 0.25), (trapezoid, -0.42, 0.0, 0.34, 0.58)),
        accent=((ellipse, -0.5, 0.45, 0.23, 0.23), (ellipse, 0.5, 0.45, 0.23, 0.23), (box, 0, -0.2, 0.3, 0.12)),
        pattern=lambda u, v: np.sin(22 * v),
        tones=((0.0, 0.9, 0.85), (0.0, 0.7, 0.5)),
        accent_tone=(0.6, 0.2, 0.18),
    ),
    "dog": Look(
        body=(
            (capsule, (-0.42, 0.05), (0.32, 0.05), 0.28),
            (ellipse, 0.6, -0.32, 0.29, 0.24),
            (capsule, (-0.52, 0.2), (-0.55, 0.7), 0.11),
            (capsule, (0.38, 0.2), (0.42, 0.7), 0.11),
            (capsule, (-0.66, -0.05), (-0.88, -0.35), 0.07),
        ),
        accent=((capsule, (0.5, -0.5), (0.4, -0.22), 0.1), (ellipse, 0.85, -0.3, 0.08, 0.07)),
        pattern=lambda u, v: np.sin(6 * u + 2 * np.sin(5 * v)) + np.sin(7 * v + 1.0) - 0.6,
        tones=((0.07, 0.6, 0.5), (0.1, 0.15, 0.95)),
        accent_tone=(0.05, 0.6, 0.22),
    ),
    "guitar": Look(
        body=((ellipse, -0.5, 0, 0.43, 0.43), (ellipse, 0, 0, 0.31, 0.31)),
        accent=((box, 0.42, 0, 0.45, 0.07), (box, 0.9, 0, 0.09, 0.14), (ellipse, -0.25, 0, 0.14, 0.14)),
        pattern=lambda u, v: np.sin(17 * np.hypot(u + 0.25, v)),
        tones=((0.12, 0.85, 0.95), (0.08, 0.9, 0.7)),
        accent_tone=(0.06, 0.7, 0.28),
    ),
    "helicopter": Look(
        body=(
            (ellipse, 0.22, 0.12, 0.48, 0.4),
            (capsule, (-0.1, 0.06), (-0.86, -0.08), 0.1),
            (capsule, (-0.86, -0.08), (-0.88, -0.34), 0.08),
        ),
        accent=((box, 0.15, -0.48, 0.7, 0.06), (box, 0.18, -0.36, 0.06, 0.12), (box, 0.22, 0.56, 0.45, 0.06)),
        pattern=lambda u, v: np.sin(9 * u) * np.sin(9 * v) * 6,
        tones=((0.36, 0.8, 0.6), (0.28, 0.6, 0.35)),
        accent_tone=(0.5, 0.15, 0.3),
    ),
    "woman": Look(
        body=(
            (trapezoid, -0.45, 0.68, 0.16, 0.58),
            (capsule, (-0.12, -0.36), (-0.52, 0.02), 0.09),
            (capsule, (0.12, -0.36), (0.52, 0.02), 0.09),
        ),
        accent=(
            (ellipse, 0, -0.68, 0.24, 0.27),
            (capsule, (-0.2, 0.7), (-0.2, 0.88), 0.09),
            (capsule, (0.2, 0.7), (0.2, 0.88), 0.09),
        ),
        pattern=lambda u, v: np.sin(12 * (u + v)) * 1.5,
        tones=((0.84, 0.75, 0.85), (0.9, 0.25, 1.0)),
        accent_tone=(0.06, 0.45, 0.9),
    ),
}


@dataclass(frozen=True)
class Mover:
    """One object of a scene."""

    kind: int  # 1..len(KINDS)
    radius: float
    home: tuple[float, float]  # (x, y) that the centre swings around
    swing: tuple[float, float]  # amplitude of that motion in x and y
    period: tuple[float, float]  # seconds
    phase: tuple[float, float]  # radians
    tilt: tuple[float, float]  # mean angle and amplitude, radians
    mirrored: bool
    tint: Tone  # added to hue, saturation and brightness

    def centres(self, times: np.ndarray) -> np.ndarray:
        """float64 [T, 2]: (x, y) at `times` in seconds."""
        turns = 2 * np.pi * times[:, None] / np.array(self.period)
        return np.array(self.home) + np.array(self.swing) * np.sin(turns + np.array(self.phase))

    def angles(self, times: np.ndarray) -> np.ndarray:
        """float64 [T], radians."""
        return self.tilt[0] + self.tilt[1] * np.sin(2 * np.pi * times / self.period[0] + self.phase[1])


@dataclass(frozen=True)
class Scene:
    movers: tuple[Mover, ...]  # back to front; no kind appears twice
    background: np.ndarray  # float32 [2, 3]: the two colours, 0..255
    grids: tuple[np.ndarray, ...]  # float32 [g, g] each: value noise that blends them, coarse to fine
    ripple: np.ndarray  # float32 [3]: wave vector (radians per side) and strength of a regular pattern


def draw_scene(rng: np.random.Generator, kinds: tuple[int, ...], seconds: float) -> Scene:
    """Sample everything that is seen in a scene with objects of these kinds (back to front), `seconds` long."""
    n = len(kinds)
    radius = rng.uniform(0.14, 0.24, n)
    swing = rng.uniform(0.02, 0.07, (n, 2))
    period = rng.uniform(4, 9, (n, 2))
    phase = rng.uniform(0, 2 * np.pi, (n, 2))
    homes = _spread_homes(rng, radius, swing, period, phase, seconds)
    movers = tuple(
        Mover(
            kind=kinds[i],
            radius=float(radius[i]),
            home=tuple(homes[i]),
            swing=tuple(swing[i]),
            period=tuple(period[i]),
            phase=tuple(phase[i]),
            tilt=(rng.uniform(-0.3, 0.3), rng.uniform(0, 0.2)),
            mirrored=bool(rng.random() < 0.5),
            tint=(rng.uniform(-0.03, 0.03), rng.uniform(-0.1, 0.1), rng.uniform(-0.12, 0.12)),
        )
        for i in range(n)
    )
    hue, other_hue = rng.random(), rng.random()
    colour = _rgb((hue, rng.uniform(0.05, 0.45), rng.uniform(0.25, 0.9)))
    other_colour = _rgb((other_hue, rng.uniform(0.05, 0.45), rng.uniform(0.15, 0.8)))
    grids = tuple(rng.standard_normal((cells, cells), dtype=np.float32) for cells in (4, 9, 24, 56))
    ripple = np.array([*rng.uniform(-60, 60, 2), rng.uniform(0, 0.5)], np.float32)
    return Scene(movers, np.array([colour, other_colour], np.float32), grids, ripple)


def _spread_homes(
    rng: np.random.Generator, radius: np.ndarray, swing: np.ndarray, period: np.ndarray, phase: np.ndarray, end: float
) -> np.ndarray:
    """float64 [N, 2]: a random placement with all objects inside and `FREE_DISTANCE` apart at all times.

    The first of `PLACEMENTS` with such gaps is taken, or else the one with the widest.
    """
    n = len(radius)
    margin = radius[:, None] + swing
    homes = margin + (1 - 2 * margin) * rng.random((PLACEMENTS, n, 2))
    times = np.arange(0, end + 0.5, 0.5)[:, None, None]
    paths = swing * np.sin(2 * np.pi * times / period + phase)  # [G, N, 2]
    first, second = np.triu_indices(n, 1)
    apart = (homes[:, first] - homes[:, second])[:, None] + (paths[:, first] - paths[:, second])
    gaps = (np.hypot(apart[..., 0], apart[..., 1]) / (radius[first] + radius[second])).min(axis=(1, 2))
    enough = gaps >= FREE_DISTANCE
    return homes[np.argmax(enough) if enough.any() else np.argmax(gaps)]


def render(scene: Scene, times: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Paint the scene at `times` (seconds, [T]).

    Returns frames, uint8 [T, size, size, 3] RGB, and segments, uint8 [T, size, size]: the kind of the object
    seen at the pixel's centre, 0 for background. Nearer objects hide farther ones.
    """
    pad = 4  # a patch reaches at most this many pixels over the edge
    side = size + 2 * pad
    canvas = np.empty((len(times), side, side, 3), np.float32)
    canvas[:] = _paint_background(scene, size, pad)
    segments = np.zeros((len(times), side, side), np.uint8)
    for mover in scene.movers:
        corners, colour, coverage = _paint_mover(mover, times, size)
        h = coverage.shape[1]
        for t, (x, y) in enumerate(corners + pad):
            patch = canvas[t, y : y + h, x : x + h]
            patch += coverage[t, :, :, None] * (colour[t] - patch)
            segments[t, y : y + h, x : x + h][coverage[t] > 0.5] = mover.kind
    inside = slice(pad, pad + size)
    frames = np.clip(canvas[:, inside, inside] + 0.5, 0, 255).astype(np.uint8)
    return frames, segments[:, inside, inside].copy()


def _paint_background(scene: Scene, size: int, pad: int) -> np.ndarray:
    """float32 [size + 2 pad, size + 2 pad, 3], 0..255."""
    at = (np.arange(-pad, size + pad, dtype=np.float32) + 0.5) / size
    blend = np.zeros((len(at), len(at)), np.float32)
    for strength, grid in zip((0.6, 0.4, 0.25, 0.18), scene.grids, strict=True):
        weights = _interpolation(at, len(grid))
        blend += strength * (weights @ grid @ weights.T)
    wave_x, wave_y, strength = scene.ripple
    blend += strength * np.sin(wave_x * at[None] + wave_y * at[:, None])
    blend = (0.5 + 0.5 * np.tanh(blend))[..., None]
    return scene.background[0] + blend * (scene.background[1] - scene.background[0])


def _interpolation(at: np.ndarray, cells: int) -> np.ndarray:
    """float32 [len(at), cells]: linear interpolation between `cells` knots spread over 0..1."""
    knots = np.clip(at, 0, 1) * (cells - 1)
    return np.maximum(0, 1 - np.abs(knots[:, None] - np.arange(cells, dtype=np.float32)))


def _paint_mover(mover: Mover, times: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One object alone: corners (x, y) of patches, int [T, 2]; colour [T, h, h, 3]; coverage [T, h, h]."""
    look = LOOKS[KINDS[mover.kind - 1]]
    centres = mover.centres(times) * size
    half = int(np.ceil(mover.radius * size)) + 2
    corners = np.floor(centres).astype(np.int64) - half
    steps = np.arange(2 * half + 1) + 0.5
    scale = mover.radius * size
    x = ((corners[:, :1] + steps - centres[:, :1]) / scale).astype(np.float32)[:, None, :]
    y = ((corners[:, 1:] + steps - centres[:, 1:]) / scale).astype(np.float32)[:, :, None]
    angles = mover.angles(times)
    cos, sin = (f(angles).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
    u, v = cos * x + sin * y, cos * y - sin * x
    if mover.mirrored:
        u = -u
    accent = _coverage(look.accent, u, v, scale)
    coverage = np.maximum(_coverage(look.body, u, v, scale), accent)
    tones = (*look.tones, look.accent_tone)
    first, second, accent_colour = (np.array(_rgb(tone, mover.tint), np.float32) for tone in tones)
    blend = np.clip(0.5 + 0.7 * look.pattern(u, v), 0, 1)[..., None]
    colour = first + blend * (second - first)
    colour += accent[..., None] * (accent_colour - colour)
    light = 1 - 0.18 * (x + y)  # from the upper left, whatever the tilt
    return corners, colour * light[..., None], coverage


def _coverage(parts: tuple[Part, ...], u: Field, v: Field, scale: float) -> np.ndarray:
    """How much of a pixel the union of the parts covers: above one half where it holds the pixel's centre."""
    distance = np.minimum.reduce([part[0](u, v, *part[1:]) for part in parts])
    return np.clip(0.5 - distance * scale, 0, 1)


def _rgb(hsv: Tone, tint: Tone = (0.0, 0.0, 0.0)) -> Tone:
    hue, saturation, brightness = (tone + change for tone, change in zip(hsv, tint, strict=True))
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(brightness, 0.0), 1.0))
    return 255.0 * red, 255.0 * green, 255.0 * blue
