"""Frames of a video file by presentation time stamps: at given times, in a span of time, or all in order.

Time 0 is the first frame. Every call opens the file anew, seeks, and decodes only around the times asked for, so memory
does not grow with the length, and threads share nothing.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av import AudioStream, VideoFrame, VideoStream
from av.container import InputContainer
from av.error import ArgumentError, FFmpegError, InvalidDataError
from av.frame import Frame
from av.packet import Packet
from av.stream import Disposition, Stream
from PIL import Image

# Containers of videos only: libav also opens playlists, which name other files and URLs, and even text.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
SEEK_BACK = (1, 5, 25)  # seconds: a seek may land behind its target, for example where the index is coarse
END_SLACK = Fraction(1, 2)  # seconds that a header may overstate the end by


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video without decoding more than its first frame."""

    path: Path
    start: Fraction  # seconds: time stamp of the first frame
    duration: Fraction  # seconds from the first frame to the end of the last one
    has_sound: bool
    frame_rate: Fraction | None  # set where frames must be counted because their time stamps are wrong
    size: tuple[int, int]  # (H, W) of its first frame, upright
    pixel_aspect: Fraction  # width of a pixel by its height, upright


class TimedFrame(NamedTuple):
    """A decoded frame. time: its time stamp in seconds, by the clock of its stream; tick: seconds per unit of it."""

    time: Fraction
    tick: Fraction
    frame: VideoFrame


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """The container. An error inside the block becomes a ValueError that names the file."""
    try:
        # The absolute path keeps a file name from being read as a URL or an option.
        options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
        with av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
            yield container
    except ArgumentError as error:
        raise ValueError(f"{path}: not in a container that is read here ({FORMATS})") from error
    except (FFmpegError, OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, FFmpegError) else error
        raise ValueError(f"{path}: {reason}") from error


def inspect(path: Path) -> VideoFacts:
    """Start, length, size and sound of a video, decoding its first frame only.

    Where the header lacks the length (live recordings, Matroska), all packets are read once, undecoded.
    Raises ValueError that names a file that is no video or has no frames.
    """
    with open_video(path) as container:
        stream = video_stream(container)
        # AVI stamps frames in the order of decoding: those that refer to later ones come out misplaced.
        counted = container.format.name == "avi" and stream.codec_context.has_b_frames
        frame_rate = stream.average_rate if counted else None
        first = next(_frames(container, stream, None, frame_rate), None)
        if first is None:
            raise ValueError("no frame of it can be decoded")
        end = ((stream.start_time or 0) + stream.duration) * tick_of(stream) if stream.duration else None
        has_sound = sound_stream(container) is not None
        size, pixel_aspect = (first.frame.height, first.frame.width), Fraction(stream.sample_aspect_ratio or 1)
        if round(first.frame.rotation / 90) % 2:
            size, pixel_aspect = (first.frame.width, first.frame.height), 1 / pixel_aspect
    end = _last_packet_end(path) if end is None else end
    if end <= first.time:
        raise ValueError(f"{path}: its frames last no time")
    return VideoFacts(path, first.time, end - first.time, has_sound, frame_rate, size, pixel_aspect)


def video_stream(container: InputContainer) -> VideoStream:
    """The video stream that players show, ready to be decoded. Raises ValueError if there is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:  # cover art of music
        raise ValueError("it has no video stream")
    if stream.codec_context is None:
        raise ValueError("its video codec is unknown")
    stream.thread_type = "AUTO"
    return stream


def sound_stream(container: InputContainer) -> AudioStream | None:
    """The audio stream that players play, if there is one."""
    stream = container.streams.best("audio")
    return stream if isinstance(stream, AudioStream) else None


def tick_of(timed: Stream | Frame | Packet) -> Fraction:
    """Seconds per unit of its time stamps. Raises ValueError if it has none."""
    if timed.time_base is None:
        raise ValueError("its time stamps have no unit")
    return timed.time_base


def seek(container: InputContainer, stream: Stream, time: Fraction) -> bool:
    """Go to the key frame at `time` or before it, seconds by the stream's clock. False if the file cannot seek."""
    with suppress(FFmpegError):
        container.seek(int(time / tick_of(stream)), stream=stream)
        return True
    return False


def _last_packet_end(path: Path) -> Fraction:
    """Seconds: where the last frame ends, or where the file should end if packets are missing."""
    ends = {"video": Fraction(0), "audio": Fraction(0)}
    with open_video(path) as container:
        streams = [s for s in (video_stream(container), sound_stream(container)) if s is not None]
        declared = Fraction((container.start_time or 0) + (container.duration or 0), av.time_base)
        for packet in container.demux(streams):
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * tick_of(packet)
                ends[packet.stream.type] = max(ends[packet.stream.type], end)
    return declared if max(ends.values()) + 2 * END_SLACK < declared else ends["video"]


def read_frames(video: VideoFacts, times: list[Fraction], size: int) -> list[np.ndarray]:
    """The frame shown at each of `times`, seconds from the first frame, ascending: uint8 [size, size, 3].

    A frame is shown from its own time stamp to the next one's; the last one stays. RGB, turned upright.
    Raises ValueError that names a file that breaks off before its declared end, or whose frame is damaged.
    """
    with _from(video, times[0]) as frames:
        shown = _shown_at(frames, video, times)
        if any(frame.is_corrupt for frame in shown):
            raise ValueError(f"the frames around second {float(times[0]):.0f} are damaged")
        return [_square(upright(frame), size) for frame in shown]


