"""Small stand-ins that behave like the real things: a clip source of noise with known arrays."""

import numpy as np

from combo_avs.data.clip import Clip, ClipArrays
from combo_avs.errors import ClipError


class NoiseSource:
    """Clips of random pixels and sound, half of them 10 frames long; `broken` names clips that cannot be read."""

    classes = ("background", "sounding")
    short_audio = "silence"

    def __init__(self, clips: int = 6, size: int = 16, seed: int = 0, broken: tuple[str, ...] = ()) -> None:
        self.name = "noise"
        self.size = (size, size)
        self.parameters = {"seed": seed}
        self.broken = broken
        self.seed = seed
        self.reads: list[str] = []
        self.clips = tuple(self._clip(i) for i in range(clips))

    def _clip(self, index: int) -> Clip:
        length = 10 if index % 2 else 5
        return Clip(
            id=f"clip-{index}",
            subset="ms3",
            split=("train", "val", "test")[index % 3],
            objects=("dog",),
            frame_times=tuple(k + 15 / 16 for k in range(length)),
            frame_valid=(True,) * length,
            frame_annotated=(True,) * (length - 1) + (False,),
            source=f"video-{index}",
        )

    def read(self, clip: Clip) -> ClipArrays:
        self.reads.append(clip.id)
        if clip.id in self.broken:
            raise ClipError(f"{clip.id}: cannot be read")
        rng = np.random.default_rng([self.seed, int(clip.id.split("-")[1])])
        height, width = self.size
        return ClipArrays(
            frames=rng.integers(0, 256, (clip.num_frames, height, width, 3), dtype=np.uint8),
            labels=rng.integers(0, 2, (clip.num_frames, height, width), dtype=np.uint8),
            waveform=rng.normal(0, 0.1, 16_000 * clip.num_frames),
        )
