"""Words that commands and the pipeline both take. Imports nothing heavy, so that the command line starts quickly."""

from typing import Literal

Sound = Literal["right", "swapped", "silent", "noise"]
MaskFormat = Literal["png", "coco", "zarr"]
MaskSize = Literal["video", "network"]
EveryFrame = Literal["interpolate", "segment"]
