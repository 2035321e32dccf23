"""Writing video files."""

import itertools
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av import AudioStream, VideoStream
from av.container import OutputContainer

from ....files import replacing
from ...clip import SAMPLE_RATE

Codec = Literal["libx264", "mpeg4"]
VIDEO_CODECS: tuple[Codec, ...] = ("libx264", "mpeg4")  # the first that is there is used; mpeg4 always is


def write_video(path: Path, frames: Iterable[np.ndarray], fps: Fraction | int, audio: np.ndarray | None = None) -> None:
    """Write H.264 (MPEG-4 where that is missing) with AAC sound; the file's ending tells the container.

    frames: uint8 [H, W, 3], RGB, all of one size, taken one at a time. An odd side is made even, as the pixel
    format demands, by repeating its last row or column.
    audio: float32 [samples], mono, 16 kHz, -1..1 (clipped), or None.
    The file appears at `path` only when it is complete. Raises ValueError if there are no frames, or one is unfit.
    """
    path = Path(path)
    following = iter(frames)
    first = next(following, None)
    if first is None:
        raise ValueError(f"{path}: a video needs at least one frame")
    with replacing(path, ending=path.suffix) as temporary, av.open(str(temporary.absolute()), "w") as container:
        _write(container, itertools.chain([first], following), first.shape, Fraction(fps), audio)


def _write(
    container: OutputContainer,
    frames: Iterator[np.ndarray],
    shape: tuple[int, ...],
    fps: Fraction,
    audio: np.ndarray | None,
) -> None:
    pictures = add_video_stream(container, shape, fps, crf="18")
    sound, waveform = None, np.zeros(0, np.float32)
    if audio is not None:
        sound = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        waveform = np.clip(audio, -1.0, 1.0).astype(np.float32)
    written = 0
    for k, image in enumerate(frames):
        if image.dtype != np.uint8 or image.shape != shape or image.shape[2:] != (3,):
            raise ValueError(f"frame {k} is {image.dtype} {image.shape}; expected uint8 {(*shape[:2], 3)}")
        container.mux(pictures.encode(even_frame(image)))
        if sound is not None:  # side by side with the pictures, so that neither piles up in the muxer
            upto = int((k + 1) / fps * SAMPLE_RATE)
            _encode_sound(container, sound, waveform[written:upto], written)
            written = max(written, upto)
    container.mux(pictures.encode())
    if sound is not None:
        _encode_sound(container, sound, waveform[written:], written)
        container.mux(sound.encode())


def add_video_stream(
    container: OutputContainer, shape: tuple[int, ...], fps: Fraction, **h264_options: str
) -> VideoStream:
    """A stream of H.264, or of MPEG-4 where that is missing, for frames of `shape` [H, W, 3] made even."""
    codec: Codec = next(name for name in VIDEO_CODECS if name in av.codecs_available)
    options = h264_options if codec == "libx264" else {}
    stream = container.add_stream(codec, rate=fps.limit_denominator(60_000), options=options)
    stream.height, stream.width = (side + side % 2 for side in shape[:2])
    stream.pix_fmt = "yuv420p"
    if codec == "mpeg4":
        stream.bit_rate = int(stream.height * stream.width * fps)  # 1 bit per pixel: good quality
    return stream


def even_frame(image: np.ndarray) -> av.VideoFrame:
    """An image, uint8 [H, W, 3] RGB, for a stream of even sides: an odd one repeats its last row or column."""
    odd = [(0, side % 2) for side in image.shape[:2]]
    even = np.pad(image, (*odd, (0, 0)), mode="edge") if any(after for _, after in odd) else image
    return av.VideoFrame.from_ndarray(even, format="rgb24")


def _encode_sound(container: OutputContainer, stream: AudioStream, samples: np.ndarray, place: int) -> None:
    if len(samples):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, place, Fraction(1, stream.rate)
        container.mux(stream.encode(frame))
