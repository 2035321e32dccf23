"""The sound that clips are scored with: their own, or a wrong one as a control."""

from collections.abc import Callable

import numpy as np

from ...data.clip import Clip
from ...data.dataset import ClipDataset, Sample
from ...errors import BadInput
from ..common.choices import Sound


def sound_source(dataset: ClipDataset, sound: Sound) -> Callable[[int, Sample], np.ndarray]:
    """A function from a sample's index and the sample to the audio features [T, D] that it is scored with.

    swapped: those of another clip of the same length. silent, noise: the control features of silence and of white
    noise in the audio cache. Raises `BadInput` when there is no clip to swap with.
    """
    if sound == "right":
        return lambda index, sample: sample.features
    if sound == "swapped":
        partners = swap_partners([dataset.clip(i) for i in range(len(dataset))])
        return lambda index, sample: dataset[partners[index]].features
    control = np.array(dataset.audio.control_features["silence" if sound == "silent" else "noise"], np.float32)
    return lambda index, sample: np.resize(control, sample.features.shape)


def swap_partners(clips: list[Clip]) -> list[int]:
    """For every clip another one of the same length, with other objects if there is any: the next in the list."""
    partners = []
    for index, clip in enumerate(clips):
        others = [(index + k) % len(clips) for k in range(1, len(clips))]
        others = [i for i in others if clips[i].num_frames == clip.num_frames]
        if not others:
            raise BadInput(f"clip {clip.id} has no other clip of {clip.num_frames} frames to swap its sound with")
        differing = (i for i in others if not set(clips[i].objects) & set(clip.objects))
        partners.append(next(differing, others[0]))
    return partners
