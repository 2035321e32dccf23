"""A video written again with other pictures: same times, same sound."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Colorspace

from .decoding import VideoFacts, opened
from .writer import VIDEO_CODECS

TICK = Fraction(1, 60_000)  # seconds; MPEG-4 takes none finer. 24, 25, 30, 30000/1001 ... per second are whole numbers
COPIED_SOUND = ("aac", "mp3", "ac3", "eac3", "alac", "opus")  # codecs that players expect in mp4
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # of AAC, by channels
MAX_SOUND_RATE = 48_000  # Hz, of sound that must be encoded anew at a rate that AAC has not
BT709 = 1  # the number of colour space, primaries and transfer function alike


def remake_video(path: Path, video: VideoFacts, pictures: Iterable[tuple[Fraction, np.ndarray]]) -> None:
    """Write an mp4 with the sound of `video`, and with pictures of our own at times of theirs.

    pictures: (seconds from the first picture of `video`, ascending; uint8 [H, W, 3], RGB, all of one size), taken
    one at a time. H.264, MPEG-4 where that is missing. An odd side is made even by repeating its last row or column.
    Sound is copied, or encoded as AAC with its own rate and channels where mp4 players do not expect its codec. It is
    read as it is needed, never as a whole.
    ValueError if there are no pictures, or if a file cannot be read or written.
    """
    timed = _with_durations(pictures, video.duration)
    first = next(timed, None)
    if first is None:
        raise ValueError(f"{video.path}: no picture in it can be decoded")
    try:
        with ExitStack() as held, av.open(str(path.absolute()), "w", format="mp4") as container:
            stream = _picture_target(container, video, first[1].shape)
            sound: Iterator[av.Packet] = iter(())
            if video.has_sound:
                sound = _sound_packets(container, held.enter_context(opened(video.path)), video.start)
            waiting = next(sound, None)
            durations: dict[int, int] = {}
            for time, image, duration in itertools.chain([first], timed):
                frame = _frame(image, round(time / TICK))
                durations[frame.pts] = max(1, round(duration / TICK))
                for packet in stream.encode(frame):
                    packet.duration = durations.pop(packet.pts, packet.duration)
                    container.mux(packet)
                while waiting is not None and waiting.dts * waiting.time_base <= time:
                    container.mux(waiting)
                    waiting = next(sound, None)
            for packet in stream.encode():
                packet.duration = durations.pop(packet.pts, packet.duration)
                container.mux(packet)
            while waiting is not None:
                container.mux(waiting)
                waiting = next(sound, None)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from error


def _with_durations(
    pictures: Iterable[tuple[Fraction, np.ndarray]], end: Fraction
) -> Iterator[tuple[Fraction, np.ndarray, Fraction]]:
    """Each with the seconds to the next one; the last with those to the end."""
    before = None
    for time, image in pictures:
        if before is not None:
            yield *before, time - before[0]
        before = time, image
    if before is not None:
        yield *before, max(end - before[0], TICK)


def _picture_target(
    container: av.container.OutputContainer, video: VideoFacts, shape: tuple[int, ...]
) -> av.VideoStream:
    codec = next(name for name in VIDEO_CODECS if name in av.codecs_available)
    # Painted pictures are for looking at: the quick preset is 4 times faster than the default, for slightly more bytes.
    options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
    stream = container.add_stream(codec, rate=30, options=options)
    stream.height, stream.width = (side + side % 2 for side in shape[:2])
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = TICK
    context = stream.codec_context
    context.sample_aspect_ratio = video.pixel_aspect
    context.colorspace = context.color_primaries = context.color_trc = BT709
    if codec == "mpeg4":
        stream.bit_rate = stream.height * stream.width * 30  # 1 bit per pixel: good quality
    return stream


def _frame(image: np.ndarray, pts: int) -> av.VideoFrame:
    even = image
    if image.shape[0] % 2 or image.shape[1] % 2:
        even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(even, format="rgb24")
    frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
    frame.pts, frame.time_base = pts, TICK
    return frame


def _sound_packets(
    container: av.container.OutputContainer, source: av.container.InputContainer, start: Fraction
) -> Iterator[av.Packet]:
    """The sound of `source`, ready to be muxed, with times counted from `start`. Adds its stream to `container`."""
    stream = source.streams.best("audio")
    shift = round(start / stream.time_base)
    if stream.codec_context is not None and stream.codec_context.codec.canonical_name in COPIED_SOUND:
        return _copied(source, stream, container.add_stream_from_template(stream), shift)
    encoder = av.codec.Codec("aac", "w")
    rate = stream.rate if stream.rate in encoder.audio_rates else MAX_SOUND_RATE
    layout = LAYOUTS.get(stream.channels, "stereo")
    return _encoded(source, stream, container.add_stream("aac", rate=rate, layout=layout), shift)


def _copied(
    source: av.container.InputContainer, stream: av.AudioStream, target: av.AudioStream, shift: int
) -> Iterator[av.Packet]:
    for packet in _readable(source, stream):
        if packet.dts is not None:
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = target
            yield packet


def _encoded(
    source: av.container.InputContainer, stream: av.AudioStream, target: av.AudioStream, shift: int
) -> Iterator[av.Packet]:
    for packet in _readable(source, stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            continue  # a gap in the sound, as in every player
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= shift
            yield from target.encode(frame)
    yield from target.encode()


def _readable(source: av.container.InputContainer, stream: av.AudioStream) -> Iterator[av.Packet]:
    """All packets; those of a file that breaks off, up to there."""
    try:
        yield from source.demux(stream)
    except av.FFmpegError:
        return
