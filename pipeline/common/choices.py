"""Words that commands and the pipeline both take. Imports nothing heavy, so that the command line starts quickly."""

from typing import Literal, get_args

Sound = Literal["right", "swapped", "silent", "noise"]
SOUNDS: tuple[Sound, ...] = get_args(Sound)
MaskFormat = Literal["png", "coco", "zarr"]
MaskSize = Literal["video", "network"]
EveryFrame = Literal["interpolate", "segment"]