def read_span(video: VideoFacts, begin: Fraction, end: Fraction, size: int) -> tuple[list[Fraction], list[np.ndarray]]:
    """Every frame whose time stamp lies in begin <= t < end: these times, and uint8 [size, size, 3] as above.

    Times are exact seconds from the first frame. Both lists are empty where one frame lasts longer.
    Raises ValueError that names a file whose frames there are damaged.
    """
    times: list[Fraction] = []
    pictures: list[np.ndarray] = []
    with _from(video, begin) as frames:
        for stamp, _, frame in frames:
            time = stamp - video.start
            if time >= end:
                break
            if time >= begin and (not times or time > times[-1]):
                if frame.is_corrupt:
                    raise ValueError(f"the frame at second {float(time):.1f} is damaged")
                times.append(time)
                pictures.append(_square(upright(frame), size))
    return times, pictures


def play(video: VideoFacts) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Every frame that can be decoded, one at a time, with its seconds from the first; damaged ones as they come."""
    last = Fraction(-1)
    with open_video(video.path) as container:
        for stamp, _, frame in _frames(container, video_stream(container), None, video.frame_rate, keep_going=True):
            time = stamp - video.start
            if time > last:
                yield time, frame
                last = time


def readable_seconds(video: VideoFacts) -> Fraction:
    """How much of `duration` is there, from the last packets, undecoded: all of it unless the file is cut short."""
    reached = Fraction(0)
    for back in (*SEEK_BACK, None):
        with open_video(video.path) as container:
            stream = video_stream(container)
            if back is not None:
                unseekable = back >= video.duration or video.frame_rate is not None
                if unseekable or not seek(container, stream, video.start + video.duration - back):
                    continue
            for number, packet in enumerate(p for p in packets(container, stream) if p.size):
                if video.frame_rate is not None:
                    reached = (number + 1) / video.frame_rate
                elif packet.pts is not None:
                    end = (packet.pts + (packet.duration or 0)) * tick_of(stream) - video.start
                    reached = max(reached, end)
        if reached + END_SLACK >= video.duration:
            return video.duration
    return reached


def packets(container: InputContainer, stream: Stream) -> Iterator[Packet]:
    """All packets of a stream, the last one empty, to flush a decoder; a file that breaks off ends there."""
    with suppress(FFmpegError):
        yield from container.demux(stream)


@contextmanager
def _from(video: VideoFacts, begin: Fraction) -> Iterator[Iterator[TimedFrame]]:
    """Frames in order of presentation, of which the first is shown at `begin` or before."""
    for back in [*(b for b in SEEK_BACK if b < begin and video.frame_rate is None), None]:
        with open_video(video.path) as container:
            target = None if back is None else video.start + begin - back
            frames = _frames(container, video_stream(container), target, video.frame_rate)
            first = next(frames, None)
            if first is None and back in (SEEK_BACK[-1], None):
                raise ValueError(f"it breaks off before second {float(begin):.0f}")
            # After a seek that landed too late, the next one aims earlier; the last resort is the beginning.
            if first is not None and (back is None or first.time <= video.start + begin):
                yield itertools.chain([first], frames)
                return


def _frames(
    container: InputContainer,
    stream: VideoStream,
    target: Fraction | None,
    frame_rate: Fraction | None,
    *,
    keep_going: bool = False,
) -> Iterator[TimedFrame]:
    """Frames in order of presentation: all, or from the key frame that a seek to `target` lands on.

    With `frame_rate`, their numbers stand in for their time stamps. keep_going: skip what cannot be decoded.
    """
    started = target is None
    if target is not None and not seek(container, stream, target):
        return
    decoded = _decode_what_can_be(container, stream) if keep_going else container.decode(stream)
    for number, frame in enumerate(decoded):
        started = started or frame.key_frame  # frames that come before it refer to frames that were skipped
        if frame_rate is not None:
            frame.pts, frame.time_base = number, 1 / frame_rate
        if started and frame.pts is not None:
            tick = tick_of(frame)
            yield TimedFrame(frame.pts * tick, tick, frame)


def _decode_what_can_be(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    coded = container.demux(stream)
    while True:
        with suppress(InvalidDataError):
            packet = next(coded, None)
            if packet is None:
                return
            yield from packet.decode()


def _shown_at(frames: Iterator[TimedFrame], video: VideoFacts, times: list[Fraction]) -> list[VideoFrame]:
    """The frame shown at each of `times`, out of a run of frames."""
    last, tick, shown = next(frames)
    chosen: list[VideoFrame] = []
    for time, _, frame in frames:
        begins = time - tick / 2 - video.start  # time stamps are rounded to ticks
        while len(chosen) < len(times) and times[len(chosen)] < begins:
            chosen.append(shown)
        if len(chosen) == len(times):
            return chosen
        shown, last = frame, time
    reached = last + (shown.duration or 0) * tick - video.start
    if reached + END_SLACK < video.duration:
        raise ValueError(f"it breaks off at second {float(reached):.1f} of {float(video.duration):.1f}")
    return chosen + [shown] * (len(times) - len(chosen))


def upright(frame: VideoFrame) -> np.ndarray:
    """uint8 [H, W, 3], RGB, turned by quarters as its display matrix says."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)))


def _square(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [size, size, 3] from [H, W, 3], the aspect ratio lost.

    Bilinear between the four nearest pixels, without smoothing, which is how AVSBench frames were made.
    """
    picture = Image.fromarray(image)
    box = (0, 0, picture.width, picture.height)
    return np.asarray(picture.transform((size, size), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR))
