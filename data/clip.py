"""What a clip is, and what every source of clips returns.

Letters used in shapes throughout the package: T frames of one clip (one per second), H W pixels, N clips, F frames
of a whole store.
"""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

SAMPLE_RATE = 16_000  # Hz; waveforms are mono
LOG_MEL_SHAPE = (96, 64)  # 96 steps of 10 ms, 64 mel bands: one 0.96 s example (COMBO, section 3.1)
CLIP_LENGTHS = (5, 10)  # frames; AVSBench has no others, and the store's chunks of 5 frames rely on it
SPLITS = ("train", "val", "test")
FRAME_OFFSET = 15 / 16  # seconds into its second at which a frame is taken, as in AVSBench: the last of 16 slots

ShortAudio = Literal["repeat_last", "zero_log_mel", "silence"]  # what stands in for missing seconds of sound


@dataclass(frozen=True)
class Clip:
    """One row of the clip table. All sequences have length T, the number of frames of this clip."""

    id: str  # unique within a store
    subset: str  # s4, ms3, v1s, v1m, v2 or video
    split: str  # train, val or test; videos are all "test"
    objects: tuple[str, ...]  # category (S4) or object names; empty where unknown
    frame_times: tuple[float, ...]  # seconds from the start of the clip
    frame_valid: tuple[bool, ...]  # False: filled up behind the end of a video, to be ignored
    frame_annotated: tuple[bool, ...]  # True: the frame has a ground-truth label map
    source: str  # the video that the clip was cut from

    def __post_init__(self) -> None:
        n = len(self.frame_times)
        if n not in CLIP_LENGTHS:
            raise ValueError(f"clip {self.id!r} has {n} frames; clips have {CLIP_LENGTHS}")
        if len(self.frame_valid) != n or len(self.frame_annotated) != n:
            raise ValueError(f"clip {self.id!r}: frame flags and frame times differ in length")

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.frame_times)


@dataclass(frozen=True)
class ClipArrays:
    """The arrays of one clip.

    frames: uint8 [T, H, W, 3], RGB.
    labels: uint8 [T, H, W]: class index, 0 is background; `IGNORE_LABEL` on frames that are not annotated.
    waveform: float64 [samples], mono, 16 kHz, in -1..1; any length, also empty.
    log_mel: float32 [T, 96, 64] where the source brings its own; None: it is computed from the waveform.
    """

    frames: np.ndarray
    labels: np.ndarray
    waveform: np.ndarray
    log_mel: np.ndarray | None = None


class ClipSource(Protocol):
    """A data set: AVSBench folders, video files, or the synthetic set.

    Making one checks everything that can be known without decoding pixels, and raises `BadInput` that lists
    every problem. `ClipSourceContract` in tests/contracts.py holds an implementation to this.
    """

    @property
    def name(self) -> str:
        """For example "avsbench-s4"."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label value; classes[0] is "background"."""
        ...

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every frame."""
        ...

    @property
    def clips(self) -> tuple[Clip, ...]: ...

    @property
    def short_audio(self) -> ShortAudio: ...

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON values: everything else that changes the arrays; part of the store's fingerprint."""
        ...

    def read(self, clip: Clip) -> ClipArrays:
        """The arrays of one of `clips`; called from several threads at once. Raises `ClipError` if it is unreadable."""
        ...
