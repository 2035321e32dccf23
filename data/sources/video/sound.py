"""The sound of a video file: windows of it, mono at 16 kHz, by presentation time stamps; decodes only around them."""

import itertools
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from av import AudioFrame
from av.container import InputContainer

from ...audio import resample
from ...clip import SAMPLE_RATE
from .decoding import VideoFacts, open_video, seek, sound_stream, tick_of

SOUND_MARGIN = 1  # seconds decoded around a window: the resampling filter and the codec's memory are far shorter
SOUND_GAP = 0.02  # seconds: time stamps are rounded in some containers; only more than this is a gap in the sound


def read_sound(video: VideoFacts, start: int, seconds: int) -> np.ndarray:
    """The sound from second `start` on, for `seconds` or to its end: float64 [samples], mono, 16 kHz.

    The channel mean is resampled. Sound that begins later than the pictures is preceded by zeros. Empty if
    there is none. Where a container stamps whole milliseconds, the sound is off by up to one.
    Raises ValueError that names a file whose sound cannot be decoded.
    """
    if not video.has_sound:
        return np.zeros(0)
    begin = max(0, start - SOUND_MARGIN)
    end = start + seconds + SOUND_MARGIN
    for target in (video.start + begin - SOUND_MARGIN, None) if begin else (None,):
        with open_video(video.path) as container:
            frames = _sound_frames(container, target)
            first = next(frames, None)
            if target is not None and (first is None or first.time is None or first.time > video.start + begin):
                continue  # it landed too late, or the sound begins only here: decode from the start to find out
            if first is None:
                return np.zeros(0)
            waveform = _mono_sound(first, frames, video.start + begin, end - begin)
            sound = resample(waveform, first.sample_rate)
            offset = (start - begin) * SAMPLE_RATE
            return sound[offset : offset + seconds * SAMPLE_RATE]
    raise AssertionError("the last round always returns")


def _sound_frames(container: InputContainer, target: Fraction | None) -> Iterator[AudioFrame]:
    """All frames, or those from where a seek to `target` lands; none if the file cannot seek."""
    stream = sound_stream(container)
    if stream is not None and (target is None or seek(container, stream, target)):
        yield from container.decode(stream)


def _mono_sound(first: AudioFrame, following: Iterator[AudioFrame], begin: Fraction, seconds: int) -> np.ndarray:
    """The channel mean from `begin` (seconds, stream time) for `seconds` or to its end: float64, own rate."""
    rate = first.sample_rate
    waveform = np.zeros(seconds * rate)
    place: int | None = None  # in the waveform, of the next frame
    for frame in itertools.chain([first], following):
        if frame.sample_rate != rate:
            raise ValueError(f"its sound changes from {rate} to {frame.sample_rate} Hz")
        if frame.pts is not None:
            stamped = round((frame.pts * tick_of(frame) - begin) * rate)
            if place is None or abs(stamped - place) > SOUND_GAP * rate:
                place = stamped
        if place is None:
            raise ValueError("its sound has no time stamps")
        if place >= len(waveform):
            return waveform
        samples = _mono(frame)[max(0, -place) :]
        room = waveform[max(0, place) :][: len(samples)]
        room[:] = samples[: len(room)]
        place += frame.samples
    return waveform[: max(0, place or 0)]


def _mono(frame: AudioFrame) -> np.ndarray:
    """float64 [samples], the channel mean, integers scaled to -1..1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    scale = {"u1": 1 / 128, "i2": 1 / 32768, "i4": 1 / 2147483648}.get(samples.dtype.str[1:], 1.0)
    offset = 128 if samples.dtype == np.uint8 else 0
    return (samples.astype(np.float64).mean(axis=0) - offset) * scale
