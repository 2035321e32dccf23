"""The synthetic audio-visual set: exact truth, any number of clips, no files, and it needs ears.

Every clip shows two to four objects of different kinds, and only some of them sound: sampled independently of all that
is visible, so a network that ignores the sound can only guess. A clip is a pure function of (flavour, seed, index,
size).

Timing follows AVSBench. Frame k is the picture at k + 15/16 s; the k-th log-mel example covers 0.96 k to 0.96 k +
0.975 s. The sounding objects change only where examples meet, at 0.96 k + 0.0075 s, so example k holds just the sounds
that the label of frame k shows.

Letters: T frames, N objects of a scene, K kinds of object, H = W = size pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....base import IGNORE_LABEL
from ....errors import BadInput, ClipError
from ...clip import FRAME_OFFSET, Clip, ClipArrays, ShortAudio
from ..avsbench.labels import BINARY_CLASSES
from .scene import KINDS, MAX_OBJECTS, Scene, draw_scene, render
from .sound import mix

Flavour = Literal["s4", "ms3", "avss"]

VERSION = 1  # raise it whenever the arrays of any clip change
EXAMPLE_STEP = 0.96  # seconds from one log-mel example to the next
SILENT_SECONDS = 0.07  # probability
MIN_SIZE = 32  # pixels; below, objects are specks
STREAMS = {"s4": 0, "ms3": 1, "avss": 2, "video": 3}  # so that each flavour has its own scenes
SPLIT_PATTERN = ("train", "val", "test", "train", "train", "train", "test", "train", "train", "train")
SUBSET_PATTERN = {"s4": ("s4",), "ms3": ("ms3",), "avss": ("v1s", "v1m", "v2")}
SINGLE_SOURCE = ("s4", "v1s")  # one object sounds throughout; training clips are annotated in frame 0 only
S4_CATEGORIES = {  # AVSBench's folder names
    "bird": "mynah_bird_singing",
    "car": "race_car",
    "dog": "dog_barking",
    "guitar": "playing_acoustic_guitar",
    "helicopter": "helicopter",
    "woman": "female_singing",
}


@dataclass(frozen=True)
class SceneTruth:
    """What is visible and audible in a clip, including the objects that do not sound.

    segments: uint8 [T, H, W]: the kind (1..K) of the object visible at each pixel, 0 for background.
    sounding: bool [T, K + 1]: which kinds sound during each frame's second; column 0 is always False.
    scene: the objects with their places, sizes and motions, back to front.
    """

    segments: np.ndarray
    sounding: np.ndarray
    scene: Scene

    def labels(self, *, semantic: bool) -> np.ndarray:
        """uint8 [T, H, W]: the visible pixels of the sounding objects, as their kind or all as 1."""
        heard = self.sounding[np.arange(len(self.segments))[:, None, None], self.segments]
        return np.where(heard, self.segments, 0).astype(np.uint8) if semantic else heard.astype(np.uint8)


class SyntheticSource:
    """A `ClipSource` of `clips` synthetic clips.

    Labels as in AVSBench: "s4" has one sounding object per clip, labelled 1, and train clips are annotated in frame 0
    only; "ms3" none to two at a time, labelled 1; "avss" is a third each of such clips (v1s, v1m) and changing 10-frame
    clips (v2), labelled by kind. Splits are 70/10/20 by index, the same at any number of clips.

    Raises `BadInput` for an unknown flavour, no clips, a negative seed or frames below 32 pixels.
    """

    short_audio: ShortAudio = "silence"  # never needed: the sound always lasts as long as the clip

    def __init__(self, flavour: Flavour, clips: int, seed: int, size: int = 224) -> None:
        if flavour not in SUBSET_PATTERN:
            raise BadInput(f"no synthetic flavour {flavour!r}; there are {', '.join(SUBSET_PATTERN)}")
        if clips < 1 or seed < 0 or size < MIN_SIZE:
            due = f"at least 1 clip, a seed of 0 or more and frames of at least {MIN_SIZE} pixels"
            raise BadInput(f"clips={clips}, seed={seed}, size={size}: a synthetic set needs {due}")
        self.name = f"synthetic-{flavour}"
        self.classes: tuple[str, ...] = ("background", *KINDS) if flavour == "avss" else BINARY_CLASSES
        self.size = (size, size)
        self.parameters = {"flavour": flavour, "seed": seed, "size": size, "clips": clips, "version": VERSION}
        self._flavour = flavour
        self._seed = seed
        self.clips = tuple(self._describe(index) for index in range(clips))
        self._index = {clip.id: index for index, clip in enumerate(self.clips)}

    def read(self, clip: Clip) -> ClipArrays:
        """The arrays of one of `self.clips`, found by its id. Raises `ClipError` for any other."""
        if clip.id not in self._index:
            raise ClipError(f"{self.name} with {len(self.clips)} clips has no clip {clip.id!r}")
        index = self._index[clip.id]
        clip = self.clips[index]
        truth, frames = self._look(index)
        labels = truth.labels(semantic=self._flavour == "avss")
        labels[~np.array(clip.frame_annotated)] = IGNORE_LABEL
        kinds, plan = self._cast(index, clip.subset)
        sound_rng = _streams(self._seed, index, self._flavour)[2]
        waveform = mix(sound_rng, _names(kinds), plan, EXAMPLE_STEP, clip.num_frames)
        return ClipArrays(frames, labels, waveform)

    def scene(self, index: int) -> SceneTruth:
        """The ground truth of clip `index`, also for frames that `read` leaves unlabelled."""
        return self._look(index)[0]

    def _describe(self, index: int) -> Clip:
        subsets = SUBSET_PATTERN[self._flavour]
        subset, split = subsets[index % len(subsets)], SPLIT_PATTERN[index % len(SPLIT_PATTERN)]
        kinds, plan = self._cast(index, subset)
        heard = tuple(sorted(KINDS[kind - 1] for kind, on in zip(kinds, plan.T, strict=True) if on.any()))
        only_first = subset in SINGLE_SOURCE and split == "train"
        name = f"synth-{self._flavour}-{index:06d}"
        return Clip(
            id=name,
            subset=subset,
            split=split,
            objects=(S4_CATEGORIES[heard[0]],) if subset == "s4" else heard,
            frame_times=tuple(k + FRAME_OFFSET for k in range(len(plan))),
            frame_valid=(True,) * len(plan),
            frame_annotated=tuple(k == 0 or not only_first for k in range(len(plan))),
            source=name,
        )

    def _cast(self, index: int, subset: str) -> tuple[tuple[int, ...], np.ndarray]:
        seconds = 10 if subset == "v2" else 5
        rng = _streams(self._seed, index, self._flavour)[0]
        return _cast(rng, seconds, changing=subset not in SINGLE_SOURCE)

    def _look(self, index: int) -> tuple[SceneTruth, np.ndarray]:
        """The truth and the frames."""
        clip = self.clips[index]
        kinds, plan = self._cast(index, clip.subset)
        scene = draw_scene(_streams(self._seed, index, self._flavour)[1], kinds, clip.num_frames)
        frames, segments = render(scene, np.array(clip.frame_times), self.size[0])
        return SceneTruth(segments, _by_kind(kinds, plan), scene), frames


@dataclass(frozen=True)
class SyntheticVideo:
    """A scene at full frame rate, with sound that changes at whole seconds.

    sounding: bool [seconds, K + 1]: which kinds sound during each second.
    waveform: float64 [seconds * 16000], 16 kHz.
    """

    scene: Scene
    sounding: np.ndarray
    waveform: np.ndarray
    fps: float
    size: int

    def frames(self) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] RGB, `fps` per second; frame i is the picture at i / fps seconds."""
        for i in range(round(len(self.sounding) * self.fps)):
            yield render(self.scene, np.array([i / self.fps]), self.size)[0][0]


