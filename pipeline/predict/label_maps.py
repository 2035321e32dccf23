"""The label maps of one video: computed window by window, stored in a file each, read back as a stream.

Stage one is streamed instead of cached: a video is segmented once, and its frames, proposals and features would take
200 KB per frame on disk. Only the label maps are stored, so that an interrupted run resumes where it stopped.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...data.audio import fit_seconds, log_mel_examples, waveform_seconds
from ...data.dataset import prefetch
from ...data.sources.video.decoding import VideoFacts, read_frames, read_span
from ...data.sources.video.sound import read_sound
from ...data.sources.video.source import INSTANT, whole_seconds
from ...files import write_atomic
from .segmenter import Segmenter

WINDOW_SECONDS = 5  # the length of stage one's clips, whose log-mels start with the clip, and of a pass of the network


@dataclass(frozen=True)
class Window:
    """Input of one window of T = 5 seconds: n pictures, and the sound. `times` count from the first picture."""

    times: list[Fraction]
    frames: np.ndarray  # uint8 [n, H, W, 3], RGB
    seconds: np.ndarray  # int64 [n], 0..T-1: the second whose sound goes with each picture
    log_mel: np.ndarray  # float32 [T, 96, 64]
    waveform: np.ndarray  # int16 [T, 16000]
    heard: np.ndarray  # bool [T]: False where the video has no sound, so that silence stands in


def read_window(video: VideoFacts, number: int, size: int, *, every_frame: bool) -> Window | None:
    """Read window `number` of a video: pictures at 15/16 s of each second, or all of them, and 5 seconds of sound.

    Returns None where no picture begins. Raises `ValueError` that names the file where it is damaged.
    """
    begin = number * WINDOW_SECONDS
    if every_frame:
        last = begin + WINDOW_SECONDS >= video.duration  # time stamps may lie a little past the declared end
        end = video.duration + 1 if last else Fraction(begin + WINDOW_SECONDS)
        times, pictures = read_span(video, Fraction(begin), end, size)
        if not times:
            return None
    else:
        seconds = min(WINDOW_SECONDS, whole_seconds(video) - begin)
        times = [begin + k + INSTANT for k in range(seconds)]
        pictures = read_frames(video, times, size)
    waveform = read_sound(video, begin, WINDOW_SECONDS)
    log_mel, heard = fit_seconds(log_mel_examples(waveform), WINDOW_SECONDS, "silence")
    of_second = np.array([min(int(time) - begin, WINDOW_SECONDS - 1) for time in times])
    return Window(times, np.stack(pictures), of_second, log_mel, waveform_seconds(waveform, WINDOW_SECONDS), heard)


@dataclass(frozen=True)
class LabelMaps:
    """The label maps of one video, [H, W] = [size, size], in a folder with one file per window."""

    folder: Path
    video: VideoFacts
    every_frame: bool
    size: int

    @property
    def windows(self) -> int:
        seconds = self.video.duration if self.every_frame else whole_seconds(self.video)
        return max(1, -(-seconds // WINDOW_SECONDS))

    def missing(self) -> list[int]:
        return [n for n in range(self.windows) if not self._path(n).exists()]

    def write(self, number: int, window: Window | None, labels: np.ndarray) -> None:
        """labels: uint8 [n, H, W] of the window's pictures. None: a window without pictures."""
        content = io.BytesIO()
        times = np.array(window.times if window else [], np.float64)
        heard = window.heard if window else np.ones(WINDOW_SECONDS, bool)
        np.savez_compressed(content, times=times, labels=labels, heard=heard)
        write_atomic(self._path(number), content.getvalue())

    def read(self) -> Iterator[tuple[float, np.ndarray]]:
        """(seconds, uint8 [H, W]) in order, all background where a window is missing. Keeps one window in memory."""
        background = np.zeros((self.size, self.size), np.uint8)
        for number in range(self.windows):
            if self._path(number).exists():
                with np.load(self._path(number)) as part:
                    yield from zip(part["times"].tolist(), part["labels"], strict=True)
            else:
                for k in range(max(1, self._seconds_in(number))):
                    second = number * WINDOW_SECONDS + k
                    yield float(second if self.every_frame else second + INSTANT), background

    def silent_seconds(self) -> int:
        """How many seconds have no sound in the video, so that the network was given features of silence."""
        count = 0
        for number in set(range(self.windows)).difference(self.missing()):
            with np.load(self._path(number)) as part:
                count += int((~part["heard"][: self._seconds_in(number)]).sum())
        return count

    def _seconds_in(self, number: int) -> int:
        """Whole seconds of the video in a window."""
        return min(WINDOW_SECONDS, max(0, whole_seconds(self.video) - number * WINDOW_SECONDS))

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def segment_video(segmenter: Segmenter, maps: LabelMaps, advance: Callable[[], Any]) -> dict[str, str]:
    """Compute the missing label maps of a video. Returns the reason for each window that failed, by its seconds.

    advance: called after each window. Raises `ComboError` when the device runs out of memory.
    """
    todo = maps.missing()

    def read(step: int) -> Window | str | None:
        try:
            return read_window(maps.video, todo[step], segmenter.size, every_frame=maps.every_frame)
        except ValueError as error:
            return str(error)

    problems: dict[str, str] = {}
    with closing(prefetch(read, range(len(todo)), depth=1)) as ahead:
        for number, window in zip(todo, ahead, strict=True):
            begin = number * WINDOW_SECONDS
            where = f"{begin} to {begin + WINDOW_SECONDS} s"
            if isinstance(window, str):
                problems[where] = window
            else:
                try:
                    maps.write(number, window, _labels(segmenter, window))
                except (ValueError, RuntimeError) as error:  # an error in one window must not cost the others
                    problems[where] = f"{type(error).__name__}: {error}"
            advance()
    return problems


def _labels(segmenter: Segmenter, window: Window | None) -> np.ndarray:
    if window is None:
        return np.zeros((0, segmenter.size, segmenter.size), np.uint8)
    return segmenter(window.frames, window.seconds, window.log_mel, window.waveform).numpy()
