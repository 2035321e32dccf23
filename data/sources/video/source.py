"""Video files as a source of clips, for prediction on one's own material."""

import hashlib
import itertools
import re
import warnings
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from ....base import IGNORE_LABEL
from ....errors import BadInput, ClipError
from ...clip import CLIP_LENGTHS, FRAME_OFFSET, Clip, ClipArrays, ShortAudio
from .decoding import VideoFacts, inspect, read_frames
from .sound import read_sound

READER_VERSION = 2  # raised when a change of this reader changes an array
INSTANT = Fraction(FRAME_OFFSET)  # exact
NAME_BYTES = 80
SAMPLED_BYTES = 1 << 20  # at the beginning, the middle and the end of a file


class VideoSource:
    """A `ClipSource` of video files (mp4, mkv, webm, avi, ...), cut into clips of 5 or 10 seconds, without labels.

    The frame of second k is the picture shown at k + 15/16 s by its presentation time stamp: for whole frame rates the
    very frame that the published preprocessing takes, which for others drifts away from the sound. Each frame is turned
    upright and squashed to `size` x `size`. A second counts if half of it is there; a last clip that is not full
    repeats its last frame, marked as not valid. A video without sound causes a warning and has an empty waveform.
    """

    name = "videos"
    classes: tuple[str, ...] = ("background", "sounding")
    short_audio: ShortAudio = "silence"

    def __init__(self, paths: Iterable[Path], clip_seconds: int = 5, size: int = 224) -> None:
        """Decodes first frames only. Raises `BadInput` that lists every file that is missing or no video."""
        if clip_seconds not in CLIP_LENGTHS:
            raise BadInput(f"clips of {clip_seconds} seconds cannot be made; choose one of {CLIP_LENGTHS}")
        if size < 1:
            raise BadInput(f"frames of {size} pixels cannot be made")
        self.size = (size, size)
        self.videos = inspect_videos(paths)
        if silent := [str(video.path) for video in self.videos.values() if not video.has_sound]:
            warnings.warn(f"no sound track, silence is assumed: {', '.join(silent)}", stacklevel=2)
        self._begins: dict[str, int] = {}  # by clip id: seconds from the start of the video
        clips = []
        for name, video in self.videos.items():
            for number, begin in enumerate(range(0, whole_seconds(video), clip_seconds)):
                clip = _clip(f"{name}_{number:05d}", name, whole_seconds(video) - begin, clip_seconds)
                self._begins[clip.id] = begin
                clips.append(clip)
        self.clips = tuple(clips)
        self.parameters = {
            "reader": READER_VERSION,
            "clip_seconds": clip_seconds,
            "size": size,
            "videos": {name: file_identity(video.path) for name, video in self.videos.items()},
        }

    def read(self, clip: Clip) -> ClipArrays:
        """Decode one clip. ClipError names the clip and the file, where that is damaged or breaks off."""
        if clip.id not in self._begins:
            raise ClipError(f"clip {clip.id!r} is not one of these videos")
        video, begin = self.videos[clip.source], self._begins[clip.id]
        times = [begin + k + INSTANT for k in range(sum(clip.frame_valid))]
        try:
            frames = read_frames(video, times, self.size[0])
            waveform = read_sound(video, begin, clip.num_frames)
        except ValueError as error:
            raise ClipError(f"clip {clip.id!r}: {error}") from error
        frames += [frames[-1]] * (clip.num_frames - len(frames))
        labels = np.full((clip.num_frames, *self.size), IGNORE_LABEL, np.uint8)
        return ClipArrays(np.stack(frames), labels, waveform)


def inspect_videos(paths: Iterable[Path]) -> dict[str, VideoFacts]:
    """Facts by a plain name, made of the file's own, that is unique also where file names ignore case.

    Raises `BadInput` that lists every file that is missing, no video, or without frames. Decodes first frames only.
    """
    videos: dict[str, VideoFacts] = {}
    paths = [Path(path) for path in paths]
    problems = [] if paths else ["no video file was named"]
    for path in paths:
        if not path.is_file():
            problems.append(f"{path} is no file")
            continue
        try:
            videos[_free_name(path.stem, {name.casefold() for name in videos})] = inspect(path)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise BadInput.listing("these videos cannot be used:", problems)
    return videos


def file_identity(path: Path) -> list[int | str]:
    """Size and a hash of some of the contents: what is made of one video must not be taken for that of another."""
    size = path.stat().st_size
    sampled = hashlib.sha256()
    with path.open("rb") as file:
        for place in (0, size // 2, max(0, size - SAMPLED_BYTES)):
            file.seek(place)
            sampled.update(file.read(SAMPLED_BYTES))
    return [size, sampled.hexdigest()]


def _free_name(stem: str, taken: set[str]) -> str:
    """A plain name made of a file's stem: letters, digits, dashes and underscores."""
    plain = re.sub(r"[^\w-]+", "_", stem).encode()[:NAME_BYTES].decode(errors="ignore") or "video"
    names = itertools.chain([plain], (f"{plain}-{number}" for number in itertools.count(2)))
    return next(name for name in names if name.casefold() not in taken)


def whole_seconds(video: VideoFacts) -> int:
    """Seconds that have a frame: a last one counts if half of it is there, and takes the last picture."""
    return max(1, int(video.duration + Fraction(1, 2)))


def _clip(id_: str, source: str, seconds_left: int, clip_seconds: int) -> Clip:
    return Clip(
        id=id_,
        subset="video",
        split="test",
        objects=(),
        frame_times=tuple(float(k + INSTANT) for k in range(clip_seconds)),
        frame_valid=tuple(k < seconds_left for k in range(clip_seconds)),
        frame_annotated=(False,) * clip_seconds,
        source=source,
    )
