"""Small stand-ins that behave like the real things: clips of noise, and a generator of known cost and faults."""

import os
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from combo_avs.base import Section
from combo_avs.data.clip import Clip, ClipArrays, ShortAudio
from combo_avs.errors import ClipError
from combo_avs.model.builders import Entry
from combo_avs.model.foundation import GENERATORS
from combo_avs.model.foundation.interface import Proposals


class NoiseSource:
    """Clips of random pixels and sound, half of them 10 frames long; `broken` names clips that cannot be read."""

    classes = ("background", "sounding")
    short_audio: ShortAudio = "silence"

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


EXACT = {"precision": "fp32"}  # of the fake


class FakeConfig(Section):
    """A generator of known cost and known faults. Frames are named by the sum of their pixels, see `frame_name`."""

    seconds_per_frame: float = 0.0
    masks: int = 3  # per frame
    raises_on: tuple[int, ...] = ()
    kills_on: tuple[int, ...] = ()  # the process dies, as from a crash in native code
    kills: int = 1_000_000  # how often, before it is over
    loses_device_on: tuple[int, ...] = ()
    fits: int = 1_000_000  # frames per call; more are out of memory
    marks: str | None = None  # folder in which "start-<pid>" and "kill-<pid>" are left
    untrained: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: stripes are a pixel wider


class FakeGenerator:
    """`ProposalGenerator` of vertical stripes whose width depends on the frame."""

    version = "1"
    weights_sha256 = None

    def __init__(self, config: FakeConfig) -> None:
        self.config = config
        self.name = "untrained-fake" if config.untrained else "fake"
        self.parameters = config.model_dump(mode="json", include={"masks", "precision"})
        self._mark("start")

    def _mark(self, what: str) -> None:
        if self.config.marks is not None:
            Path(self.config.marks, f"{what}-{os.getpid()}").touch()

    def _marks(self, what: str) -> int:
        return len(list(Path(self.config.marks).glob(f"{what}-*")))

    def __call__(self, frames: torch.Tensor) -> list[Proposals]:
        names = [frame_name(f) for f in frames.cpu().numpy()]
        deadly = not set(names).isdisjoint(self.config.kills_on)
        if deadly and (self.config.marks is None or self._marks("kill") < self.config.kills):
            self._mark("kill")
            os._exit(1)
        if not set(names).isdisjoint(self.config.loses_device_on):
            raise torch.AcceleratorError("the device is lost")
        if len(frames) > self.config.fits:
            raise torch.OutOfMemoryError("out of memory")
        if bad := set(names).intersection(self.config.raises_on):
            raise ValueError(f"cannot look at frame {min(bad)}")
        time.sleep(self.config.seconds_per_frame * len(frames))
        return [self._stripes(name, *frame.shape[:2]) for name, frame in zip(names, frames, strict=True)]

    def _stripes(self, name: int, height: int, width: int) -> Proposals:
        k = self.config.masks
        edges = (torch.arange(k) * 7 + name) % (width - 1) + (2 if self.config.precision == "bf16" else 1)
        masks = (torch.arange(width) < edges[:, None])[:, None].expand(k, height, width)
        boxes = torch.stack([torch.zeros(k), torch.zeros(k), edges - 1, torch.full((k,), height - 1)], dim=1)
        return Proposals(masks, torch.ones(k), torch.ones(k), boxes.int(), torch.zeros(k, 2), edges * height)

    def to(self, device: torch.device) -> "FakeGenerator":
        return self


def frame_name(frame: np.ndarray) -> int:
    """What `FakeConfig` calls a frame, uint8 [H, W, 3]."""
    return int(frame.sum())


def dask_setup(worker: object) -> None:
    """Dask calls this in workers that preload this file: it makes the fake known there."""
    GENERATORS["fake"] = Entry(FakeConfig, FakeGenerator, EXACT)


PRELOAD = {"distributed.worker.preload": [__file__]}  # Dask config for workers that know the fake
