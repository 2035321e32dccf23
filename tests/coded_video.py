"""Videos whose every picture shows its own number, so that a test can tell which one was read."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
HEIGHT, WIDTH = 64, 160


def coded(number: int) -> np.ndarray:
    """uint8 [64, 160, 3]: the bits of the number as two rows of five grey squares, the lowest bit first."""
    bits = np.array([number >> b & 1 for b in range(BITS)], np.uint8).reshape(2, 5)
    return np.repeat(np.kron(bits * 195 + 30, np.ones((32, 32), np.uint8))[..., None], 3, axis=2)


def number_of(image: np.ndarray) -> int:
    """The number that a picture of any size shows, also after lossy coding."""
    height, width = image.shape[:2]
    rows, columns = ((2 * np.arange(n) + 1) * side // (2 * n) for n, side in ((2, height), (5, width)))
    bits = image[np.ix_(rows, columns)].mean(axis=2).reshape(-1) > 127
    return int((bits << np.arange(BITS)).sum())


def tone(seconds: float, rate: int) -> np.ndarray:
    """float32 [2, samples]: two tones that rise, so that every moment sounds different; far below 8 kHz."""
    t = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * (200 + 10 * t) * t), 0.3 * np.sin(2 * np.pi * 333 * t)]).astype(
        np.float32
    )


def make_video(
    path: Path,
    count: int = 300,
    fps: Fraction | int = 25,
    times: list[Fraction] | None = None,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    sound: str | None = "aac",
    sound_rate: int = 44_100,
    sound_seconds: float | None = None,
    sound_start: int = 0,
    rotation: int = 0,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write `count` coded pictures at a constant rate, or at the given times (seconds, ascending)."""
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {"g": "50", "bf": "3"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        tick = Fraction(1, 90_000)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = tick
        sound_stream = container.add_stream(sound, rate=sound_rate, layout="stereo") if sound else None
        packets = []
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(coded(number), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[number] / tick), tick
            packets += stream.encode(frame)
        packets += stream.encode()
        if sound_stream is not None:
            seconds = sound_seconds or float(times[-1] if times is not None else count / Fraction(fps))
            packets += _encoded_sound(sound_stream, tone(seconds, sound_rate), sound_start)
        packets = [p for p in packets if p.dts is not None]
        container.mux(sorted(packets, key=lambda p: p.dts * p.time_base))
    return path


def _encoded_sound(stream: av.AudioStream, samples: np.ndarray, start: int) -> list[av.Packet]:
    if stream.name.startswith("pcm"):
        whole = np.round(samples.T * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(whole.reshape(1, -1).copy(), format="s16", layout="stereo")
    else:
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = stream.rate, start, Fraction(1, stream.rate)
    return [*stream.encode(frame), *stream.encode()]


def remux(source: Path, target: Path, options: dict[str, str]) -> Path:
    """The same packets in another container."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        streams = {s.index: new.add_stream_from_template(s) for s in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target
