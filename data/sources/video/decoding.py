"""Pictures of a video file by presentation time stamps: at given times, in a span of time, or all in order.

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

# Containers of films only: libav also opens play lists, which name other files and addresses, and even text.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
SEEK_BACK = (1, 5, 25)  # seconds: a seek may land behind its target, for example where the index is coarse
END_SLACK = Fraction(1, 2)  # seconds that a header may overstate the end by


@dataclass(frozen=True)
class VideoFacts:
    """What is known of a video without decoding it."""

    path: Path
    start: Fraction  # seconds: time stamp of the first picture
    duration: Fraction  # seconds from the first picture to the end of the last one
    has_sound: bool
    frame_rate: Fraction | None  # set where frames must be counted, their time stamps being wrong
    size: tuple[int, int]  # (H, W) of its first picture, upright
    pixel_aspect: Fraction  # width of a pixel by its height, upright


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
        size, pixel_aspect = (first.height, first.width), Fraction(stream.sample_aspect_ratio or 1)
        if round(first.rotation / 90) % 2:
            size, pixel_aspect = size[::-1], 1 / pixel_aspect
    end = _last_packet_end(path) if end is None else end
    if end <= start:
        raise ValueError(f"{path}: its pictures last no time")
    return VideoFacts(path, start, end - start, has_sound, frame_rate, size, pixel_aspect)


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
    with _from(video, times[0]) as frames:
        shown = _shown_at(frames, video, times)
        if any(frame.is_corrupt for frame in shown):
            raise ValueError(f"the pictures around second {float(times[0]):.0f} are damaged")
        return [_square(upright(frame), size) for frame in shown]


def read_span(video: VideoFacts, begin: Fraction, end: Fraction, size: int) -> tuple[list[Fraction], list[np.ndarray]]:
    """Every picture whose time stamp lies in begin <= t < end: these times, and uint8 [size, size, 3] as above.

    Times are exact seconds from the first picture. Both lists are empty where one picture lasts longer.
    ValueError names a file whose pictures there are damaged.
    """
    times, pictures = [], []
    with _from(video, begin) as frames:
        for frame in frames:
            time = frame.pts * frame.time_base - video.start
            if time >= end:
                break
            if time >= begin and (not times or time > times[-1]):
                if frame.is_corrupt:
                    raise ValueError(f"the picture at second {float(time):.1f} is damaged")
                times.append(time)
                pictures.append(_square(upright(frame), size))
    return times, pictures


def play(video: VideoFacts) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Every picture that can be decoded, in order, with its time in seconds from the first; damaged ones as they come.

    One frame at a time: memory is that of the decoder.
    """
    last = Fraction(-1)
    with opened(video.path) as container:
        for frame in _frames(container, picture_stream(container), None, video.frame_rate, keep_going=True):
            time = frame.pts * frame.time_base - video.start
            if time > last:
                yield time, frame
                last = time


def readable_seconds(video: VideoFacts) -> Fraction:
    """How much of `duration` is there, found from the packets at the end, undecoded: all of it, but for a cut file."""
    reached = Fraction(0)
    for back in (*SEEK_BACK, None):
        with opened(video.path) as container:
            stream = picture_stream(container)
            if back is not None:
                if back >= video.duration or video.frame_rate is not None:
                    continue
                try:
                    container.seek(int((video.start + video.duration - back) / stream.time_base), stream=stream)
                except av.FFmpegError:
                    continue
            for number, packet in enumerate(_packets(container, stream)):
                if video.frame_rate is not None:
                    reached = (number + 1) / video.frame_rate
                elif packet.pts is not None:
                    end = (packet.pts + (packet.duration or 0)) * stream.time_base - video.start
                    reached = max(reached, end)
        if reached + END_SLACK >= video.duration:
            return video.duration
    return reached


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """All packets with contents; a file that breaks off within one ends there."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.FFmpegError:
        return


@contextmanager
def _from(video: VideoFacts, begin: Fraction) -> Iterator[Iterator[av.VideoFrame]]:
    """Frames in order of presentation, of which the first is shown at `begin` or before."""
    for back in [*(b for b in SEEK_BACK if b < begin and video.frame_rate is None), None]:
        with opened(video.path) as container:
            target = None if back is None else video.start + begin - back
            frames = _frames(container, picture_stream(container), target, video.frame_rate)
            first = next(frames, None)
            if first is None and back in (SEEK_BACK[-1], None):
                raise ValueError(f"it breaks off before second {float(begin):.0f}")
            # After a seek that landed too late, the next one aims earlier; the last resort is the beginning.
            if back is None or (first is not None and first.pts * first.time_base <= video.start + begin):
                yield itertools.chain([first], frames)
                return


def _frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    target: Fraction | None,
    frame_rate: Fraction | None,
    keep_going: bool = False,
) -> Iterator[av.VideoFrame]:
    """Frames in order of presentation: all, or from the key frame that a seek to `target` lands on.

    With `frame_rate`, their time stamps are replaced by their numbers. keep_going: pass over what cannot be decoded.
    """
    started = target is None
    if target is not None:
        try:
            container.seek(int(target / stream.time_base), stream=stream)
        except av.FFmpegError:
            return
    decoded = _decode_what_can_be(container, stream) if keep_going else container.decode(stream)
    for number, frame in enumerate(decoded):
        started = started or frame.key_frame  # frames that come before it refer to frames that were skipped
        if frame_rate is not None:
            frame.pts, frame.time_base = number, 1 / frame_rate
        if started and frame.pts is not None:
            yield frame


def _decode_what_can_be(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.InvalidDataError:
            continue


def _shown_at(frames: Iterator[av.VideoFrame], video: VideoFacts, times: list[Fraction]) -> list[av.VideoFrame]:
    """The frame shown at each of `times`, out of a run of frames."""
    shown = next(frames)
    tick = shown.time_base
    chosen: list[av.VideoFrame] = []
    for frame in frames:
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
