"""Words that commands and the pipeline both take. Imports nothing heavy, so that the command line starts quickly."""

from dataclasses import dataclass
from typing import Literal, get_args

Sound = Literal["right", "swapped", "silent", "noise"]
SOUNDS: tuple[Sound, ...] = get_args(Sound)
MaskFormat = Literal["png", "coco", "zarr"]
MaskSize = Literal["video", "network"]
EveryFrame = Literal["interpolate", "segment"]


@dataclass(frozen=True)
class Outputs:
    """What is written for a video.

    every_frame: a mask for every picture, either interpolated between those of the seconds, or segmented in that
    picture. mask_size: in pixels of the upright video, or of the network. replace: remove masks of an earlier call that
    cannot stay beside these.
    """

    masks: MaskFormat = "png"
    mask_size: MaskSize = "video"
    every_frame: EveryFrame | None = None
    replace: bool = False
