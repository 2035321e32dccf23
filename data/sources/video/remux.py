"""Re-encode a video with replaced frames; keep its audio and its timestamps."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av import AudioStream, VideoStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet
from av.video.reformatter import Colorspace

from .decoding import VideoFacts, open_video, packets, sound_stream, tick_of
from .writer import add_video_stream, even_frame

TICK = Fraction(1, 60_000)  # seconds; MPEG-4 takes none finer. 24, 25, 30, 30000/1001 ... per second are whole numbers
COPIED_SOUND = ("aac", "mp3", "ac3", "eac3", "alac", "opus")  # codecs that players expect in mp4
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # of AAC, by channels
MAX_SOUND_RATE = 48_000  # Hz, of sound that must be encoded anew at a rate that AAC has not
BT709 = 1  # the number of colour space, primaries and transfer function alike


def replace_frames(path: Path, video: VideoFacts, frames: Iterable[tuple[Fraction, np.ndarray]]) -> None:
    """Write an mp4 with the audio of `video` and other frames at its timestamps.

    frames: (seconds from the first frame of `video`, ascending; uint8 [H, W, 3], RGB, all of one size), taken one at
    a time and encoded as in `write_video`. Audio is copied, or encoded as AAC with its own rate and channels where mp4
    players do not expect its codec; it is read as it is needed, never as a whole.
    Raises ValueError if there are no frames, or if a file cannot be read or written.
    """
    timed = _with_durations(frames, video.duration)
    first = next(timed, None)
    if first is None:
        raise ValueError(f"{video.path}: no frame of it can be decoded")
    try:
        with ExitStack() as stack, av.open(str(path.absolute()), "w", format="mp4") as container:
            stream = _video_target(container, video, first[1].shape)
            sound: Iterator[Packet] = iter(())
            if video.has_sound:
                sound = _sound_packets(container, stack.enter_context(open_video(video.path)), video.start)
            waiting = next(sound, None)
            durations: dict[int | None, int] = {}

            def write(packets: Iterable[Packet], until: Fraction | None) -> None:
                """Encoded frames, and the sound up to a time: side by side, so that neither piles up."""
                nonlocal waiting
                for packet in packets:
                    packet.duration = durations.pop(packet.pts, packet.duration)
                    container.mux(packet)
                while waiting is not None and (until is None or (waiting.dts or 0) * tick_of(waiting) <= until):
                    container.mux(waiting)
                    waiting = next(sound, None)

            for time, image, duration in itertools.chain([first], timed):
                frame = even_frame(image).reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
                frame.pts, frame.time_base = round(time / TICK), TICK
                durations[frame.pts] = max(1, round(duration / TICK))
                write(stream.encode(frame), time)
            write(stream.encode(), None)
    except FFmpegError as error:
        raise ValueError(f"{path}: cannot be written ({error.strerror})") from error


def _with_durations(
    frames: Iterable[tuple[Fraction, np.ndarray]], end: Fraction
) -> Iterator[tuple[Fraction, np.ndarray, Fraction]]:
    """Each with the seconds to the next one; the last with those to the end."""
    before = None
    for time, image in frames:
        if before is not None:
            yield *before, time - before[0]
        before = time, image
    if before is not None:
        yield *before, max(end - before[0], TICK)


def _video_target(container: OutputContainer, video: VideoFacts, shape: tuple[int, ...]) -> VideoStream:
    # Overlays are for looking at: the quick preset is 4 times faster than the default, for slightly more bytes.
    stream = add_video_stream(container, shape, Fraction(30), crf="20", preset="veryfast")
    stream.time_base = stream.codec_context.time_base = TICK
    context = stream.codec_context
    context.sample_aspect_ratio = video.pixel_aspect
    context.colorspace = context.color_primaries = context.color_trc = BT709
    return stream


def _sound_packets(container: OutputContainer, source: InputContainer, start: Fraction) -> Iterator[Packet]:
    """The sound of `source`, ready to be muxed, with times counted from `start`. Adds its stream to `container`."""
    stream = sound_stream(source)
    if stream is None:
        return iter(())
    shift = round(start / tick_of(stream))
    if stream.codec_context is not None and stream.codec_context.codec.canonical_name in COPIED_SOUND:
        return _copied(source, stream, container.add_stream_from_template(stream), shift)
    encoder = av.Codec("aac", "w")
    rate = stream.rate if stream.rate in (encoder.audio_rates or ()) else MAX_SOUND_RATE
    layout = LAYOUTS.get(stream.channels, "stereo")
    return _encoded(source, stream, container.add_stream("aac", rate=rate, layout=layout), shift)


def _copied(source: InputContainer, stream: AudioStream, target: AudioStream, shift: int) -> Iterator[Packet]:
    for packet in packets(source, stream):
        if packet.dts is not None:
            packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = target
            yield packet


def _encoded(source: InputContainer, stream: AudioStream, target: AudioStream, shift: int) -> Iterator[Packet]:
    for packet in packets(source, stream):
        try:
            frames = packet.decode()
        except InvalidDataError:
            continue  # a gap in the sound, as in every player
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= shift
            yield from target.encode(frame)
    yield from target.encode()
