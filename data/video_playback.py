"""A video's pictures from beginning to end, at a constant rate and in their own size."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from .video_decoding import opened, picture_stream, upright

MAX_FPS = 60


@dataclass(frozen=True)
class Playback:
    """fps: pictures per second of `pictures`; the mean rate of videos whose rate varies."""

    path: Path
    fps: Fraction

    def pictures(self) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3], RGB, turned upright: the picture shown at 0, 1/fps, 2/fps, ... seconds, to the end.

        ValueError names a file that cannot be decoded to its end.
        """
        with opened(self.path) as container:
            stream = picture_stream(container)
            frames = (f for f in container.decode(stream) if f.pts is not None)
            shown = next(frames, None)
            if shown is None:
                raise ValueError("no picture in it can be decoded")
            start, time = shown.pts * stream.time_base, Fraction(0)
            for frame in frames:
                begins = frame.pts * stream.time_base - start
                image = upright(shown) if time < begins else None
                while image is not None and time < begins:
                    yield image
                    time += 1 / self.fps
                shown = frame
            yield upright(shown)


def playback(path: Path) -> Playback:
    """ValueError names a file that is no video."""
    with opened(path) as container:
        stream = picture_stream(container)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return Playback(path, min(Fraction(rate), Fraction(MAX_FPS)))
