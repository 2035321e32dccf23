"""Pictures and sound of a video file at given times, by presentation time stamps.

Time 0 is the first picture. Every call opens the file anew, seeks, and decodes only around the times asked
for: memory does not grow with the length of the video, and calls from several threads do not meet.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

from .audio import resample
from .clip import SAMPLE_RATE

# Containers of films only: libav also opens play lists, which name other files and addresses, and even text.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
SEEK_BACK = (1, 5, 25)  # seconds: a seek may land behind its target, for example where the index is coarse
SOUND_MARGIN = 1  # seconds decoded around a window: the resampling filter and the codec's memory are far shorter
SOUND_GAP = 0.02  # seconds: time stamps are rounded in some containers; only more than this is a gap in the sound
END_SLACK = Fraction(1, 2)  # seconds that a header may overstate the end by


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video without decoding it."""

    path: Path
    start: Fraction  # seconds: time stamp of the first picture
    duration: Fraction  # seconds from the first picture to the end of the last one
    has_sound: bool
    frame_rate: Fraction | None  # set where frames must be counted, their time stamps being wrong


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """The container. Whatever goes wrong inside the block becomes a ValueError that names the file."""
    try:
        # The absolute path keeps a file name from being read as an address or an option.
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        with av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
            yield container
    except av.ArgumentError as error:
        raise ValueError(f"{path}: not in a container that is read here ({FORMATS})") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, av.FFmpegError) else error
        raise ValueError(f"{path}: {reason}") from error


def inspect(path: Path) -> VideoFacts:
    """Find start, length and sound of a video, decoding its first picture only.

    Where the header does not tell the length (live recordings, Matroska), the packets are read through once,
    undecoded. ValueError names a file that is no video, or has no pictures.
    """
    with opened(path) as container:
        stream = picture_stream(container)
        # AVI stamps frames in the order of decoding: those that refer to later ones come out misplaced.
        counted = container.format.name == "avi" and stream.codec_context.has_b_frames
        frame_rate = stream.average_rate if counted else None
        first = next(_frames(container, stream, None, frame_rate), None)
        if first is None:
            raise ValueError("no picture in it can be decoded")
        start = first.pts * first.time_base
        end = None
        if stream.duration:
            end = ((stream.start_time or 0) + stream.duration) * stream.time_base
        has_sound = container.streams.best("audio") is not None
    end = _last_packet_end(path) if end is None else end
    if end <= start:
        raise ValueError(f"{path}: its pictures last no time")
    return VideoFacts(path, start, end - start, has_sound, frame_rate)


def picture_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The video stream that players show, ready to be decoded. ValueError if there is none."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:  # cover art of a sound file
        raise ValueError("it has no video stream")
    if stream.codec_context is None:
        raise ValueError("its video codec is unknown")
    stream.thread_type = "AUTO"
    return stream


def _last_packet_end(path: Path) -> Fraction:
    """Seconds: where the last picture ends, or where the file should end if packets are missing."""
    ends = {"video": Fraction(0), "audio": Fraction(0)}
    with opened(path) as container:
        streams = [s for kind in ends if (s := container.streams.best(kind)) is not None]
        declared = Fraction((container.start_time or 0) + (container.duration or 0), av.time_base)
        for packet in container.demux(streams):
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                ends[packet.stream.type] = max(ends[packet.stream.type], end)
    return declared if max(ends.values()) + 2 * END_SLACK < declared else ends["video"]


def read_pictures(video: VideoFacts, times: list[Fraction], size: int) -> list[np.ndarray]:
    """The picture shown at each of `times`, seconds from the first picture, ascending: uint8 [size, size, 3].

    A picture is shown from its own time stamp to the next one's; the last picture stays. RGB, turned upright.
    ValueError names a file that breaks off before its declared end, or whose picture is damaged.
    """
    seeks = [back for back in SEEK_BACK if back < times[0] and video.frame_rate is None]
    for back in [*seeks, None]:
        with opened(video.path) as container:
            stream = picture_stream(container)
            target = None if back is None else video.start + times[0] - back
            frames = _frames(container, stream, target, video.frame_rate)
            first = next(frames, None)
            if first is None and back in (SEEK_BACK[-1], None):
                raise ValueError(f"it breaks off before second {float(times[0]):.0f}")
            # After a seek that landed too late, the next one aims earlier; the last resort is the beginning.
            if back is None or (first is not None and first.pts * first.time_base <= video.start + times[0]):
                shown = _shown_at(first, frames, video, times)
                if any(frame.is_corrupt for frame in shown):
                    raise ValueError(f"the pictures around second {float(times[0]):.0f} are damaged")
                return [_square(upright(frame), size) for frame in shown]
    raise AssertionError("the last round always returns")