def render_video(seed: int, seconds: int, fps: float = 25, size: int = 224) -> SyntheticVideo:
    """A video of any whole number of seconds like the "avss" clips, a pure function of its arguments.

    Raises `BadInput` for a negative seed, no seconds, no frame rate, or frames below 32 pixels.
    """
    if seed < 0 or seconds < 1 or fps <= 0 or size < MIN_SIZE:
        due = f"a seed of 0 or more, at least 1 second, a positive frame rate and frames of at least {MIN_SIZE} pixels"
        raise BadInput(f"seed={seed}, seconds={seconds}, fps={fps}, size={size}: a synthetic video needs {due}")
    cast_rng, scene_rng, sound_rng = _streams(seed, 0, "video")
    kinds, plan = _cast(cast_rng, seconds, changing=True)
    scene = draw_scene(scene_rng, kinds, seconds)
    waveform = mix(sound_rng, _names(kinds), plan, 1.0, seconds)
    return SyntheticVideo(scene, _by_kind(kinds, plan), waveform, fps, size)


def _streams(seed: int, index: int, flavour: str) -> list[np.random.Generator]:
    """Independent random generators for the choice of objects, the images and the sound of one clip."""
    children = np.random.SeedSequence([seed, index, STREAMS[flavour]]).spawn(3)
    return [np.random.default_rng(child) for child in children]


def _cast(rng: np.random.Generator, seconds: int, *, changing: bool) -> tuple[tuple[int, ...], np.ndarray]:
    """Which kinds are visible, back to front, and which of them sound: bool [seconds, N].

    Both are sampled independently of each other, so every kind and every depth sounds equally often among N.
    """
    count = int(rng.integers(2, MAX_OBJECTS + 1))
    kinds = tuple(int(k) + 1 for k in rng.permutation(len(KINDS))[:count])
    plan = np.zeros((seconds, count), bool)
    if not changing:
        plan[:, rng.integers(count)] = True
        return kinds, plan
    for k in range(seconds):
        before = plan[max(0, k - 1)]
        plan[k] = before if k and rng.random() < 0.5 else _another(rng, before)
    silent = rng.random(seconds) < SILENT_SECONDS
    silent[rng.integers(seconds)] = False  # no clip is silent throughout
    plan[silent] = False
    return kinds, plan


def _another(rng: np.random.Generator, before: np.ndarray) -> np.ndarray:
    """bool [N]: one sounding object, or (of three and more) two, but not the same choice as before."""
    while True:
        heard = 2 if len(before) > 2 and rng.random() < 0.4 else 1
        choice = np.zeros(len(before), bool)
        choice[rng.permutation(len(before))[:heard]] = True
        if (choice != before).any():
            return choice


def _by_kind(kinds: tuple[int, ...], plan: np.ndarray) -> np.ndarray:
    """bool [seconds, N] -> bool [seconds, K + 1]."""
    sounding = np.zeros((len(plan), len(KINDS) + 1), bool)
    sounding[:, kinds] = plan
    return sounding


def _names(kinds: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(KINDS[kind - 1] for kind in kinds)