def _frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    target: Fraction | None,
    frame_rate: Fraction | None,
) -> Iterator[av.VideoFrame]:
    """Frames in order of presentation: all, or from the key frame that a seek to `target` lands on.

    With `frame_rate`, their time stamps are replaced by their numbers.
    """
    started = target is None
    if target is not None:
        try:
            container.seek(int(target / stream.time_base), stream=stream)
        except av.FFmpegError:
            return
    for number, frame in enumerate(container.decode(stream)):
        started = started or frame.key_frame  # frames that come before it refer to frames that were skipped
        if frame_rate is not None:
            frame.pts, frame.time_base = number, 1 / frame_rate
        if started and frame.pts is not None:
            yield frame


def _shown_at(
    first: av.VideoFrame, following: Iterator[av.VideoFrame], video: VideoFacts, times: list[Fraction]
) -> list[av.VideoFrame]:
    """The frame shown at each of `times`, out of a run of frames."""
    tick = first.time_base
    chosen: list[av.VideoFrame] = []
    shown = first
    for frame in following:
        begins = (frame.pts - Fraction(1, 2)) * tick - video.start  # time stamps are rounded to ticks
        while len(chosen) < len(times) and times[len(chosen)] < begins:
            chosen.append(shown)
        if len(chosen) == len(times):
            return chosen
        shown = frame
    reached = (shown.pts + (shown.duration or 0)) * tick - video.start
    if reached + END_SLACK < video.duration:
        raise ValueError(f"it breaks off at second {float(reached):.1f} of {float(video.duration):.1f}")
    return chosen + [shown] * (len(times) - len(chosen))


def upright(frame: av.VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3], RGB, turned by quarters as its display matrix says."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3] from [H, W, 3], the aspect ratio lost.

    Bilinear between the four nearest pixels, without smoothing, which is how AVSBench frames were made.
    """
    picture = Image.fromarray(image)
    box = (0, 0, picture.width, picture.height)
    return np.asarray(picture.transform((size, size), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR))


def read_sound(video: VideoFacts, start: int, seconds: int) -> np.ndarray:
    """The sound from second `start` on, for `seconds` or to its end: float64 [samples], mono, 16 kHz.

    The channel mean is resampled. Sound that begins later than the pictures is preceded by zeros. Empty if
    there is none. Where a container stamps whole milliseconds, the sound is off by up to one.
    ValueError names a file whose sound cannot be decoded.
    """
    if not video.has_sound:
        return np.zeros(0)
    begin = max(0, start - SOUND_MARGIN)
    end = start + seconds + SOUND_MARGIN
    for seek in (True, False) if begin else (False,):
        with opened(video.path) as container:
            stream = container.streams.best("audio")
            frames = _sound_frames(container, stream, video.start + begin - SOUND_MARGIN if seek else None)
            first = next(frames, None)
            if seek and (first is None or first.pts is None or first.time > video.start + begin):
                continue  # it landed too late, or the sound begins only here: all of it will tell
            if first is None:
                return np.zeros(0)
            waveform = _mono_sound(first, frames, video.start + begin, end - begin)
            sound = resample(waveform, first.sample_rate)
            offset = (start - begin) * SAMPLE_RATE
            return sound[offset : offset + seconds * SAMPLE_RATE]
    raise AssertionError("the last round always returns")


def _sound_frames(
    container: av.container.InputContainer, stream: av.AudioStream, target: Fraction | None
) -> Iterator[av.AudioFrame]:
    """All frames, or those from where a seek to `target` lands; none if the file cannot seek."""
    if target is not None:
        try:
            container.seek(int(target / stream.time_base), stream=stream)
        except av.FFmpegError:
            return
    yield from container.decode(stream)


def _mono_sound(first: av.AudioFrame, following: Iterator[av.AudioFrame], begin: Fraction, seconds: int) -> np.ndarray:
    """The channel mean from `begin` (seconds, stream time) for `seconds` or to its end: float64, own rate."""
    rate = first.sample_rate
    waveform = np.zeros(seconds * rate)
    place = None  # in the waveform, of the next frame
    for frame in itertools.chain([first], following):
        if frame.sample_rate != rate:
            raise ValueError(f"its sound changes from {rate} to {frame.sample_rate} Hz")
        if frame.pts is not None:
            stamped = round((frame.pts * frame.time_base - begin) * rate)
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
    return waveform[: max(0, place)]


def _mono(frame: av.AudioFrame) -> np.ndarray:
    """float64 [samples], the channel mean, integers scaled to -1..1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    scale = {"u1": 1 / 128, "i2": 1 / 32768, "i4": 1 / 2147483648}.get(samples.dtype.str[1:], 1.0)
    offset = 128 if samples.dtype == np.uint8 else 0
    return (samples.astype(np.float64).mean(axis=0) - offset) * scale
